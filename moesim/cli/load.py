"""``moesim validate``, ``moesim import-bench`` and ``moesim capacity``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from moesim.cli.codes import DOES_NOT_FIT
from moesim.cli.progress import counted
from moesim.cli.scenarios import scenario_arguments, scenario_of
from moesim.cli.values import slo_of
from moesim.errors import DoesNotFit, Problem, SpecError
from moesim.files import yaml


def validate_command(commands: Any) -> None:
    about = "predict measured runs and write predictions beside measurements: errors, coverage, the worst rows"
    command = commands.add_parser("validate", help=about, description=about)
    command.add_argument("runs", type=Path, nargs="*", help="run sets (.yaml and .csv); default: all that ship")
    command.add_argument("-o", "--output", type=Path, help="folder for served.md, served.json and the plot")
    command.add_argument(
        "--first-look", type=Path, help="write predictions alone into this .csv, to be committed before comparing"
    )
    command.set_defaults(run=_validate)


def bench_command(commands: Any) -> None:
    about = "turn results of a benchmark client into a run set that validate reads"
    command = commands.add_parser("import-bench", help=about, description=about)
    command.add_argument(
        "results", type=Path, nargs="+", help="results as clients save them: vLLM, SGLang, GuideLLM, AIPerf, InferenceX"
    )
    command.add_argument("--scenario", type=Path, required=True, help="what served: model, hardware, engine")
    command.add_argument("--title", default="my runs")
    command.add_argument("-o", "--output", type=Path, required=True, help="a .yaml file; the .csv goes beside it")
    command.set_defaults(run=_import_bench)


def capacity_command(commands: Any) -> None:
    about = "the largest concurrency or request rate that keeps an SLO"
    command = commands.add_parser("capacity", help=about, description=about)
    scenario_arguments(command)
    command.add_argument("--slo", required=True, help="limits in ms, like 'ttft:300 tpot:20'")
    command.add_argument("--of", choices=("concurrency", "rate"), help="what to raise; default: what the scenario has")
    command.add_argument("--statistic", default="p90", choices=("mean", "median", "p90", "p99"))
    command.add_argument("--json", action="store_true", help="print what was found as JSON")
    command.set_defaults(run=_capacity)


def _validate(options: argparse.Namespace, rest: list[str]) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from moesim.explore.validate import validate
    from moesim.report.served import docs, figures_of, headline, memory_lines, write_served

    for path in options.runs:
        if path.suffix not in {".yaml", ".yml"} or not path.is_file():
            message = "is no run set: a .yaml file with a .csv of the same name beside it; import-bench makes one"
            raise SpecError([Problem(message, str(path))])
    if options.output and not options.output.is_dir():
        raise SpecError([Problem(f"there is no folder '{options.output}' to write into", "--output")])
    if options.first_look:
        from moesim.explore.first_look import write_predictions
        from moesim.inputs.run_file import run_sets

        if options.first_look.exists() or not options.first_look.parent.is_dir():
            message = f"'{options.first_look}' must be a new file in a folder that exists: a first look is had once"
            raise SpecError([Problem(message, "--first-look")])
        print(write_predictions(options.runs or run_sets(), options.first_look))
        return 0
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("runs", total=None)
        sets, found = validate(options.runs or None, lambda done, of: bar.update(task, completed=done, total=of))
    print("\n".join(headline(sets, {group.name: figures_of(group, found) for group in sets})))
    if memory := memory_lines(sets):
        print("\n" + "\n".join(memory))
    if options.output or not options.runs:
        for path in write_served(sets, found, options.output or docs()):
            print(path, file=sys.stderr)
    return 0


def _import_bench(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.inputs.bench_file import import_bench

    if options.output.suffix != ".yaml" or not options.output.parent.is_dir():
        raise SpecError([Problem(f"'{options.output}' must be a .yaml file in a folder that exists", "--output")])
    for path in import_bench(options.results, options.scenario, options.title, options.output):
        print(path)
    for doubt in yaml.read(options.output).data.get("doubts") or ():
        print(f"note: {doubt}", file=sys.stderr)
    return 0


def _capacity(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.explore.capacity import capacity
    from moesim.report.capacity_text import capacity_data, capacity_text
    from moesim.report.text import does_not_fit_text

    scenario, slo = scenario_of(options, rest), slo_of(options.slo)
    try:
        with counted() as told:
            found = capacity(scenario, slo, options.of, options.statistic, told)
        print(json.dumps(capacity_data(found), indent=1) if options.json else capacity_text(found))
    except DoesNotFit as error:
        print(does_not_fit_text(error))
        return DOES_NOT_FIT
    return 0 if found.value else DOES_NOT_FIT
