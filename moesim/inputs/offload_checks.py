"""Why an offloaded scenario cannot be predicted."""

from __future__ import annotations

from collections.abc import Iterator

from moesim.errors import SpecError
from moesim.hardware.hardware import Hardware
from moesim.hardware.host import load_host
from moesim.inputs.offload import AMOUNTS, OF_EXPERTS, OF_LAYERS, Offload
from moesim.inputs.plan_checks import Finding
from moesim.inputs.scenario import Scenario
from moesim.inputs.system_file import System, load_system, systems, unit_of
from moesim.models.model import Model
from moesim.models.plan import Plan

_ROUNDED = 1.05
"""By how much what is said of a link may exceed what its datasheet says."""
_FP8 = {"fp8", "fp8_block"}


def offload_findings(scenario: Scenario, model: Model | None, hardware: Hardware | None) -> Iterator[Finding]:
    """What is wrong with a scenario's ``offload`` and ``host``."""
    host = None
    if scenario.host is not None:
        try:
            host = load_host(scenario.host)
        except SpecError as error:
            yield from ((("host",), str(problem)) for problem in error.problems)
    offload = scenario.offload
    if offload is None:
        return
    try:
        system = load_system(offload.system)
    except SpecError as error:
        yield from ((("offload", "system"), str(problem)) for problem in error.problems)
        return
    yield from _elsewhere(scenario, system)
    yield from _contradictions(offload, system, model)
    if model:
        yield from _beyond(offload, system, model)
    if hardware:
        yield from _on(offload, hardware)
        link = host.gpu_link if host and host.gpu_link else hardware.links.host
        if offload.host_bandwidth is not None and offload.host_bandwidth > _ROUNDED * link.value:
            yield (
                ("offload", "host_bandwidth"),
                f"{offload.host_bandwidth / 1e9:.4g} GB/s is more than the {link.value / 1e9:.4g} GB/s of the link "
                "between host and GPU; for a faster link give hardware: GPU[host_link*2]",
            )


def _elsewhere(scenario: Scenario, system: System) -> Iterator[Finding]:
    """Settings of other sections that do not go with offloading."""
    plan = Plan.of(scenario.engine)
    if plan.dp > 1:
        yield ("offload",), "a model with weights off the GPU has one replica; set data_parallel_size: 1"
    if plan.expert_parallel:
        yield ("offload",), "GPUs slice an offloaded model's experts; leave enable_expert_parallel out"
    if plan.pp > 1 and scenario.offload is not None and scenario.offload.cpu_offload_gb is not None:
        yield (
            ("offload", "cpu_offload_gb"),
            "is of each GPU of a tensor-parallel group; beside pipeline_parallel_size give n_gpu_layers",
        )
    if plan.tp > 1 and system.runtime.several_gpus == "layers":
        yield (
            ("engine", "tensor_parallel_size"),
            f"{system.title} runs layers on several GPUs one after the other; give pipeline_parallel_size",
        )
    if scenario.workload.arrivals != "batch":
        yield from _under_load(scenario, system)
    if scenario.disaggregation is not None:
        yield ("offload",), "an offloaded model runs on one engine; leave disaggregation out"
    dispatch = scenario.engine.moe_dispatch
    if dispatch != "fused":
        yield ("engine", "moe_dispatch"), f"{dispatch} is of experts on the GPU; with an offload leave it out"


def _under_load(scenario: Scenario, system: System) -> Iterator[Finding]:
    """What does not go with requests that come and go."""
    assert scenario.offload is not None
    if system.runtime.kernels == "eager":
        serving = ", ".join(name for name in systems() if load_system(name).runtime.kernels != "eager")
        yield (
            ("offload", "system"),
            f"{system.title} answers one batch after the other; give batch_size, or a system that serves: {serving}",
        )
    filled_by_itself = all(getattr(scenario.offload, n) is None and getattr(system.policy, n) is None for n in AMOUNTS)
    if filled_by_itself and scenario.workload.max_concurrency is None:
        yield (
            ("offload",),
            "with requests at a rate say how much stays on the GPU, which shares it with their cache: "
            + " or ".join(AMOUNTS),
        )
    if scenario.offload.cold_start:
        yield ("offload", "cold_start"), "under load earlier requests have filled the cache; leave it out"
    if scenario.offload.kv_cache == "cpu":
        yield ("offload", "kv_cache"), "under load the cache is on the GPU; give batch_size, or leave it out"
    if scenario.policies is not None:
        yield ("policies",), "are of models whose weights are on the GPU; leave them or the offload out"
    if scenario.engine.drafts is not None:
        yield ("engine", "speculative_config"), "under load is of models whose weights are on the GPU; give batch_size"


def _contradictions(offload: Offload, system: System, model: Model | None) -> Iterator[Finding]:
    given = [name for name in AMOUNTS if getattr(offload, name) is not None]
    if set(given) == {"n_gpu_layers", "n_cpu_moe"} and model:
        layers = model.num_hidden_layers
        if (offload.n_gpu_layers or 0) < layers:
            yield (
                ("offload", "n_gpu_layers"),
                f"beside n_cpu_moe all layers are on the GPU: {layers} or more is accepted, or leave one of them out",
            )
    elif len(given) > 1:
        yield ("offload", given[1]), f"{' and '.join(given)} both say how much stays on the GPU; keep one"
    unit = unit_of(offload, system)
    guess = offload.prefetch or system.policy.prefetch
    if unit == "layer" and guess in {"next_gate", "activation_matrix"}:
        yield ("offload", "prefetch"), f"{guess} guesses experts, but whole layers move; accepted: none, next_layer"
    if unit == "expert" and guess == "next_layer":
        yield ("offload", "prefetch"), "next_layer brings whole layers; set unit: layer, or name a guess of experts"
    missing = offload.missing or system.policy.missing
    backing = offload.backing or system.policy.backing
    yield from _of_layers(offload, unit, missing)
    if backing == "disk" and not system.footprint.disk:
        yield ("offload", "backing"), f"{system.title} reads nothing from disk; accepted: dram"
    if missing in {"cpu", "cheaper"} and backing == "remote_gpu":
        yield ("offload", "backing"), "the CPU cannot run what lies on another GPU; accepted with it: dram, disk"
    if offload.remote_bandwidth is not None and backing != "remote_gpu":
        yield ("offload", "remote_bandwidth"), "is of a remote GPU; set backing: remote_gpu, or host_bandwidth"
    if offload.kv_cache == "cpu" and system.cpu_share is None:
        yield ("offload", "kv_cache"), f"{system.title} runs nothing on the CPU; accepted: gpu"
    if missing in {"cpu", "cheaper"} and system.cpu_share is None:
        yield (
            ("offload", "missing"),
            f"{system.title} runs nothing on the CPU; accepted: gpu, or another system (custom, fiddler, "
            "ktransformers, llama-cpp)",
        )


def _of_layers(offload: Offload, unit: str, missing: str | None) -> Iterator[Finding]:
    """Settings that say something of experts where whole layers move, or the other way round."""
    if unit == "layer":
        for name in OF_EXPERTS:
            if getattr(offload, name) is not None:
                yield (
                    ("offload", name),
                    f"{name} counts experts, but whole layers move; give n_gpu_layers or gpu_memory",
                )
        if offload.cache not in {None, "none"}:
            yield ("offload", "cache"), f"{offload.cache} caches experts, but whole layers move; leave it out"
        if missing == "cpu" and offload.prefetch == "next_layer":
            yield ("offload", "prefetch"), "layers that run on the CPU are not fetched; accepted: none"
        if missing == "cheaper":
            yield ("offload", "missing"), "cheaper chooses for experts, but whole layers move; set missing: gpu, or cpu"
        if missing == "cpu" and offload.streamed is not None:
            yield ("offload", "streamed"), "layers that run on the CPU do not come over the link; leave it out"
    else:
        for name in OF_LAYERS:
            if getattr(offload, name) is not None and offload.n_cpu_moe is None:
                yield ("offload", name), "counts whole layers, but unit is expert; leave one of them out"
        if offload.streamed is not None:
            yield ("offload", "streamed"), "is of whole layers, but experts move one by one; leave it out"


def _beyond(offload: Offload, system: System, model: Model) -> Iterator[Finding]:
    """Amounts that the model does not have."""
    ffns = [g.routed for g in model.layers for _ in range(g.count) if g.routed is not None]
    if not ffns:
        if unit_of(offload, system) == "expert":
            yield ("offload",), f"{model.name} has no experts to offload; n_gpu_layers moves whole layers"
        experts = 0
    else:
        experts = ffns[0].num_experts
        skips = offload.skipped_share if offload.skipped_share is not None else system.policy.skipped_share
        if skips and ffns[0].num_experts_per_tok == 1:
            yield (
                ("offload", "skipped_share"),
                f"a token of {model.name} has a single expert, which cannot be skipped; set skipped_share: 0",
            )
    limits = {
        "experts_on_gpu": (experts, f"experts of a layer of {model.name}"),
        "offload_per_layer": (experts, f"experts of a layer of {model.name}"),
        "resident_experts": (sum(f.num_experts for f in ffns), f"experts of {model.name}"),
    }
    for name, (most, what) in limits.items():
        value = getattr(offload, name)
        if value is not None and value > most:
            yield ("offload", name), f"{value:g} exceeds the {most} {what}; from 0 to {most} is accepted"


def _on(offload: Offload, hardware: Hardware) -> Iterator[Finding]:
    if offload.gpu_memory is not None and offload.gpu_memory > hardware.gpu.memory.value * 1.1:
        yield (
            ("offload", "gpu_memory"),
            f"{offload.gpu_memory / 2**30:.4g} GiB is more than {hardware.title} has "
            f"({hardware.gpu.memory.value / 2**30:.4g} GiB)",
        )
    for name in ("experts_format", "attention_format"):
        if getattr(offload, name) in _FP8 and hardware.gpu.dense_fp8 is None:
            yield ("offload", name), f"{hardware.name} has no fp8 arithmetic"
