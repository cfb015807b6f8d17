"""``moesim bench-engine``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from moesim.bench.engine.settings import MODES
from moesim.errors import Problem, SpecError

_ROUTINGS = {"natural", "uniform", "balanced", "identical", "zipf", "power_law"}


def bench_engine_command(commands: Any) -> None:
    about = "start vLLM on a model's config.json alone and record runs, steps and memory: a run set for validate"
    command = commands.add_parser("bench-engine", help=about, description=about)
    add = command.add_argument
    add("model", help="a model of the catalogue, or a folder with config.json")
    add(
        "--batches",
        action="append",
        default=[],
        metavar="B,B:IN:OUT",
        help="requests at once, tokens in, tokens out, like 1,8,64:128:33; may be given again",
    )
    add(
        "--rates",
        default="",
        metavar="R,R:N:IN:OUT",
        help="Poisson arrivals a second, requests, mean tokens in and out",
    )
    add("--repetitions", type=int, default=2)
    add("--quantization", help="start in another weight format: fp8, fp8_block")
    add("--mode", choices=MODES, default="graph", help="graph starts faster than vLLM's default, compile")
    add("--routing", default="natural", help="natural, uniform, balanced, zipf_1.2, identical")
    add("--hf-overrides", default="", metavar="NAME=N,...", help="fields of config.json, like num_experts_per_tok=4")
    for name, kind, usual in (
        ("tensor-parallel-size", int, 1), ("max-model-len", int, 4096), ("max-num-seqs", int, 256),
        ("max-num-batched-tokens", int, 8192), ("gpu-memory-utilization", float, 0.9),
    ):  # fmt: skip
        add(f"--{name}", type=kind, default=usual)
    add("--edge", type=int, default=0, metavar="N", help="N more starts to find the least memory share it starts with")
    add("--kv-cache-dtype", default="auto")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--minutes", type=float, default=10.0)
    add("--hardware", help="the GPU's hardware file, where its name alone does not find it")
    add("--busy", action="store_true", help="measure even where other processes use the GPU")
    add("-o", "--output", type=Path, default=Path("engine-runs"), help="folder; running again goes on where it stopped")
    command.set_defaults(run=_bench_engine)


def _bench_engine(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.bench.engine.plan import batch_points, load_points
    from moesim.bench.engine.settings import EngineSettings
    from moesim.calibrate import measuring, worker
    from moesim.calibrate.engine_runs import edge_of, model_folder, next_share, write_runs
    from moesim.calibrate.tidy import check_same_place

    _check(options)
    settings = EngineSettings(
        model_folder(options.model, options.quantization, options.output), options.mode, options.routing,
        options.tensor_parallel_size, options.max_model_len, options.max_num_seqs, options.max_num_batched_tokens,
        options.gpu_memory_utilization, options.kv_cache_dtype, _overrides(options.hf_overrides),
    )  # fmt: skip
    grid = [point for text in options.batches or ["1,8,64:128:33"] for point in _batches(text)]
    points = batch_points(settings, grid, options.repetitions)
    if options.rates:
        *rates, requests, tokens_in, tokens_out = _rates(options.rates)
        points += load_points(settings, rates, int(requests), (int(tokens_in), int(tokens_out)))
    if not points:
        raise SpecError([Problem("asks for nothing that fits --max-num-seqs and --max-model-len", "--batches")])
    here = worker.environment_of(options.device, options.busy)
    hardware = options.hardware or measuring.hardware_name(here, options.output)
    log = options.output / "points.jsonl"
    if log.exists():
        check_same_place(log, here)
    log.parent.mkdir(parents=True, exist_ok=True)
    told = _told(len(points) + 1)
    progress = worker.run_engine(settings, points, log, options.device, 60 * options.minutes, options.busy, told)
    for _ in range(options.edge):
        share = next_share(edge_of(log, settings))
        print(f"trying {share:.3f} of the memory", file=sys.stderr)
        tried = replace(settings, gpu_memory_utilization=share)
        worker.run_engine(tried, [], log, options.device, 60 * options.minutes, options.busy)
    for warning in progress.warnings:
        print(warning, file=sys.stderr)
    print(f"{progress.counts['measured']} measured, {progress.counts['failed']} failed", file=sys.stderr)
    for path in write_runs(log, hardware, options.output):
        print(path)
    return 0


def _told(of: int) -> Any:
    """A line for each measured point: there are few, and each takes seconds."""

    shown = -1

    def told(progress: Any) -> None:
        nonlocal shown
        if progress.done == shown:
            return
        shown = progress.done
        print(f"{progress.done} of {of} measured, {progress.left_s / 60:.1f} min left", file=sys.stderr)

    return told


def _check(options: argparse.Namespace) -> None:
    """Raise SpecError for numbers that no engine takes, before anything is started."""
    from moesim.hardware.catalogue import load_hardware

    problems = [
        Problem(f"{value:g} is not accepted; {accepted} is", option)
        for option, value, right, accepted in (
            ("--repetitions", options.repetitions, options.repetitions >= 1, "1 or more"),
            ("--minutes", options.minutes, 0 < options.minutes < float("inf"), "above 0"),
            ("--edge", options.edge, options.edge >= 0, "0 or more"),
            ("--tensor-parallel-size", options.tensor_parallel_size, options.tensor_parallel_size >= 1, "1 or more"),
            ("--gpu-memory-utilization", options.gpu_memory_utilization, 0 < options.gpu_memory_utilization <= 1,
             "above 0 up to 1"),
        )
        if not right
    ]  # fmt: skip
    kind, _, detail = options.routing.rpartition("_") if options.routing[-1:].isdigit() else (options.routing, "", "")
    if kind not in _ROUTINGS or (kind in {"zipf", "power_law"}) != bool(detail):
        message = (
            f"'{options.routing}' is no routing; natural, uniform, balanced, identical, zipf_1.2, power_law_1.01 are"
        )
        problems.append(Problem(message, "--routing"))
    if problems:
        raise SpecError(problems)
    if options.hardware:
        load_hardware(options.hardware)


def _batches(text: str) -> list[tuple[int, int, int]]:
    try:
        batches, tokens_in, tokens_out = text.split(":")
        found = [(int(b), int(tokens_in), int(tokens_out)) for b in batches.split(",")]
    except ValueError:
        found = []
    if not found or min(min(point) for point in found) < 1:
        raise SpecError(
            [Problem(f"'{text}' is not batches, tokens in, tokens out; 1,8,64:128:33 is accepted", "--batches")]
        )
    return found


def _rates(text: str) -> list[float]:
    try:
        rates, *others = text.split(":")
        found = [*(float(rate) for rate in rates.split(",")), *(int(x) for x in others)]
    except ValueError:
        found = []
    if len(found) < 4 or len(text.split(":")) != 4 or min(found) <= 0:
        raise SpecError(
            [Problem(f"'{text}' is not rates, requests, tokens in, tokens out; 4,16:48:256:64 is accepted", "--rates")]
        )
    return found


def _overrides(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        if not value.lstrip("-").isdigit():
            raise SpecError(
                [Problem(f"'{pair}' is not a field and a whole number, like num_experts_per_tok=4", "--hf-overrides")]
            )
        found[name] = int(value)
    return found
