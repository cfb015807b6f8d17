"""``moesim bench-engine``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError

LINE_EVERY_S = 20.0
_FEW = 100


def bench_engine_command(commands: Any) -> None:
    about = "start vLLM on a model's config.json alone and record runs, steps and memory: a run set for validate"
    # What is not given is left to the ask itself.
    command = commands.add_parser(
        "bench-engine", help=about, description=about, argument_default=argparse.SUPPRESS
    )  # fmt: skip
    add = command.add_argument
    add("model", help="a model of the catalogue, or a folder with config.json")
    add(
        "--batches",
        action="append",
        metavar="B,B:IN:OUT",
        help="requests at once, tokens in, tokens out, like 1,8,64:128:33; may be given again",
    )
    add("--rates", metavar="R,R:N:IN:OUT", help="Poisson arrivals a second, requests, mean tokens in and out")
    add("--repetitions", type=int, help="of each batch; default: 2")
    add("--minutes", type=float, help="time budget; default: 10")
    add("--quantization", help="start in another weight format: fp8, fp8_block")
    add("--mode", help="eager, graph, or compile; graph, the default, starts faster than vLLM's own, compile")
    add("--routing", help="natural, uniform, balanced, zipf_1.2, identical")
    add("--hf-overrides", metavar="NAME=N,...", help="fields of config.json, like num_experts_per_tok=4")
    add("--moe-backend", help="kernel of the experts, by vLLM's name: triton, deep_gemm, flashinfer_cutlass, marlin")
    add("--async-scheduling", action=argparse.BooleanOptionalAction, help="compose steps ahead; default: vLLM's own")
    add("--disable-shared-experts-stream", action="store_true", help="the shared expert has no stream of its own")
    add("--draft-model", help="a model that drafts tokens: of the catalogue, or a folder with config.json")
    add("--num-speculative-tokens", type=int, metavar="N", help="drafted a round")
    add("--acceptance-rate", type=float, metavar="A", help="chance that a draft is kept; vLLM is told to keep so many")
    for name, kind, usual in (
        ("tensor-parallel-size", int, 1), ("max-model-len", int, 4096), ("max-num-seqs", int, 256),
        ("max-num-batched-tokens", int, 8192), ("gpu-memory-utilization", float, 0.9),
    ):  # fmt: skip
        add(f"--{name}", type=kind, metavar="N", help=f"default: {usual}")
    add("--kv-cache-dtype", help="auto, bfloat16, fp8")
    add("--edge", type=int, metavar="N", help="N more starts to find the least memory share it starts with")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--hardware", default=None, help="the GPU's hardware file, where its name alone does not find it")
    add("--busy", action="store_true", default=False, help="measure even where other processes use the GPU")
    add("-o", "--output", type=Path, default=Path("engine-runs"), help="folder; running again goes on where it stopped")
    command.set_defaults(run=_bench_engine)


def _bench_engine(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.engine_measuring import Where, measure_ask

    ask = _ask(options)
    where = Where(options.output, options.device, options.hardware, options.busy)
    progress, written = measure_ask(ask, where, told_each(), lambda text: print(text, file=sys.stderr))
    for warning in progress.warnings:
        print(warning, file=sys.stderr)
    print(f"{progress.counts['measured']} measured, {progress.counts['failed']} failed", file=sys.stderr)
    for path in written:
        print(path)
    return 0


def _ask(options: argparse.Namespace) -> Any:
    """Raises SpecError for what no engine takes, before anything is started."""
    from pydantic import ValidationError

    from moesim.calibrate.engine_ask import EngineAsk
    from moesim.files.validation import said, shown

    data = {name: value for name, value in vars(options).items() if name in EngineAsk.model_fields}
    if "hf_overrides" in data:
        data["hf_overrides"] = _overrides(data["hf_overrides"])
    try:
        return EngineAsk.model_validate(data)
    except ValidationError as error:
        raise SpecError([_problem(item, said(item), shown(item["input"])) for item in error.errors()]) from None


def _problem(item: Any, text: str, found: str) -> Problem:
    if not item["loc"]:
        return Problem(text, "command line")
    name = str(item["loc"][0])
    repeated = "" if found in text else f" (found {found})"
    return Problem(text + repeated, name if name == "model" else f"--{name.replace('_', '-')}")


def told_each() -> Any:
    """A line for each measured point where there are few, and each takes seconds; now and then where there are many."""
    shown, at = -1, 0.0

    def told(progress: Any) -> None:
        nonlocal shown, at
        now = time.monotonic()
        if progress.done == shown or (progress.of > _FEW and now - at < LINE_EVERY_S):
            return
        shown, at = progress.done, now
        # The start is a row too.
        print(f"{progress.done} of {progress.of + 1} measured, {progress.left_s / 60:.1f} min left", file=sys.stderr)

    return told


def _overrides(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        if not value.lstrip("-").isdigit():
            raise SpecError(
                [Problem(f"'{pair}' is not a field and a whole number, like num_experts_per_tok=4", "--hf-overrides")]
            )
        found[name] = int(value)
    return found
