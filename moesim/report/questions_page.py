"""Questions that people have, each answered by one command with its real output. Written by ``moesim questions``."""

from __future__ import annotations

import contextlib
import io
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from moesim.files import yaml
from moesim.paths import write_whole

_PAGE = "questions.md"
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
    return target


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
