"""``moesim report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from moesim.cli.checks import check_output
from moesim.cli.codes import DOES_NOT_FIT
from moesim.cli.progress import counted, progress_of
from moesim.cli.scenarios import scenario_arguments, scenario_of
from moesim.cli.values import slo_of
from moesim.errors import DoesNotFit


def report_command(commands: Any) -> None:
    about = "everything about a scenario as one page that needs no network: numbers, pictures, where they come from"
    command = commands.add_parser("report", help=about, description=about)
    scenario_arguments(command)
    command.add_argument("-o", "--output", type=Path, required=True, help="an .html file")
    command.add_argument("--slo", default="", help="under load: limits for goodput in ms, like 'ttft:300 tpot:20'")
    command.add_argument("--metric", default="mean_tpot_ms", help="whose sensitivity is shown; default: mean_tpot_ms")
    command.add_argument("--no-sensitivity", action="store_true", help="leave out which parameters move it")
    command.add_argument("-j", "--jobs", type=int, default=0, help="processes; 0, the default, is all processors")
    command.set_defaults(run=_report)


def _report(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.explore.pool import check_pool
    from moesim.explore.tornado import check_metric, tornado
    from moesim.prediction import predict
    from moesim.report.html.page import report_html
    from moesim.report.html.watch import Watch
    from moesim.report.text import does_not_fit_text

    check_output(options.output, {".html"}, "--output")
    check_pool(options.jobs, "processes", None)
    scenario, watch = scenario_of(options, rest), Watch()
    if not options.no_sensitivity:
        check_metric(scenario, options.metric)
    under_load = scenario.workload.arrivals != "batch"
    try:
        with progress_of(scenario) as progress:
            timeline = watch if under_load else None
            prediction = predict(scenario, slo_of(options.slo), timeline, progress)
    except DoesNotFit as error:
        print(does_not_fit_text(error))
        return DOES_NOT_FIT
    moved = None
    if not options.no_sensitivity:
        with counted() as told:
            moved = tornado(scenario, options.metric, jobs=options.jobs, told=told)
    report_html(prediction, options.output, watch if under_load else None, moved)
    print(options.output)
    print(f"{options.output.stat().st_size / 1e3:,.0f} kB, no network needed", file=sys.stderr)
    return 0
