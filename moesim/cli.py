"""The command line. Exit codes: 0 done, 2 bad input, 3 does not fit, 4 outside the fits under --strict."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from moesim.errors import CalibrationError, DoesNotFit, Problem, SpecError

_FLAGS = {
    "enforce_eager", "enable_expert_parallel", "ep", "enable_dbo", "enable_eplb", "disable_custom_all_reduce",
}  # fmt: skip
"""Settings that are true when named without a value, as in vLLM."""
_MOST_VALUES = 1_000_000

BAD_INPUT, DOES_NOT_FIT, EXTRAPOLATED = 2, 3, 4


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Never shows a traceback for bad input."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in {"predict", "sweep", "plan"}:
        parser.error(f"unknown argument {rest[0]}")
    try:
        return options.run(options, rest)
    except SpecError as error:
        for problem in error.problems:
            print(f"moesim: {problem}", file=sys.stderr)
        return BAD_INPUT
    except CalibrationError as error:
        print(f"moesim: {error}", file=sys.stderr)
        return BAD_INPUT
    except ModuleNotFoundError as error:
        print(
            f"moesim: this needs the package '{error.name}'; install moesim[{_extra(options)}]",
            file=sys.stderr,
        )
        return BAD_INPUT
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"moesim: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return BAD_INPUT


def _extra(options: argparse.Namespace) -> str:
    return {"sweep": "sweep", "plan": "plots", "study": "plots"}.get(options.command, "calibrate")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="moesim", description="How fast a Mixture-of-Experts model runs, and why.")
    parser.set_defaults(run=lambda options, rest: parser.print_help() or 0)
    commands = parser.add_subparsers(dest="command", metavar="command")
    _predict_command(commands)
    _sweep_command(commands)
    _plan_command(commands)
    _study_command(commands)
    _calibration_commands(commands)
    for name, about, run in (
        ("models", "list the models of the catalogue", _models),
        ("hardware", "list the GPUs that ship", _hardware),
        ("schema", "print the JSON Schema of scenario files, for editors", _schema),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
    return parser


_OVERRIDES = "any setting can be overridden: --batch-size 8, --tensor-parallel-size 8, --tp 8, --set routing.kind=zipf"


def _predict_command(commands: Any) -> None:
    about = "latency, throughput and memory of a scenario"
    command = commands.add_parser("predict", help=about, description=about, epilog=_OVERRIDES)
    command.add_argument("scenario", type=Path)
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting")
    command.add_argument("--explain", action="store_true", help="print the cost tree")
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.add_argument("--strict", action="store_true", help="fail where the prediction leaves the fitted range")
    command.set_defaults(run=_predict)


def _sweep_command(commands: Any) -> None:
    about = "predict every combination of settings into a CSV or Parquet file"
    command = commands.add_parser("sweep", help=about, description=about, epilog=_OVERRIDES)
    command.add_argument("scenario", type=Path)
    command.add_argument(
        "--axis", action="append", default=[], required=True, metavar="NAME=VALUES",
        help="values to try: 1,2,4 or 64:1024:64 (first:last:step)",
    )  # fmt: skip
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting")
    command.add_argument("-o", "--output", type=Path, required=True, help="a .csv or .parquet file")
    command.set_defaults(run=_sweep)


def _plan_command(commands: Any) -> None:
    about = "every legal parallel plan on a number of GPUs, ranked, with the reason each loses"
    command = commands.add_parser("plan", help=about, description=about, epilog=_OVERRIDES)
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
    command.set_defaults(run=_plan)


def _study_command(commands: Any) -> None:
    about = "TP, PP and DP, with and without EP, over numbers of GPUs: a table and a picture"
    command = commands.add_parser("study", help=about, description=about)
    command.add_argument("scenarios", type=Path, nargs="+")
    command.add_argument("--gpus", default="1,2,4,8", help="numbers of GPUs, like 1,2,4,8")
    command.add_argument("-o", "--output", type=Path, required=True, help="folder for study.md and plots/study.png")
    command.set_defaults(run=_study)


def _calibration_commands(commands: Any) -> None:
    for name, about, run, wheel, names in (
        ("import-tables", "extract kernel tables from an aiconfigurator-core wheel", _import_tables, True,
         ("gpu", "source-gpu", "stack")),
        ("import-tiles", "extract tuned fused-experts tiles from a vLLM wheel", _import_tiles, True,
         ("gpu", "device-name")),
        ("import-runs", "extract the dense runs the engine's host time is fitted on", _import_runs, True, ()),
        ("fit", "fit every kernel family to the imported tables", _fit, False, ("gpu", "stack", "only")),
        ("accuracy", "write the accuracy page and its plots under docs/", _accuracy, False, ("output",)),
    ):  # fmt: skip
        command = commands.add_parser(name, help=about, description=about)
        if wheel:
            command.add_argument("wheel", type=Path)
        for option in names:
            command.add_argument(f"--{option}", required=wheel, type=Path if option == "output" else str)
        command.set_defaults(run=run)


def _predict(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.prediction import predict
    from moesim.spec.loading import load

    scenario = load(options.scenario, _overrides(options.set, rest))
    try:
        prediction = predict(scenario)
    except DoesNotFit as error:
        _print_does_not_fit(error, options.json)
        return DOES_NOT_FIT
    if options.strict and prediction.outside:
        for note in prediction.outside:
            print(f"moesim: --strict: {note}", file=sys.stderr)
        return EXTRAPOLATED
    if options.json:
        from moesim.report.as_json import prediction_data

        print(json.dumps(prediction_data(prediction), indent=1))
        return 0
    from moesim.report.text import explain_text, prediction_text

    print(prediction_text(prediction))
    if options.explain:
        print("\n" + explain_text(prediction))
    return 0


def _print_does_not_fit(error: DoesNotFit, as_json: bool) -> None:
    if as_json:
        from moesim.report.as_json import does_not_fit_data

        print(json.dumps(does_not_fit_data(error), indent=1))
        return
    from moesim.report.text import does_not_fit_text

    print(does_not_fit_text(error))


def _overrides(sets: list[str], rest: list[str]) -> dict[str, Any]:
    """``--set a.b=c`` and ``--batch-size 8`` as {name: value}."""
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not name:
            problems.append(Problem(f"'{text}' is not NAME=VALUE", "--set"))
        else:
            found[name] = _value(value)
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            problems.append(Problem(f"'{word}' is not expected here", "command line"))
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and (not words or words[0].startswith("--")):
            if name.replace("-", "_") in _FLAGS:
                found[name] = True
            else:
                problems.append(Problem(f"'{word}' needs a value", "command line"))
            continue
        text = value if equals else words.pop(0)
        if name in found:
            problems.append(Problem(f"'--{name}' is given twice; keep one", "command line"))
        found[name] = _value(text)
    if problems:
        raise SpecError(problems)
    return found


def _value(text: str) -> Any:
    """A YAML scalar, list or map, as it would stand in a file."""
    from moesim.spec import yaml

    return yaml.parse(f"value: {text}", "override").data["value"]


def _axis(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise SpecError([Problem(f"'{text}' is not NAME=VALUES, like batch_size=1,2,4", "--axis")])
    bounds = values.split(":")
    if len(bounds) in (2, 3) and all(b.lstrip("-").isdigit() for b in bounds):
        first, last, step = int(bounds[0]), int(bounds[1]), int(bounds[2]) if len(bounds) == 3 else 1
        if step < 1 or last < first:
            raise SpecError([Problem(f"'{text}' is empty; first:last:step with last not below first", "--axis")])
        if (last - first) // step >= _MOST_VALUES:
            raise SpecError([Problem(f"'{text}' has more than {_MOST_VALUES:,} values", "--axis")])
        return name, list(range(first, last + 1, step))
    return name, [_value(v) for v in values.split(",")]


def _sweep(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.paths import whole
    from moesim.spec.loading import load
    from moesim.whatif import sweep

    if options.output.suffix not in {".csv", ".parquet"}:
        raise SpecError([Problem(f"'{options.output}' must end in .csv or .parquet", "--output")])
    if not options.output.parent.is_dir():
        raise SpecError([Problem(f"there is no folder '{options.output.parent}' to write into", "--output")])
    scenario = load(options.scenario, _overrides(options.set, rest))
    axes: dict[str, list[Any]] = {}
    for text in options.axis:
        name, values = _axis(text)
        if name in axes:
            raise SpecError([Problem(f"'{name}' is given twice; put its values into one axis", "--axis")])
        axes[name] = values
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("points", total=None)
        table = sweep(scenario, axes, lambda done, total: bar.update(task, completed=done, total=total))
    with whole(options.output) as half:
        if options.output.suffix == ".csv":
            table.to_csv(half, index=False)
        else:
            table.to_parquet(half, index=False)
    print(f"{len(table)} points, {int(table['fits'].sum())} of them fit: {options.output}")
    return 0


def _plan(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.plans import plans
    from moesim.report.plan_text import plans_text, traffic_text
    from moesim.report.text import explain_text
    from moesim.spec.loading import load

    if options.gpus < 1:
        raise SpecError([Problem(f"{options.gpus} is not a number of GPUs; 1 or more is accepted", "--gpus")])
    if options.picture and options.picture.suffix not in {".png", ".svg"}:
        raise SpecError([Problem(f"'{options.picture}' must end in .png or .svg", "--picture")])
    if options.picture and not options.picture.parent.is_dir():
        raise SpecError([Problem(f"there is no folder '{options.picture.parent}' to write into", "--picture")])
    found = plans(load(options.scenario, _overrides(options.set, rest)), options.gpus, options.metric)
    print(plans_text(found, options.metric))
    best = found[0].prediction
    if best is None:
        return DOES_NOT_FIT
    if options.explain:
        print(f"\n{found[0].plan.describe()}:\n{traffic_text(best)}\n\n{explain_text(best)}")
    if options.picture:
        from moesim.report.plan_picture import draw_plan

        print(draw_plan(best, options.picture))
    return 0


def _study(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.report.study import write_study
    from moesim.spec.loading import load

    gpus = [int(text) if text.isdigit() else 0 for text in options.gpus.split(",")]
    if min(gpus) < 1:
        raise SpecError([Problem(f"'{options.gpus}' is not a list of numbers, like 1,2,4,8", "--gpus")])
    for path in write_study([load(path) for path in options.scenarios], gpus, options.output):
        print(path)
    return 0


def _models(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.spec.loading import catalogue, load_model

    print(f"{'model':38}{'parameters':>18}  {'architecture':20}{'KV B/token':>11}")
    for name in catalogue():
        model = load_model(name)
        kv = model.kv_bytes_per_token()
        print(f"{name:38}{model.parameters:>18,}  {model.architecture:20}{kv:>11,.0f}")
    return 0


def _hardware(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim import paths
    from moesim.cost.fits import for_gpu
    from moesim.spec.loading import load_hardware

    print(f"{'GPU':26}{'bf16 TFLOP/s':>13}{'TB/s':>7}{'GiB':>8}  calibration")
    for path in sorted(paths.HWSPECS.glob("*.yaml")):
        gpu = load_hardware(path.stem).gpu
        flop, hbm, memory = (
            gpu.dense_bf16.value / 1e12,
            gpu.hbm_bandwidth.value / 1e12,
            gpu.memory.value / 2**30,
        )
        own = for_gpu(path.stem) or "none of its own: H100's, intervals widened"
        print(f"{path.stem:26}{flop:>13.1f}{hbm:>7.2f}{memory:>8.1f}  {own}")
    return 0


def _schema(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.report.schema import schema_text

    print(schema_text(), end="")
    return 0


def _import_tables(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.tables import import_tables
    from moesim.spec.loading import load_hardware

    gpu = load_hardware(options.gpu).name
    for path in import_tables(options.wheel, gpu, options.source_gpu, options.stack):
        print(path)
    return 0


def _import_tiles(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.tiles_import import import_tiles
    from moesim.spec.loading import load_hardware

    print(import_tiles(options.wheel, load_hardware(options.gpu).name, options.device_name))
    return 0


def _import_runs(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.engine import import_runs

    print(import_runs(options.wheel))
    return 0


def _fit(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.store import fit_and_store, stored_tables
    from moesim.spec.loading import load_hardware

    wanted = load_hardware(options.gpu).name if options.gpu else None
    chosen = [(g, s) for g, s in stored_tables() if wanted in (None, g) and options.stack in (None, s)]
    if not chosen:
        raise CalibrationError("there are no imported tables for that GPU and stack")
    for gpu, stack in chosen:
        print(fit_and_store(gpu, stack, lambda text: print(f"  {text}", file=sys.stderr), options.only or ""))
    return 0


def _accuracy(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.report.accuracy import write_accuracy

    for path in write_accuracy(options.output):
        print(path)
    return 0
