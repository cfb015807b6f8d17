"""What no single field can say: whether model, GPU, engine and workload go together."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

from moesim import paths
from moesim.errors import SpecError
from moesim.spec.defaults import max_num_batched_tokens, max_num_seqs
from moesim.spec.engine_file import load_engine
from moesim.spec.hardware import Hardware
from moesim.spec.loading import load_hardware, load_model
from moesim.spec.model import DenseFfn, Model, MoeFfn
from moesim.spec.offload_checks import offload_findings
from moesim.spec.plan import Plan
from moesim.spec.plan_checks import Finding, plan_findings
from moesim.spec.request_trace import check_requests, read_lengths, trace_extent
from moesim.spec.scenario import ALIASES, Disaggregation, Engine, Scenario
from moesim.spec.trace import read_trace
from moesim.spec.workload import Workload

_TP = ("engine", "tensor_parallel_size")
_FP8_BLOCK = 128
_AXES = (("tensor_parallel_size", "tp"), ("pipeline_parallel_size", "pp"))


def check(scenario: Scenario) -> list[Finding]:
    """Every reason this scenario cannot be predicted, as (location, sentence)."""
    findings: list[Finding] = []
    model = hardware = None
    try:
        model = load_model(scenario.model, scenario.engine.hf_overrides)
    except SpecError as error:
        findings += [(("model",), str(problem)) for problem in error.problems]
    try:
        hardware = load_hardware(scenario.hardware)
    except SpecError as error:
        findings += [(("hardware",), str(problem)) for problem in error.problems]
    if model:
        findings += [*_shards(scenario, model), *_lengths(scenario, model), *_routing(scenario, model)]
        findings += plan_findings(scenario.engine, model)
    findings += _load(scenario, model, hardware)
    findings += offload_findings(scenario, model, hardware)
    if hardware:
        findings += _hardware(scenario, hardware, model)
    engine, calibration = scenario.engine, scenario.calibration
    if engine.max_num_batched_tokens and engine.max_num_seqs and engine.max_num_batched_tokens < engine.max_num_seqs:
        findings.append(
            (
                ("engine", "max_num_batched_tokens"),
                f"{engine.max_num_batched_tokens} is below max_num_seqs ({engine.max_num_seqs}); vLLM refuses that",
            )
        )
    if calibration != "auto" and not (paths.FITS / f"{calibration}.json").is_file() and not Path(calibration).is_file():
        findings.append(
            (
                ("calibration",),
                f"'{calibration}' is neither stored nor a file; stored: auto, {', '.join(paths.stored_fits())}",
            )
        )
    return list(dict.fromkeys(findings))


def _shards(scenario: Scenario, model: Model) -> Iterator[Finding]:
    tp = scenario.engine.tensor_parallel_size
    heads = {g.attention.num_attention_heads for g in model.layers}
    kv = {g.attention.num_key_value_heads for g in model.layers if g.attention.mla is None}
    if any(h % tp for h in heads):
        fits = _divisors(min(heads))
        yield _TP, f"{tp} does not divide the {min(heads)} attention heads of {model.name}; accepted: {fits}"
    elif any(k % tp and tp % k for k in kv):
        yield _TP, f"{tp} neither divides nor is a multiple of the {min(kv)} KV heads of {model.name}"
    plan = Plan.of(scenario.engine)
    shared = {g.ffn.shared_width for g in model.layers if isinstance(g.ffn, MoeFfn) and not plan.exchanges}
    dense = {g.ffn.width for g in model.layers if isinstance(g.ffn, DenseFfn)}
    for width in sorted(w for w in dense | shared if w % tp):
        yield _TP, f"{tp} does not divide the feed-forward width {width} of {model.name}"
    yield from _expert_slices(scenario, model, plan)
    for group in model.layers:
        ffn = group.ffn
        if isinstance(ffn, DenseFfn):
            continue
        if ffn.num_experts_per_tok > ffn.num_experts:
            yield (
                ("engine", "hf_overrides"),
                f"num_experts_per_tok is {ffn.num_experts_per_tok}, above the {ffn.num_experts} experts there are",
            )
            break
        if ffn.num_experts_per_tok < 1:
            yield ("engine", "hf_overrides"), "num_experts_per_tok is 0; at least 1 is needed"
            break


def _expert_slices(scenario: Scenario, model: Model, plan: Plan) -> Iterator[Finding]:
    """Whether experts can be cut as finely as the plan cuts them."""
    engine, slices = scenario.engine, plan.expert_tp
    where, why = ("engine", "expert_tensor_parallel_size"), ""
    if not engine.enable_expert_parallel:
        where = _TP
        why = " (without expert parallelism vLLM slices experts TP x DP times)" if plan.dp > 1 else ""
    elif plan.tp * plan.dp % slices:
        return
    widths = sorted({g.ffn.width for g in model.layers if isinstance(g.ffn, MoeFfn)})
    blocks = (engine.quantization or model.quantization.experts) == "fp8_block"
    for width in widths:
        if width % slices:
            yield where, f"{slices} does not divide the expert width {width} of {model.name}{why}"
        elif blocks and width // slices % _FP8_BLOCK:
            yield (
                where,
                f"{slices} slices of {model.name}'s expert width {width} are {width // slices} wide, no multiple of "
                f"the {_FP8_BLOCK} of block-scaled fp8; vLLM refuses that{why}",
            )


def _lengths(scenario: Scenario, model: Model) -> Iterator[Finding]:
    load, engine = scenario.workload, scenario.engine
    total = sum(load.longest())
    limit = engine.max_model_len or model.max_position_embeddings
    if engine.max_model_len and model.max_position_embeddings and engine.max_model_len > model.max_position_embeddings:
        yield (
            ("engine", "max_model_len"),
            f"{engine.max_model_len} exceeds the {model.max_position_embeddings} positions of {model.name}",
        )
    elif limit and total > limit:
        name = "max_model_len" if engine.max_model_len else f"the positions of {model.name}"
        yield (
            ("workload", "input_len"),
            f"input_len + output_len is {total}, more than {name} ({limit}); shorten one of them",
        )


def _load(scenario: Scenario, model: Model | None, hardware: Hardware | None) -> Iterator[Finding]:
    """What a workload's files hold, and what a simulated run cannot do."""
    load, apart = scenario.workload, scenario.disaggregation
    if load.arrivals != "batch" and model and model.has_encoder:
        yield ("workload",), f"{model.name} is an encoder-decoder model; only static batches of it are predicted"
    yield from _files(load, scenario.engine.max_model_len or (model.max_position_embeddings if model else None))
    if load.cached_share and not scenario.engine.enable_prefix_caching:
        yield ("workload", "cached_share"), "prompts share a beginning, but enable_prefix_caching is false"
    if not scenario.engine.enable_chunked_prefill and hardware:
        most, longest = max_num_batched_tokens(scenario.engine, hardware), load.longest()[0]
        if load.arrivals != "batch" and longest > most:
            message = f"without it a prompt of {longest} tokens never fits a step of {most}; vLLM refuses that"
            yield ("engine", "enable_chunked_prefill"), message
    if apart is not None:
        yield from _apart(load, apart, hardware)


def _files(load: Workload, limit: int | None) -> Iterator[Finding]:
    """What a trace or a table of lengths holds: every request must be able to run."""
    where, longest = ("workload", "trace_file"), 0
    if load.trace_file is not None:
        problems = check_requests(load.trace_file)
        yield from ((where, str(problem)) for problem in problems)
        longest = 0 if problems else trace_extent(load.trace_file).longest_total
    elif load.lengths.kind == "file":
        where = ("workload", "lengths")
        try:
            longest = max(sum(pair) for pair in read_lengths(load.lengths.file))
        except SpecError as error:
            yield from ((where, str(problem)) for problem in error.problems)
    if limit and longest > limit:
        yield where, f"its longest request takes {longest:,} tokens, more than the {limit:,} the model can hold"


def _apart(load: Workload, apart: Disaggregation, hardware: Hardware | None) -> Iterator[Finding]:
    short = {name for name, dotted in ALIASES.items() if dotted.startswith("engine.")}
    world = 0
    if load.arrivals == "batch":
        yield ("disaggregation",), "a static batch runs on one engine; give max_concurrency, request_rate or trace_file"
    for name, settings in (("prefill", apart.prefill), ("decode", apart.decode)):
        sizes = [settings.get(name) or settings.get(alias) or 1 for name, alias in _AXES]
        if all(isinstance(size, int) for size in sizes):
            world += getattr(apart, f"{name}_replicas") * prod(sizes)
        for key in settings:
            if key not in Engine.model_fields and key not in short:
                yield ("disaggregation", name), f"'{key}' is not an engine setting"
    if hardware and world > hardware.gpus:
        yield ("disaggregation",), f"its engines take {world} GPUs, more than the {hardware.gpus} of {hardware.title}"


def _routing(scenario: Scenario, model: Model) -> Iterator[Finding]:
    routing = scenario.routing
    moe = model.moe
    if routing.kind in {"histogram", "trace"} and moe is None:
        yield ("routing", "kind"), f"{model.name} has no experts, so it has no routing to describe"
        return
    if moe is None:
        return
    if routing.kind == "histogram":
        if len(routing.counts) != moe.num_experts:
            yield (
                ("routing", "counts"),
                f"has {len(routing.counts)} counts; {model.name} has {moe.num_experts} experts, one count each",
            )
        elif sum(c > 0 for c in routing.counts) < moe.num_experts_per_tok:
            yield (
                ("routing", "counts"),
                f"fewer experts are ever picked than the top-{moe.num_experts_per_tok} needs",
            )
    if routing.kind == "trace":
        if not Path(routing.file).is_file():
            yield ("routing", "file"), f"there is no file '{routing.file}'"
            return
        try:
            read_trace(routing.file, moe.num_experts, moe.num_experts_per_tok)
        except SpecError as error:
            for problem in error.problems:
                yield ("routing", "file"), str(problem)


def _hardware(scenario: Scenario, hardware: Hardware, model: Model | None) -> Iterator[Finding]:
    plan = Plan.of(scenario.engine)
    if plan.world > hardware.gpus:
        where = ("engine", max(("pipeline_parallel_size", plan.pp), ("data_parallel_size", plan.dp),
                               ("tensor_parallel_size", plan.tp), key=lambda item: item[1])[0])  # fmt: skip
        what = f"{plan.world} GPUs (TP {plan.tp} x PP {plan.pp} x DP {plan.dp})"
        hint = "" if hardware.cluster else "; name a cluster as hardware for more than a node"
        yield where, f"the plan takes {what}, more than the {hardware.gpus} of {hardware.title}{hint}"
    batch, most = plan.share(scenario.workload.size), max_num_seqs(scenario.engine, hardware)
    if batch > most and scenario.workload.arrivals == "batch":
        each = " on each data-parallel replica" if plan.dp > 1 else ""
        yield (
            ("workload", "batch_size"),
            f"{batch}{each} exceeds max_num_seqs ({most}), so requests would queue; lower it or raise max_num_seqs",
        )
    if plan.deepep and not hardware.has_deepep:
        yield (
            ("engine", "all2all_backend"),
            f"DeepEP needs NVSwitch and Hopper or later; {hardware.title} is not that: leave all2all_backend out",
        )
    most_tokens = max_num_batched_tokens(scenario.engine, hardware)
    room = int(load_engine().exchange.low_latency_most_tokens.value)
    if plan.exchanges and plan.backend == "deepep_low_latency" and most_tokens > room:
        yield (
            ("engine", "max_num_batched_tokens"),
            f"{most_tokens} exceeds the {room} tokens DeepEP's low-latency kernels were measured with",
        )
    scheme = scenario.engine.quantization or (model.quantization.experts if model else None)
    where = ("engine", "quantization") if scenario.engine.quantization else ("model",)
    if scheme in {"fp8", "fp8_block"} and hardware.gpu.dense_fp8 is None:
        yield where, f"{hardware.name} has no fp8 arithmetic; accepted there: none, int8, int4"
    if scenario.engine.kv_cache_dtype == "fp8" and hardware.gpu.dense_fp8 is None:
        yield (
            ("engine", "kv_cache_dtype"),
            f"{hardware.name} has no fp8 arithmetic; accepted there: auto, bfloat16",
        )


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in (1, 2, 4, 8, 16, 32, 64) if number % n == 0)
