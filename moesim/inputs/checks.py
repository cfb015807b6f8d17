"""What no single field can say: whether model, GPU, engine and workload go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from moesim import paths
from moesim.engines.engine import Engine, Limits, load_engine
from moesim.engines.file import Place, capability_of
from moesim.engines.settings import EngineSettings
from moesim.errors import SpecError, nearest
from moesim.experts.trace import read_trace
from moesim.files.validation import said
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.hardware import Hardware
from moesim.inputs.apart import apart_findings
from moesim.inputs.image_checks import image_findings
from moesim.inputs.model_of import model_of, with_counts
from moesim.inputs.offload_checks import offload_findings
from moesim.inputs.plan_checks import Finding, plan_findings
from moesim.inputs.policies import Policies
from moesim.inputs.request_trace import check_requests, read_lengths, trace_extent
from moesim.inputs.routing import ByLayer, Uniform
from moesim.inputs.scenario import Scenario
from moesim.inputs.workload import OF_LOAD, Workload
from moesim.models.blocks.moe import Moe
from moesim.models.catalogue import load_model
from moesim.models.frame import BF16
from moesim.models.model import Model
from moesim.models.plan import Plan
from moesim.ops.formats import bytes_per_weight, kind

T = TypeVar("T")


def check(scenario: Scenario) -> list[Finding]:
    """Every reason this scenario cannot be predicted, as (location, sentence)."""
    findings: list[Finding] = []
    settings, calibration = scenario.engine, scenario.calibration

    def loaded(where: tuple[str, ...], look_up: Callable[[], T]) -> T | None:
        try:
            return look_up()
        except SpecError as error:
            findings.extend((where, str(problem)) for problem in error.problems)
        return None

    plain = loaded(("model",), lambda: load_model(scenario.model, settings.hf_overrides))
    where = "variant" if scenario.variant else "model"
    model = loaded((where,), lambda: model_of(scenario)) if plain else None
    hardware = loaded(("hardware",), lambda: load_hardware(scenario.hardware))
    named = ("engine", "version" if settings.version is not None else "name")
    engine = loaded(named, lambda: load_engine(settings.name, settings.version))
    limits = None
    if hardware and engine:
        limits = engine.limits(settings, hardware.gpu.memory.value, hardware.compute_capability)
    if model:
        findings += [*_shards(scenario, model), *_lengths(scenario, model), *_routing(scenario, model)]
        findings += plan_findings(settings, model)
    findings += [
        *_load(scenario, model, hardware, limits),
        *image_findings(scenario, model),
        *_policies(scenario, model),
    ]
    findings += offload_findings(scenario, model, hardware)
    if model and engine and limits and settings.drafts is not None:
        from moesim.inputs.speculation_checks import speculation_findings

        findings += speculation_findings(scenario, model, engine, limits)
    if hardware and engine and limits:
        findings += _hardware(scenario, hardware, model, engine, limits)
    tokens, seqs = settings.max_num_batched_tokens, settings.max_num_seqs
    if tokens and seqs and tokens < seqs:
        where = ("engine", "max_num_batched_tokens")
        findings.append((where, f"{tokens} is below max_num_seqs ({seqs}); vLLM refuses that"))
    if calibration != "auto" and not (paths.FITS / f"{calibration}.json").is_file() and not Path(calibration).is_file():
        stored = nearest(calibration, ("auto", *paths.stored_fits()), "moesim hardware")
        findings.append((("calibration",), f"'{calibration}' is neither stored nor a file; {stored}"))
    return list(dict.fromkeys(findings))


def _shards(scenario: Scenario, model: Model) -> Iterator[Finding]:
    """Whether ranks of the plan can share every block."""
    plan = Plan.of(scenario.engine)
    for layers in model.under(scenario.engine.quantization).layers:
        for block in layers.blocks:
            yield from block.refusals(plan, model.name)


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


def _load(
    scenario: Scenario, model: Model | None, hardware: Hardware | None, limits: Limits | None
) -> Iterator[Finding]:
    """What a workload's files hold, and what a simulated run cannot do."""
    load, apart = scenario.workload, scenario.disaggregation
    if load.arrivals != "batch" and model and model.has_encoder:
        yield ("workload",), f"{model.name} is an encoder-decoder model; only static batches of it are predicted"
    yield from _unheard(load)
    yield from _files(load, scenario.engine.max_model_len or (model.max_position_embeddings if model else None))
    if load.cached_share and not scenario.engine.enable_prefix_caching:
        yield ("workload", "cached_share"), "prompts share a beginning, but enable_prefix_caching is false"
    if not scenario.engine.enable_chunked_prefill and limits:
        most, longest = limits.max_num_batched_tokens, load.longest()[0]
        if load.arrivals != "batch" and longest > most:
            message = f"without it a prompt of {longest} tokens never fits a step of {most}; vLLM refuses that"
            yield ("engine", "enable_chunked_prefill"), message
    if apart is not None:
        yield from apart_findings(scenario, apart, hardware, _engine_findings)


def _unheard(load: Workload) -> Iterator[Finding]:
    """Settings that say nothing of the way requests come."""
    if load.arrivals == "batch":
        for name in OF_LOAD:
            if getattr(load, name) != Workload.model_fields[name].default:
                yield ("workload", name), f"{name} says nothing of a static batch; give max_concurrency or request_rate"
    elif load.arrivals != "open_loop" and load.burstiness != 1.0:
        yield ("workload", "burstiness"), "burstiness is of arrivals at a rate; give request_rate"


def _policies(scenario: Scenario, model: Model | None) -> Iterator[Finding]:
    """Policies that have nothing to act on."""
    policies, where = scenario.policies, "policies"
    if policies is None:
        return
    if scenario.workload.arrivals == "batch":
        yield (where,), "act under load; give max_concurrency, request_rate or a trace"
    if scenario.disaggregation is not None or scenario.offload is not None:
        yield (where,), "are predicted on engines that hold all weights and both phases"
    if policies.top_k and model is not None:
        if model.moe is None:
            yield (where, "top_k"), f"{model.name} has no experts to pick fewer of"
        elif policies.top_k[0].num_experts_per_tok >= model.moe.num_experts_per_tok:
            message = f"must fall below the {model.moe.num_experts_per_tok} experts that a token of {model.name} passes"
            yield (where, "top_k"), message
    if policies.fallback is not None:
        yield from _fallback(scenario, policies)
    if policies.parking is not None and scenario.workload.arrivals == "closed_loop":
        yield (where, "parking"), "clients in a closed loop never pause; give request_rate or a trace"


def _fallback(scenario: Scenario, policies: Policies) -> Iterator[Finding]:
    fallback, where = policies.fallback, ("policies", "fallback")
    assert fallback is not None
    if policies.top_k or policies.parking:
        yield where, "goes with no other policy"
    plan = Plan.of(scenario.engine)
    if plan.dp > 1 or plan.pp > 1:
        yield where, "is predicted beside one engine without data-parallel replicas or pipeline stages"
    try:
        engine = EngineSettings.model_validate(fallback.engine)
    except ValidationError as error:
        for item in error.errors():
            yield (*where, "engine"), f"'{'.'.join(map(str, item['loc']))}': {said(item)}"
        return
    other = scenario.model_copy(
        update={"model": fallback.model, "hardware": fallback.hardware or scenario.hardware, "engine": engine,
                "policies": None, "variant": None, "routing": Uniform(known=False), "placement_routing": None}
    )  # fmt: skip
    yield from ((where, message) for _, message in check(other))


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


def _engine_findings(scenario: Scenario) -> list[Finding]:
    """What is wrong with the engine of a scenario without engines apart."""
    return [
        finding for finding in check(scenario.model_copy(update={"disaggregation": None})) if finding[0][0] == "engine"
    ]


def _routing(scenario: Scenario, model: Model) -> Iterator[Finding]:
    routed = [g.routed for i in model.order or range(len(model.layers)) if (g := model.layers[i]).routed is not None]
    for where, routing in (("routing", scenario.routing), ("placement_routing", scenario.placement_routing)):
        if routing is None:
            continue
        if routing.kind in {"histogram", "trace", "by_layer", "domains"} and not routed:
            yield (where, "kind"), f"{model.name} has no experts, so it has no routing to describe"
        elif routing.kind == "by_layer":
            yield from _by_layer(routing, where, model, [ffn for ffn in routed if ffn is not None])
        elif model.moe is not None:
            yield from _of_experts(routing, where, model, model.moe)
    apart = scenario.placement_routing is not None
    if apart and not (scenario.engine.enable_eplb or scenario.engine.expert_placement_strategy == "load_sorted"):
        message = (
            "placement_routing says what experts are placed by; enable_eplb, or expert_placement_strategy load_sorted, "
            "places them so"
        )
        yield ("placement_routing",), message
    if scenario.offload is not None and scenario.routing.kind == "by_layer":
        yield ("routing", "kind"), "an offloaded model takes one routing for all layers; by_layer is of resident ones"


def _by_layer(routing: ByLayer, where: str, model: Model, routed: list[Moe]) -> Iterator[Finding]:
    try:
        layers = with_counts(routing).layers
    except SpecError as error:
        yield from (((where, "file"), str(problem)) for problem in error.problems)
        return
    if len(layers) != len(routed):
        place = (where, "file" if routing.file else "layers")
        yield place, f"{where} describes {len(layers)} layers; {model.name} has {len(routed)} with routed experts"
        return
    wrong: dict[str, list[int]] = {}
    for number, (one, ffn) in enumerate(zip(layers, routed, strict=True)):
        for _, message in _of_experts(one, where, model, ffn):
            wrong.setdefault(message, []).append(number)
    for message, numbers in wrong.items():
        others = f" and {len(numbers) - 1} others" if numbers[1:] else ""
        yield (where, "file" if routing.file else "layers"), f"layer {numbers[0]}{others}: {message}"


def _of_experts(routing: Any, where: str, model: Model, moe: Moe) -> Iterator[Finding]:
    """Whether what a routing says of experts fits those of a layer."""
    if routing.kind == "domains":
        for domain in routing.domains:
            yield from _of_experts(domain.routing, where, model, moe)
    if routing.kind == "histogram":
        if len(routing.counts) != moe.num_experts:
            yield (
                (where, "counts"),
                f"has {len(routing.counts)} counts; {model.name} has {moe.num_experts} experts, one count each",
            )
        elif sum(c > 0 for c in routing.counts) < moe.num_experts_per_tok:
            yield (
                (where, "counts"),
                f"fewer experts are ever picked than the top-{moe.num_experts_per_tok} needs",
            )
    if routing.kind == "trace":
        if not Path(routing.file).is_file():
            yield (where, "file"), f"there is no file '{routing.file}'"
            return
        try:
            read_trace(routing.file, moe.num_experts, moe.num_experts_per_tok)
        except SpecError as error:
            for problem in error.problems:
                yield (where, "file"), str(problem)


def _hardware(
    scenario: Scenario, hardware: Hardware, model: Model | None, engine: Engine, limits: Limits
) -> Iterator[Finding]:
    plan = Plan.of(scenario.engine)
    if plan.world > hardware.gpus:
        where = ("engine", max(("pipeline_parallel_size", plan.pp), ("data_parallel_size", plan.dp),
                               ("tensor_parallel_size", plan.tp), key=lambda item: item[1])[0])  # fmt: skip
        what = f"{plan.world} GPUs (TP {plan.tp} x PP {plan.pp} x DP {plan.dp})"
        hint = "" if hardware.cluster else "; name a cluster as hardware for more than a node"
        yield where, f"the plan takes {what}, more than the {hardware.gpus} of {hardware.title}{hint}"
    batch, most = plan.share(scenario.workload.size), limits.max_num_seqs
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
    most_tokens = limits.max_num_batched_tokens
    room = int(engine.file.exchange.low_latency_most_tokens.value)
    if plan.exchanges and plan.backend == "deepep_low_latency" and most_tokens > room:
        yield (
            ("engine", "max_num_batched_tokens"),
            f"{most_tokens} exceeds the {room} tokens DeepEP's low-latency kernels were measured with",
        )
    if scenario.engine.nccl_algo != "auto" and not hardware.has_sms:
        yield ("engine", "nccl_algo"), f"{hardware.title} runs no NCCL; leave it out"
    yield from _backend(scenario, hardware, model, engine)
    if model is not None:
        yield from _formats(scenario, hardware, model, engine)
    if scenario.engine.kv_cache_dtype == "fp8" and hardware.gpu.dense_fp8 is None:
        yield (
            ("engine", "kv_cache_dtype"),
            f"{hardware.name} has no fp8 arithmetic; accepted there: auto, bfloat16",
        )


def _formats(scenario: Scenario, hardware: Hardware, model: Model, engine: Engine) -> Iterator[Finding]:
    """Whether the GPU runs the weights' formats at all, multiplied as they are or widened."""
    stored, least = model.under(scenario.engine.quantization), engine.file.kernels.packed_from
    narrow = sorted({kind(f) for f in stored.formats if bytes_per_weight(f) < BF16})
    if narrow and capability_of(hardware.compute_capability) < capability_of(least):
        where = ("engine", "quantization") if scenario.engine.quantization else ("model",)
        what = f"{engine.file.name} runs {', '.join(narrow)} from compute capability {least}"
        instead = "a checkpoint in bfloat16 is accepted there"
        has = f"has {hardware.compute_capability}" if hardware.has_sms else "is no GPU of NVIDIA's"
        yield where, f"{what}; {hardware.name} {has}: {instead}"


def _backend(scenario: Scenario, hardware: Hardware, model: Model | None, engine: Engine) -> Iterator[Finding]:
    """Whether the engine's version has the kernel that is asked for, for such experts on such a GPU."""
    asked = scenario.engine.moe_backend
    if asked == "auto" or model is None or model.moe is None:
        return
    ffn = model.under(scenario.engine.quantization).moe
    assert ffn is not None
    try:
        engine.file.kernels.candidates(ffn.experts, asked, Place(hardware.compute_capability))
    except SpecError as error:
        yield ("engine", "moe_backend"), str(error).removeprefix("moe_backend ")
