"""``moesim validate`` and ``moesim capacity``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from moesim.cli.values import EPILOG, overrides, slo_of
from moesim.errors import Problem, SpecError


def validate_command(commands: Any) -> None:
    about = "predict measured runs and write predictions beside measurements: errors, coverage, the worst rows"
    command = commands.add_parser("validate", help=about, description=about)
    command.add_argument(
        "runs", type=Path, nargs="*", help="run sets (.yaml with a .csv beside it); default: all shipped"
    )
    command.add_argument("-o", "--output", type=Path, help="folder for served.md, served.json and the plot")
    command.set_defaults(run=_validate)


def capacity_command(commands: Any) -> None:
    about = "the largest concurrency or request rate that keeps an SLO"
    command = commands.add_parser("capacity", help=about, description=about, epilog=EPILOG)
    command.add_argument("scenario", type=Path)
    command.add_argument("--slo", required=True, help="limits in ms, like 'ttft:300 tpot:20'")
    command.add_argument("--of", choices=("concurrency", "rate"), help="what to raise; default: what the scenario has")
    command.add_argument("--statistic", default="p90", choices=("mean", "median", "p90", "p99"))
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting")
    command.set_defaults(run=_capacity)


def _validate(options: argparse.Namespace, rest: list[str]) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from moesim.report.served import docs, figures_of, headline, write_served
    from moesim.validate import validate

    for path in options.runs:
        if path.suffix not in {".yaml", ".yml"} or not path.is_file():
            raise SpecError(
                [Problem("is not a run set: a .yaml file with a .csv of the same name beside it", str(path))]
            )
    if options.output and not options.output.is_dir():
        raise SpecError([Problem(f"there is no folder '{options.output}' to write into", "--output")])
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("runs", total=None)
        sets, found = validate(options.runs or None, lambda done, of: bar.update(task, completed=done, total=of))
    print("\n".join(headline(sets, {group.name: figures_of(group, found) for group in sets})))
    if options.output or not options.runs:
        for path in write_served(sets, found, options.output or docs()):
            print(path, file=sys.stderr)
    return 0


def _capacity(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.capacity import capacity
    from moesim.report.capacity_text import capacity_text
    from moesim.spec.loading import load

    scenario = load(options.scenario, overrides(options.set, rest))
    found = capacity(scenario, slo_of(options.slo), options.of, options.statistic)
    print(capacity_text(found))
    return 0
