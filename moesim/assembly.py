"""A scenario's parts put together: the model on its ranks, the GPU with its fits, the engine's limits, the memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from moesim.cost.machine import Machine
from moesim.errors import SpecError
from moesim.memory import Limits, Room, memory_room
from moesim.rank import Rank
from moesim.spec.defaults import max_num_batched_tokens, max_num_seqs
from moesim.spec.hardware import Hardware
from moesim.spec.loading import load_hardware, load_model
from moesim.spec.offload import AMOUNTS, Offload
from moesim.spec.plan import Plan
from moesim.spec.scenario import Scenario
from moesim.step import StepModel

if TYPE_CHECKING:
    from moesim.offload.plan import OffloadPlan


@dataclass(frozen=True)
class Parts:
    """A scenario's objects, ready to price."""

    hardware: Hardware
    rank: Rank
    limits: Limits
    steps: StepModel
    offload: OffloadPlan | None = None
    """What stays on the GPU, where not everything does."""


def assemble(scenario: Scenario) -> Parts:
    """Look up the model, the GPU and the calibration a scenario names."""
    hardware = load_hardware(scenario.hardware)
    rank = _rank(scenario)
    machine = machine_of(hardware, scenario.calibration)
    limits, engine = limits_of(scenario, hardware), scenario.engine
    if scenario.offload is not None:
        return _offloaded(scenario, scenario.offload, hardware, rank, machine, limits)
    captured = 0 if limits.eager else engine.max_cudagraph_capture_size
    return Parts(hardware, rank, limits, StepModel(rank, machine, captured, engine.async_scheduling))


def _offloaded(
    scenario: Scenario, offload: Offload, hardware: Hardware, rank: Rank, machine: Machine, limits: Limits
) -> Parts:
    """The same where a policy decides what stays on the GPU. Loaded where used: most scenarios have none."""
    from moesim.offload.memory import Work
    from moesim.offload.misses import Requests
    from moesim.offload.plan import filled, placed, rank_with_formats
    from moesim.offload.steps import OffloadedSteps
    from moesim.spec.host import load_host
    from moesim.spec.system_file import load_system

    load, engine = scenario.workload, scenario.engine
    system, host = load_system(offload.system), load_host(scenario.host or hardware.host)
    policy = filled(offload, system)
    rank = rank_with_formats(rank, policy)
    work = Work(load.size, load.longest()[0], sum(load.longest()))
    if system.runtime.kernels == "eager":
        # Whole prompts in one step, no graphs.
        whole = work.batch * work.prompt
        limits = replace(limits, max_num_batched_tokens=whole, max_num_seqs=work.batch, eager=True)
    captured = 0 if limits.eager else engine.max_cudagraph_capture_size
    plan = placed(system, policy, rank, hardware, host, limits, work)
    requests, ffn = None, rank.model.moe
    if ffn is not None:
        routing = rank.routing
        skew = getattr(routing, "corpus_skew", None)
        requests = Requests(rank.loads(ffn), policy, getattr(routing, "persistence", 0.0), skew)
    steps = OffloadedSteps(rank, machine, captured, engine.async_scheduling, plan=plan, requests=requests)
    return Parts(hardware, rank, limits, steps, plan)


def _rank(scenario: Scenario) -> Rank:
    engine, routing = scenario.engine, scenario.routing
    model = load_model(scenario.model, engine.hf_overrides)
    if routing.kind == "locality":
        from moesim.spec.locality_file import resolved

        routing = resolved(routing, model.name)
    shipped, chosen = model.quantization, engine.quantization
    if chosen == "none":
        experts = linear = "bfloat16"
    elif chosen == "mxfp4":
        experts, linear = "mxfp4", "bfloat16"
    else:
        experts, linear = chosen or shipped.experts, chosen or shipped.linear
    kv_bytes = 1.0 if engine.kv_cache_dtype == "fp8" else 2.0
    return Rank(model, Plan.of(engine), experts, linear, kv_bytes, routing, engine.moe_backend)


@lru_cache(maxsize=32)
def machine_of(hardware: Hardware, calibration: str) -> Machine:
    """The GPU and its fits, looked up once."""
    return Machine(hardware, calibration)


def limits_of(scenario: Scenario, hardware: Hardware) -> Limits:
    """Engine settings with vLLM's defaults for the GPU."""
    engine = scenario.engine
    return Limits(
        max_num_batched_tokens(engine, hardware),
        max_num_seqs(engine, hardware),
        engine.gpu_memory_utilization,
        engine.block_size,
        engine.enforce_eager or Plan.of(engine).eager,
    )


def room_of(scenario: Scenario, parts: Parts) -> Room:
    """The memory of a GPU: a static batch must fit whole, under load one request at least."""
    load = scenario.workload
    encoder = parts.rank.model.has_encoder
    longest_in, longest_out = load.longest()
    context = longest_out if encoder else longest_in + longest_out
    source = longest_in if encoder else 0
    plan = parts.rank.plan
    batch = plan.share(load.size) if load.arrivals == "batch" else 1
    room = memory_room(parts.rank, parts.hardware, parts.limits, batch, context, source)
    return replace(room, largest_batch=plan.dp * room.largest_batch)


def ways_out(scenario: Scenario) -> tuple[str, ...]:
    """The nearest changes that fit: more TP, another precision, a smaller batch, fewer tokens."""
    tp, load = scenario.engine.tensor_parallel_size, scenario.workload
    found: list[str] = []
    for name, changes in (
        *((f"tensor_parallel_size {n}", {"tensor_parallel_size": n}) for n in (2 * tp, 4 * tp, 8 * tp)),
        *((f"quantization {q}", {"quantization": q}) for q in ("fp8", "int4")),
        ("kv_cache_dtype fp8", {"kv_cache_dtype": "fp8"}),
        *((f"tensor_parallel_size {n} with quantization {q}", {"tensor_parallel_size": n, "quantization": q})
          for n in (2 * tp, 4 * tp, 8 * tp) for q in ("fp8", "int4")),
    ):  # fmt: skip
        if " with " in name and found:
            break
        room = _room_if(scenario, changes)
        if room and room.fits and not (name.startswith("tensor") and any(f.startswith("tensor") for f in found)):
            found.append(name)
    here = _room_if(scenario, {})
    if here and here.largest_batch >= 1 and load.arrivals == "batch":
        found.append(f"batch_size {here.largest_batch}")
    output = load.longest()[1]
    if here and here.longest_context > output + 1 and not load_model(scenario.model).has_encoder:
        found.append(f"input_len {here.longest_context - output}")
    return tuple(found)


def offload_ways_out(scenario: Scenario) -> tuple[str, ...]:
    """The nearest changes under which an offloaded scenario fits: fewer experts on the GPU, narrower ones, a host."""
    from moesim.spec.system_file import load_system

    offload, found = scenario.offload, []
    if offload is None:
        return ()
    amount = next((name for name in AMOUNTS if getattr(offload, name) is not None), None)
    changes: list[tuple[str, dict[str, Any]]] = []
    if amount is not None:
        changes.append((f"without offload.{amount} (as much on the GPU as fits)", {f"offload.{amount}": None}))
    formats = dict.fromkeys(experts for experts, _ in load_system(offload.system).search.formats)
    changes += [(f"offload.experts_format {name}", {"offload.experts_format": name}) for name in formats]
    changes += [(f"host {name}", {"host": name}) for name in ("workstation-ddr4", "server-sapphire-rapids")]
    load = scenario.workload
    for name, value in (("input_len", load.input_len or 1), ("batch_size", load.size)):
        changes += [(f"{name} {value >> n}", {name: value >> n}) for n in range(1, 12) if value >> n]
    for text, change in changes:
        if any(text.split()[0] == other.split()[0] and text[:5] in ("input", "batch") for other in found):
            continue
        try:
            parts = assemble(scenario.with_(**change))
        except SpecError:
            continue
        if parts.offload is not None and parts.offload.tiers.fits:
            found.append(text)
    return tuple(found)


def _room_if(scenario: Scenario, changes: dict[str, Any]) -> Room | None:
    try:
        changed = scenario.with_(**changes) if changes else scenario
    except SpecError:
        return None
    return room_of(changed, assemble(changed))
