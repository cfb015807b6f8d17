"""``moesim search``, ``moesim offload-study``, and what ``predict --lanes`` accepts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from moesim.cli.checks import check_output, gpu_range, say_written
from moesim.cli.codes import DOES_NOT_FIT
from moesim.cli.scenarios import scenario_arguments, scenario_of
from moesim.errors import Problem, SpecError
from moesim.inputs.scenario import Scenario
from moesim.models.plan import Plan


def search_command(commands: Any) -> None:
    about = "the best ways to run a model on a machine: systems, precisions and knobs under constraints"
    command = commands.add_parser("search", help=about, description=about)
    scenario_arguments(command)
    command.add_argument("--minimize", default="tpot", help="a metric: tpot, ttft, gpu_memory, perplexity, ...")
    command.add_argument(
        "--where", action="append", default=[], metavar="LIMIT", help="a constraint: 'gpu_memory <= 16 GiB'"
    )
    command.add_argument("--systems", default="", help="names to choose from, like fiddler,llama-cpp; default: all")
    command.add_argument("--quality", type=Path, help="a CSV of perplexity or accuracy by format, with sources")
    command.add_argument("--gpus", metavar="N", help="up to how many GPUs, or a range, like 2-4; else the scenario's")
    command.add_argument("--top", type=int, default=10, help="how many to print")
    command.add_argument("-o", "--output", type=Path, help="every configuration as a .csv file")
    command.add_argument("--picture", type=Path, help="time, memory and quality as .png or .svg")
    command.add_argument("--json", action="store_true", help="print the best, or what to relax, as JSON")
    command.set_defaults(run=_search)


def offload_study_command(commands: Any) -> None:
    about = "latency, memory and quality of a model under every offloading system: a table and a picture"
    command = commands.add_parser("offload-study", help=about, description=about)
    command.add_argument("scenario", type=Path)
    command.add_argument("-o", "--output", type=Path, required=True, help="folder for offload_study.md and its plot")
    command.set_defaults(run=_study)


def check_lanes(path: Path, scenario: Scenario) -> None:
    """Raise SpecError where lanes cannot be written."""
    if scenario.offload is None:
        raise SpecError([Problem("only a scenario with an offload section has lanes", "--lanes")])
    if scenario.workload.arrivals != "batch":
        raise SpecError([Problem("shows a step of a static batch; give batch_size", "--lanes")])
    check_output(path, {".png", ".svg", ".json"}, "--lanes")


def _search(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.explore.search import search
    from moesim.report.search_text import runner_up, search_text, write_csv

    if options.output:
        check_output(options.output, {".csv"}, "--output")
    if options.picture:
        check_output(options.picture, {".png", ".svg"}, "--picture")
    if options.top < 1:
        raise SpecError([Problem(f"{options.top} is not a number of rows; 1 or more is accepted", "--top")])
    scenario = scenario_of(options, rest)
    names = tuple(name for name in options.systems.split(",") if name)
    own = Plan.of(scenario.engine).world
    fewest, most = gpu_range(options.gpus) if options.gpus else (own, own)
    found = search(scenario, options.minimize, options.where, names, options.quality, range(fewest, most + 1))
    # A file is there whatever becomes of a reader of the table.
    written = [write_csv(found, options.output)] if options.output else []
    if options.json:
        best = found.rows()[: options.top] if found.kept else []
        data = {"minimized": found.minimized, "limits": [str(one) for one in found.constraints], "kept": found.kept,
                "at_best": found.at_best, "configurations": best, "advice": list(found.advice),
                "refused": list(found.refused), "runner_up": runner_up(scenario, found)}  # fmt: skip
        print(json.dumps(data, indent=1))
    else:
        print(search_text(scenario, found, options.top))
    for path in written:
        say_written(path, options.json)
    if options.picture:
        from moesim.report.front_picture import draw_front

        say_written(draw_front(found, options.picture), options.json)
    return 0 if found.best else DOES_NOT_FIT


def _study(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.inputs.loading import load
    from moesim.report.offload_study import write_offload_study

    if not options.output.is_dir():
        raise SpecError([Problem(f"there is no folder '{options.output}' to write into", "--output")])
    for path in write_offload_study(load(options.scenario), options.output):
        print(path)
    return 0
