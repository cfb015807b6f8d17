"""``moesim claims``: what papers say, put to the simulator."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError


def claims_command(commands: Any) -> None:
    about = "ask every claim of a file of the simulator: prediction, interval, verdict; or run one study"
    command = commands.add_parser("claims", help=about, description=about)
    command.add_argument(
        "file", type=Path, nargs="?", help="a CSV of claims, questions.yaml beside it; the project's own"
    )
    command.add_argument("--paper", default="", help="only of sources whose name has this in it")
    command.add_argument("--study", default="", help="one grid and its picture instead")
    command.add_argument("--model", help="with --study: another model")
    command.add_argument("--hardware", help="with --study: another machine")
    command.add_argument("-o", "--output", type=Path, help="a folder for claims.md and its pictures")
    command.set_defaults(run=_claims)


def _claims(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.explore.claims import questions_path, verdicts
    from moesim.inputs.claims_file import SHIPPED, read_claims, read_questions
    from moesim.report.claims_page import claims_text, write_claims

    def say(text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    questions = read_questions(questions_path(options.file))
    if options.output is not None and not options.output.is_dir():
        raise SpecError([Problem(f"there is no folder '{options.output}' to write into", "--output")])
    if options.study:
        return _study(options, questions, say)
    for name in ("model", "hardware"):
        if getattr(options, name):
            raise SpecError([Problem("has a part only with --study", f"--{name}")])
    claims = [c for c in read_claims(options.file or SHIPPED) if options.paper.lower() in c.source.lower()]
    if not claims:
        raise SpecError([Problem(f"no source has '{options.paper}' in its name", "--paper")])
    found = list(verdicts(claims, questions))
    print(claims_text(found))
    if options.output is not None:
        for path in write_claims(found, questions, options.output, say):
            print(path, file=sys.stderr)
    return 0


def _study(options: argparse.Namespace, questions: Any, say: Any) -> int:
    from moesim.report.claims_page import draw_study, study_rows, study_text

    study = questions.studies.get(options.study)
    if study is None:
        message = f"there is no study '{options.study}'; there are {', '.join(questions.studies)}"
        raise SpecError([Problem(message, "--study")])
    print(study_text(study, study_rows(study, options.model, options.hardware)))
    if options.output is not None:
        target = options.output / f"claims-{options.study}.png"
        print(draw_study(options.study, study, target, say, options.model, options.hardware), file=sys.stderr)
    return 0
