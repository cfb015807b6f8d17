"""``moesim questions``: writes the page of questions with their commands' real output."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError


def questions_command(commands: Any, main: Callable[[list[str]], int]) -> None:
    about = "run the commands of docs/questions.yaml and write docs/questions.md"
    command = commands.add_parser("questions", help=about, description=about)
    command.add_argument("-o", "--output", type=Path, required=True, help="the folder that holds questions.yaml")
    command.set_defaults(run=lambda options, rest: _questions(options, main))


def _questions(options: argparse.Namespace, main: Callable[[list[str]], int]) -> int:
    from moesim.report.questions_page import write_questions

    if not (options.output / "questions.yaml").is_file():
        raise SpecError([Problem(f"'{options.output}' holds no questions.yaml", "--output")])
    print(write_questions(options.output, main, lambda text: print(text, file=sys.stderr)))
    return 0
