"""``moesim calibrate``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from moesim.cli.bench_engine import LINE_EVERY_S
from moesim.cli.codes import NOT_HOLDING
from moesim.errors import CalibrationError, Problem, SpecError


def calibrate_command(commands: Any) -> None:
    about = "measure this machine within a time budget and fit it; or import, check and lint datasets"
    command = commands.add_parser("calibrate", help=about, description=about)
    add = command.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="what to measure: the GPU, or the host alone")
    add("--minutes", type=float, default=20.0, help="time budget; running again goes on where it stopped")
    add("-o", "--output", type=Path, help="folder for rows, tables, fit and pages; default: named after the machine")
    add("--models", default="", help="whose shapes to measure, like OLMoE-1B-7B-0924,Qwen3-30B-A3B; default: seven")
    add("--tables", default="", help="what to measure, like gemm,fused_moe; default: everything")
    add("--most-points", type=int, help="stop after so many points")
    add("--hardware", help="the GPU's hardware file, where its name alone does not find it")
    add("--busy", action="store_true", help="measure even where other processes use the GPU")
    add("--measure-only", action="store_true", help="measure, fit nothing: rows can be fitted on another machine")
    add("--fit-only", action="store_true", help="fit the rows of --output again, measure nothing")
    add("--check", metavar="DATASET", help="re-measure ten points of a dataset: does it still hold here?")
    add("--lint", metavar="DATASET", help="check a dataset's data sheet and tables")
    add(
        "--from",
        dest="source",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="import what others measured: nccl-tests logs, nvbandwidth JSON, an aiconfigurator wheel, vllm bench JSON",
    )
    add("--stack", help="with --from a wheel: engine and version, like vllm-0.24.0")
    add("--scenario", type=Path, help="with --from vllm bench JSON: what served, a scenario file")
    command.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace, rest: list[str]) -> int:
    if not 0 < options.minutes < float("inf"):
        raise SpecError([Problem(f"{options.minutes:g} is no time to measure in; above 0 is accepted", "--minutes")])
    if options.most_points is not None and options.most_points < 1:
        raise SpecError([Problem(f"{options.most_points} is no number of points; 1 or more is", "--most-points")])
    if options.output and options.output.exists() and not options.output.is_dir():
        raise SpecError([Problem(f"'{options.output}' is a file; a folder is accepted", "--output")])
    asked = [name for name in ("lint", "check", "source", "fit_only", "measure_only") if getattr(options, name)]
    if len(asked) > 1:
        words = " and ".join("--" + {"source": "from"}.get(name, name.replace("_", "-")) for name in asked)
        raise SpecError([Problem(f"{words} cannot go together; give one of them", "command line")])
    if options.lint:
        return _lint(options.lint)
    if options.check:
        return _check(options)
    if options.source:
        return _import(options)
    return _measure_and_fit(options)


def _lint(name: str) -> int:
    from moesim.calibrate.dataset import open_dataset
    from moesim.calibrate.lint import lint

    dataset = open_dataset(name)
    problems = lint(dataset)
    if problems:
        raise SpecError(problems)
    print(f"{dataset.label}: {len(dataset.tables)} tables, nothing wrong")
    return 0


def _check(options: argparse.Namespace) -> int:
    from moesim.calibrate.check import check
    from moesim.calibrate.dataset import open_dataset
    from moesim.report.quality import verdict_text

    dataset = open_dataset(options.check)
    environment = dataset.sheet.get("environment")
    device = "cpu" if isinstance(environment, dict) and environment.get("device") == "cpu" else options.device
    with _bar() as told:
        verdict = check(dataset, device, options.busy, told)
    print(verdict_text(dataset, verdict))
    return 0 if verdict.holds else NOT_HOLDING


def _import(options: argparse.Namespace) -> int:
    from moesim.calibrate import measuring, others
    from moesim.calibrate.dataset import META
    from moesim.calibrate.tidy import refuse_foreign_folder
    from moesim.report.quality import quality_text, write_quality

    kinds = {others.kind_of(path) for path in options.source}
    kind = kinds.pop()
    if kinds or (len(options.source) > 1 and kind not in {"nccl-tests", "vllm-bench"}):
        raise SpecError([Problem("takes several logs of nccl-tests or results of vllm bench, else one file", "--from")])
    if kind == "vllm-bench":
        return _import_bench(options)
    if not options.hardware:
        raise SpecError([Problem("says which GPU was measured, like h100-sxm; it must be given", "--hardware")])
    from moesim.hardware.catalogue import load_hardware

    hardware = load_hardware(options.hardware)
    folder = options.output or Path(f"calibration-{hardware.name}-{options.source[0].stem}")
    refuse_foreign_folder(folder)
    if (folder / META).exists():
        raise CalibrationError(f"'{folder}' holds a dataset already; choose a new folder with -o")
    if kind == "aiconfigurator":
        from moesim.calibrate.tables import import_from_wheel

        if not options.stack:
            raise SpecError([Problem("says whose tables, like vllm-0.24.0; it must be given for a wheel", "--stack")])
        dataset = import_from_wheel(options.source[0], folder, hardware, options.stack)
    elif kind == "nccl-tests":
        dataset = others.import_nccl_tests(options.source, folder, hardware)
    else:
        dataset = others.import_nvbandwidth(options.source[0], folder, hardware)
    for table in dataset.tables:
        print(dataset.path(table))
    try:
        fits, written = measuring.fit_dataset(dataset, hardware, lambda text: print(f"  {text}", file=sys.stderr))
    except CalibrationError as error:
        print(f"not fitted: {error}", file=sys.stderr)
        return 0
    print(quality_text(fits))
    for path in [written, *write_quality(folder, dataset, fits)]:
        print(path)
    return 0


def _import_bench(options: argparse.Namespace) -> int:
    from moesim.inputs.bench_file import import_bench

    if not options.scenario:
        raise SpecError([Problem("says what served (model, hardware, engine); it must be given", "--scenario")])
    name = options.source[0].stem
    target = (options.output or Path(".")) / f"{name}_runs.yaml"
    for path in import_bench(options.source, options.scenario, name, target):
        print(path)
    return 0


def _measure_and_fit(options: argparse.Namespace) -> int:
    from moesim.calibrate import measuring
    from moesim.report.quality import quality_text, write_quality

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    asked = measuring.Asked(
        options.device, options.minutes, options.output, _names(options.models), _names(options.tables),
        options.most_points, options.hardware, options.busy,
    )  # fmt: skip
    machine = measuring.machine_of_log(asked) if options.fit_only else measuring.find_machine(asked)
    if not options.measure_only:
        from moesim.campaign.sheet import refuse_uncompared

        refuse_uncompared(machine.folder)
    here = machine.environment
    say(f"{here.get('gpu', here['cpu'])}, {machine.stack}, into {machine.folder}/")
    if not options.fit_only:
        with _bar() as told:
            machine, progress = measuring.measure_machine(asked, machine, told, say)
        counts = progress.counts
        for warning in progress.warnings:
            say(warning)
        say(f"{counts['measured']:,} measured, {counts['unstable']:,} unstable, {counts['failed']:,} failed")
        if options.measure_only:
            print(machine.log)
            return 0
    dataset, fits, written = measuring.fit_machine(machine, lambda text: say(f"  {text}"))
    print(quality_text(fits))
    for path in [*written, *write_quality(machine.folder, dataset, fits)]:
        print(path)
    for line in measuring.how_to_use(machine, written):
        print(f"\n    {line}")
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _lines() -> Any:
    """A line now and then, for logs."""
    last = time.monotonic()

    def told(progress: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            said = (
                f"{progress.done:,} of {progress.of:,} points, at {progress.table}, {progress.left_s / 60:.1f} min left"
            )
            print(said, file=sys.stderr, flush=True)

    return told


def _bar() -> Any:
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    @contextmanager
    def bar() -> Any:
        if not sys.stderr.isatty():
            yield _lines()
            return
        words = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed} points, {task.fields[left]}"),
        )
        with Progress(*words, console=Console(stderr=True), transient=True) as shown:
            task = shown.add_task("measuring", total=None, left="")

            def told(progress: Any) -> None:
                left = f"{progress.left_s / 60:.1f} min left"
                shown.update(task, description=progress.table, completed=progress.done, total=progress.of, left=left)

            yield told

    return bar()
