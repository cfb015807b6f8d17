"""``moesim plan`` and ``moesim study``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from moesim.cli.checks import check_output, say_written
from moesim.cli.codes import DOES_NOT_FIT
from moesim.cli.values import EPILOG, overrides
from moesim.errors import Problem, SpecError


def plan_command(commands: Any) -> None:
    about = "every legal parallel plan on a number of GPUs, ranked, with the reason each loses"
    command = commands.add_parser("plan", help=about, description=about, epilog=EPILOG)
    command.add_argument("scenario", type=Path)
    command.add_argument(
        "--gpus",
        type=int,
        required=True,
        help="GPUs to use, all of them; TP, PP, DP, EP and the exchange are varied, other settings kept",
    )
    command.add_argument("--metric", default="output_throughput", help="what to rank by: any metric of predict --json")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting")
    command.add_argument("--explain", action="store_true", help="the best plan's traffic and cost tree")
    command.add_argument("--picture", type=Path, help="draw the best plan into a .png or .svg file")
    command.add_argument("-o", "--output", type=Path, help="every plan as .csv or .parquet")
    command.add_argument("--json", action="store_true", help="print every plan as JSON")
    command.set_defaults(run=_plan)


def study_command(commands: Any) -> None:
    about = "TP, PP and DP, with and without EP, over numbers of GPUs: a table and a picture"
    command = commands.add_parser("study", help=about, description=about)
    command.add_argument("scenarios", type=Path, nargs="+")
    command.add_argument("--gpus", default="1,2,4,8", help="numbers of GPUs, like 1,2,4,8")
    command.add_argument("-o", "--output", type=Path, required=True, help="folder for study.md and plots/study.png")
    command.set_defaults(run=_study)


def _plan(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.explore.frames import write_table
    from moesim.explore.plans import plans
    from moesim.inputs.loading import load
    from moesim.report.plan_text import plans_text, traffic_text
    from moesim.report.text import explain_text

    if options.gpus < 1:
        raise SpecError([Problem(f"{options.gpus} is not a number of GPUs; 1 or more is accepted", "--gpus")])
    if options.picture:
        check_output(options.picture, {".png", ".svg"}, "--picture")
    if options.output:
        check_output(options.output, {".csv", ".parquet"}, "--output")
    if options.json and options.explain:
        raise SpecError([Problem("--explain is text; give one of --json and --explain", "--explain")])
    found = plans(load(options.scenario, overrides(options.set, rest)), options.gpus, options.metric)
    # What is asked for on paper is there whatever becomes of a reader of the table.
    if options.output:
        write_table(found.to_frame(), options.output)
    print(json.dumps(found.rows(), indent=1) if options.json else plans_text(found, options.metric))
    best = found[0].prediction
    if best is None:
        return DOES_NOT_FIT
    if options.explain:
        print(f"\n{found[0].plan.describe()}:\n{traffic_text(best)}\n\n{explain_text(best)}")
    if options.picture:
        from moesim.report.plan_picture import draw_plan

        say_written(draw_plan(best, options.picture), options.json)
    return 0


def _study(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.inputs.loading import load
    from moesim.report.study import write_study

    gpus = [int(text) if text.isdigit() else 0 for text in options.gpus.split(",")]
    if min(gpus) < 1:
        raise SpecError([Problem(f"'{options.gpus}' is not a list of numbers, like 1,2,4,8", "--gpus")])
    for path in write_study([load(path) for path in options.scenarios], gpus, options.output):
        print(path)
    return 0
