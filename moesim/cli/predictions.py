"""``moesim predict`` and ``moesim sweep``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from moesim.cli.checks import check_output, require
from moesim.cli.codes import DOES_NOT_FIT, EXTRAPOLATED
from moesim.cli.offload import check_lanes
from moesim.cli.parallel import parallel_arguments
from moesim.cli.progress import counted, progress_of
from moesim.cli.scenarios import say, scenario_arguments, scenario_of
from moesim.cli.values import EPILOG, axes, slo_of
from moesim.errors import DoesNotFit, Problem, SpecError
from moesim.inputs.scenario import Scenario

_REASONS = 5
"""Of rows that do not fit, told at most."""


def predict_command(commands: Any) -> None:
    about = "latency, throughput and memory of a scenario"
    command = commands.add_parser("predict", help=about, description=about, epilog=EPILOG)
    scenario_arguments(command)
    command.add_argument("--explain", action="store_true", help="print the cost tree")
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.add_argument("--economy", action="store_true", help="power, energy, and what a million tokens cost")
    command.add_argument("--prices", type=Path, help="with --economy: a table of prices, instead of hwspecs/prices.csv")
    command.add_argument("--price-per-gpu-hour", type=float, help="with --economy: dollars, instead of a table")
    command.add_argument("--strict", action="store_true", help="fail where the prediction leaves the fitted range")
    command.add_argument("--slo", default="", help="under load: limits for goodput in ms, like 'ttft:300 tpot:20'")
    command.add_argument("--steady", action="store_true", help="under load: the steady state in closed form, instant")
    command.add_argument(
        "--lanes", type=Path, help="offloaded: a decode step's lanes as .png, .svg or Chrome-trace .json"
    )
    command.add_argument("--timeline", type=Path, help="under load: every step and request as Chrome-trace JSON")
    command.set_defaults(run=_predict)


def sweep_command(commands: Any) -> None:
    about = "predict every combination of settings into a CSV or Parquet file"
    command = commands.add_parser("sweep", help=about, description=about, epilog=EPILOG)
    scenario_arguments(command)
    command.add_argument(
        "--axis", action="append", default=[], required=True, metavar="NAME=VALUES",
        help="values to try: 1,2,4 or 64:1024:64 (first:last:step)",
    )  # fmt: skip
    command.add_argument(
        "-o", "--output", type=Path, required=True, help="a .csv or .parquet file; what was stopped goes on"
    )
    command.add_argument("--json", action="store_true", help="print what was written as JSON")
    command.add_argument(
        "--simulate", action="store_true", help="under load, simulate every point; else means in closed form"
    )
    parallel_arguments(command)
    command.set_defaults(run=_sweep)


def _predict(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.outcome import Offloaded
    from moesim.prediction import predict, predict_steady

    notes: list[str] = []
    scenario = scenario_of(options, rest, notes)
    slo, timeline = slo_of(options.slo), _timeline(options.timeline)
    _check_economy(options, scenario)
    if options.lanes is not None:
        check_lanes(options.lanes, scenario)
    given = [n for n in ("slo", "timeline", "steady") if getattr(options, n)]
    if scenario.workload.arrivals == "batch" and given:
        name = f"--{given[0]}"
        message = "means nothing to a static batch; give --max-concurrency or --request-rate"
        raise SpecError([Problem(message, name)])
    if options.steady and (options.slo or options.timeline):
        raise SpecError([Problem("a steady state has means alone: leave out --slo and --timeline", "--steady")])
    try:
        with progress_of(scenario) as progress:
            steady = options.steady
            prediction = predict_steady(scenario) if steady else predict(scenario, slo, timeline, progress)
    except DoesNotFit as error:
        say(notes)
        _print_does_not_fit(error, options.json)
        return DOES_NOT_FIT
    known = prediction.knowledge
    command = tuple(f"command: {note}" for note in notes)
    prediction = replace(prediction, knowledge=replace(known, notes=(*known.notes, *command)))
    if options.strict and prediction.knowledge.outside:
        for note in prediction.knowledge.outside:
            print(f"moesim: --strict: {note}", file=sys.stderr)
        return EXTRAPOLATED
    if timeline:
        where = timeline.write(options.timeline)
        cut = f" ({timeline.dropped:,} events beyond what one file takes are left out)" if timeline.dropped else ""
        print(f"{where}: open it in https://ui.perfetto.dev or chrome://tracing{cut}", file=sys.stderr)
    if options.lanes is not None and isinstance(prediction, Offloaded):
        from moesim.report.lanes_picture import write_lanes

        print(write_lanes(prediction.offload, options.lanes), file=sys.stderr)
    if options.json:
        from moesim.report.as_json import prediction_data

        print(json.dumps({**prediction_data(prediction), **_economy_data(options, prediction)}, indent=1))
        return 0
    from moesim.report.load_text import shown
    from moesim.report.text import explain_text

    print(shown(prediction))
    if options.explain:
        print("\n" + explain_text(prediction))
    if options.economy:
        from moesim.explore.economy import economy
        from moesim.report.economy_text import economy_text

        print("\n" + economy_text(economy(prediction, options.prices), options.price_per_gpu_hour))
    return 0


def _economy_data(options: argparse.Namespace, prediction: Any) -> dict[str, Any]:
    if not options.economy:
        return {}
    from moesim.explore.economy import economy
    from moesim.report.economy_text import economy_data

    return {"economy": economy_data(economy(prediction, options.prices), options.price_per_gpu_hour)}


def _check_economy(options: argparse.Namespace, scenario: Scenario) -> None:
    if options.economy:
        from moesim.explore.economy import check_economy

        check_economy(scenario)
    price = options.price_per_gpu_hour
    for name, value in (("--prices", options.prices), ("--price-per-gpu-hour", price)):
        if value is not None and not options.economy:
            raise SpecError([Problem("has a part only with --economy", name)])
    if price is not None and not 0 < price < 1e6:
        message = f"{price:g} is no price; dollars above 0, up to 1e6, are accepted"
        raise SpecError([Problem(message, "--price-per-gpu-hour")])
    if price is not None and options.prices is not None:
        raise SpecError([Problem("a table and a price say the same thing; keep one", "--prices")])
    if options.prices is not None:
        from moesim.inputs.prices_file import read_prices

        read_prices(options.prices)


def _timeline(path: Path | None) -> Any:
    if path is None:
        return None
    check_output(path, {".json"}, "--timeline")
    from moesim.report.timeline import ChromeTimeline

    return ChromeTimeline()


def _print_does_not_fit(error: DoesNotFit, as_json: bool) -> None:
    if as_json:
        from moesim.report.as_json import does_not_fit_data

        print(json.dumps(does_not_fit_data(error), indent=1))
        return
    from moesim.report.text import does_not_fit_text

    print(does_not_fit_text(error))


def _sweep(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.explore.pool import check_pool
    from moesim.explore.sweeps import sweep_into

    check_output(options.output, {".csv", ".parquet"}, "--output")
    require("pandas", "pyarrow")
    check_pool(options.jobs, options.backend, options.scheduler)
    swept = axes(options.axis)
    scenario = scenario_of(options, rest)
    with counted() as told:
        found = sweep_into(
            options.output, scenario, swept, lambda done, of: told("points", done, of), options.jobs, options.backend,
            options.scheduler, options.simulate,
        )  # fmt: skip
    most = found.problems.most_common(_REASONS)
    if options.json:
        problems = [{"problem": problem, "points": many} for problem, many in found.problems.most_common()]
        data = {"output": str(found.path), "points": found.points, "fit": found.fit, "problems": problems,
                "doubts": [{"doubt": doubt, "points": many} for doubt, many in found.doubts.most_common()]}  # fmt: skip
        print(json.dumps(data, indent=1))
        return 0
    again = f" ({found.resumed:,} of an earlier run)" if found.resumed else ""
    print(f"{found.points} points, {found.fit} of them fit: {found.path}{again}")
    for problem, many in most:
        print(f"  {many} not: {problem}")
    if found.doubts:
        (reason, of_it), many = found.doubts.most_common(1)[0], sum(found.doubts.values())
        print(f"  means in closed form, {many} in doubt (column doubt; {of_it}: {reason}); --simulate runs every point")
    return 0
