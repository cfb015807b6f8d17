"""``moesim compare`` and ``moesim tornado``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from moesim.cli.checks import check_output, say_written
from moesim.cli.codes import DOES_NOT_FIT
from moesim.cli.progress import counted
from moesim.cli.scenarios import scenario_arguments, scenario_of
from moesim.cli.values import EPILOG, overrides, positional
from moesim.errors import DoesNotFit, Problem, SpecError


def compare_command(commands: Any) -> None:
    about = "two scenarios, or one under two settings, side by side: differences with intervals, and where time goes"
    command = commands.add_parser("compare", help=about, description=about)
    scenario_arguments(command)
    command.usage = f"{command.prog} A [B] [--a NAME=VALUE] [--b NAME=VALUE] [--setting VALUE ...] [options]"
    command.add_argument("--a", action="append", default=[], metavar="NAME=VALUE", help="a setting of the first alone")
    command.add_argument("--b", action="append", default=[], metavar="NAME=VALUE", help="a setting of the second alone")
    command.add_argument("-o", "--output", type=Path, help="every metric as .csv or .parquet")
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.set_defaults(run=_compare)


def tornado_command(commands: Any) -> None:
    about = "which parameter of hardware, model, engine or load moves a metric most, per cent by per cent"
    command = commands.add_parser("tornado", help=about, description=about, epilog=EPILOG)
    scenario_arguments(command)
    command.add_argument("--metric", default="mean_tpot_ms", help="a metric of predict --json; default: mean_tpot_ms")
    command.add_argument("--by", default="10%", help="how far each is moved, like 10%%; whole numbers by one at least")
    command.add_argument("-j", "--jobs", type=int, default=0, help="processes; 0, the default, is all processors")
    command.add_argument("--top", type=int, default=15, help="how many to print and draw")
    command.add_argument("-o", "--output", type=Path, help="every parameter as .csv or .parquet")
    command.add_argument("--picture", type=Path, help="bars as .png or .svg")
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.set_defaults(run=_tornado)


def _compare(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.explore.compare import compare
    from moesim.explore.frames import write_table
    from moesim.report.compare_text import compared_data, compared_text
    from moesim.report.text import does_not_fit_text

    if options.output:
        check_output(options.output, {".csv", ".parquet"}, "--output")
    files, others = positional(rest)
    if len(files) > 2:
        raise SpecError([Problem(f"'{files[2]}' is not expected here: two scenarios are compared", "command line")])
    if len(files) < 2 and not options.a and not options.b:
        message = "nothing to compare: give two scenarios, or one with --a NAME=VALUE or --b NAME=VALUE"
        raise SpecError([Problem(message, "command line")])
    first = scenario_of(options, [*files[:1], *others]).with_(**_own(options.a))
    second = scenario_of(options, [*files[-1:], *others]).with_(**_own(options.b))
    try:
        found = compare(first, second)
    except DoesNotFit as error:
        print(does_not_fit_text(error))
        return DOES_NOT_FIT
    print(json.dumps(compared_data(found), indent=1) if options.json else compared_text(found))
    if options.output:
        write_table(found.to_frame(), options.output)
    return 0


def _own(sets: list[str]) -> dict[str, Any]:
    return {name.replace("-", "_").replace(".", "__"): value for name, value in overrides(sets, []).items()}


def _tornado(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.explore.frames import write_table
    from moesim.explore.pool import check_pool
    from moesim.explore.tornado import tornado
    from moesim.report.text import does_not_fit_text
    from moesim.report.tornado_text import draw_tornado, tornado_data, tornado_text

    if options.output:
        check_output(options.output, {".csv", ".parquet"}, "--output")
    if options.picture:
        check_output(options.picture, {".png", ".svg"}, "--picture")
    if options.top < 1:
        raise SpecError([Problem(f"{options.top} is not a number of rows; 1 or more is accepted", "--top")])
    check_pool(options.jobs, "processes", None)
    by, scenario = _share(options.by), scenario_of(options, rest)
    try:
        with counted() as told:
            found = tornado(scenario, options.metric, by, options.jobs, told)
    except DoesNotFit as error:
        print(does_not_fit_text(error))
        return DOES_NOT_FIT
    print(json.dumps(tornado_data(found), indent=1) if options.json else tornado_text(found, options.top))
    if options.output:
        write_table(found.to_frame(), options.output)
    if options.picture:
        say_written(draw_tornado(found, options.picture, options.top), options.json)
    return 0


def _share(text: str) -> float:
    """``10%`` or ``0.1``."""
    try:
        return float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        raise SpecError([Problem(f"'{text}' is not a share, like 10% or 0.1", "--by")]) from None
