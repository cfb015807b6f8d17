"""Questions that people have, each answered by one command with its real output. Written by ``moesim questions``."""

from __future__ import annotations

import contextlib
import io
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from moesim.files import yaml
from moesim.files.writing import write_whole

_PAGE = "questions.md"
_BEGIN, _END = "<!-- the first of docs/questions.md -->", "<!-- written by moesim questions -->"
_ROWS = 10
_LONGEST = 60
"""Lines of an output that are shown."""


class Question(NamedTuple):
    """A question, what to type, and how to read the answer."""

    question: str
    command: str
    reading: str


def questions(folder: Path) -> list[Question]:
    """What ``questions.yaml`` beside the page asks."""
    data = yaml.read(folder / "questions.yaml").data
    return [Question(entry["question"], entry["command"], entry["reading"]) for entry in data["questions"]]


def write_questions(
    folder: Path, run: Callable[[list[str]], int], told: Callable[[str], None] = lambda text: None
) -> Path:
    """Run every command and write the page.

    Parameters
    ----------
    run : callable
        The command line: words after ``moesim``, which prints and returns an exit code.
    """
    lines = [
        "# Ten questions",
        "",
        "Written by `moesim questions -o docs` from `docs/questions.yaml`; do not edit. Each answer is what its",
        "command prints.",
        "",
    ]
    for number, asked in enumerate(questions(folder), 1):
        told(asked.question)
        lines += _answered(number, asked, run)
    target = folder / _PAGE
    write_whole(target, "\n".join(lines) + "\n")
    if (readme := folder.parent / "README.md").is_file():
        write_whole(readme, led(readme.read_text(encoding="utf-8"), target.read_text(encoding="utf-8")))
    return target


def led(readme: str, page: str) -> str:
    """A README whose part between the marks is the page's first question and answer, cut."""
    if _BEGIN not in readme or _END not in readme:
        return readme
    command, output = next(iter(answers(page).items()))
    shown = output.splitlines()
    counts = next(i for i, line in enumerate(shown) if "configurations considered" in line)
    sure = [line for line in shown if line.startswith("the first is the best")]
    # The answer, the first rows of its table, what was considered, and how sure it is.
    cut = [command, "", shown[2], "", *shown[4:_ROWS], "", shown[counts], *sure]
    block = "\n".join(f"    {line}" if line else "" for line in cut)
    before, _, rest = readme.partition(_BEGIN)
    return f"{before}{_BEGIN}\n\n{block}\n\n{_END}{rest.partition(_END)[2]}"


def _answered(number: int, asked: Question, run: Callable[[list[str]], int]) -> list[str]:
    words = shlex.split(asked.command)
    assert words[0] == "moesim", asked.command
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        code = run(words[1:])
    shown = printed.getvalue().rstrip().splitlines()
    cut = [*shown[:_LONGEST], f"... {len(shown) - _LONGEST} more lines"] if len(shown) > _LONGEST else shown
    if code:
        raise RuntimeError(f"'{asked.command}' ended with {code}")
    return [f"## {number}. {asked.question}", "", "```sh", asked.command, "```", "", asked.reading, "", "```text",
            *(line.rstrip() for line in cut), "```", ""]  # fmt: skip


def answers(page: str) -> dict[str, Any]:
    """Command -> output, of a page as it is written."""
    parts = page.split("```sh\n")[1:]
    return {part.split("\n```")[0]: part.split("```text\n")[1].split("\n```")[0] for part in parts}
