"""The spine: a scenario becomes latency, throughput and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, leaf_seconds, reduced, summed
from moesim.cost.machine import Machine
from moesim.errors import SpecError
from moesim.memory import Limits, Room, fullest_stage, memory_room, require_room
from moesim.rank import Rank
from moesim.serving.engine import simulated
from moesim.serving.load_metrics import load_cost, load_metrics
from moesim.serving.report import NO_SLO, LoadReport, Slo, Timeline
from moesim.serving.requests import of_replica
from moesim.serving.static import static_batch
from moesim.serving.static_metrics import metrics
from moesim.spec.checks import check
from moesim.spec.defaults import max_num_batched_tokens, max_num_seqs
from moesim.spec.hardware import Hardware
from moesim.spec.loading import load_hardware, load_model
from moesim.spec.plan import Plan
from moesim.spec.scenario import Scenario
from moesim.step import StepModel

_STRICT_SHARE = 0.01


@dataclass(frozen=True)
class Metric:
    """A number with its 90 % interval. Unit in the metric's name."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """What a scenario gives. ``metrics`` carry vLLM's names; milliseconds and tokens per second."""

    scenario: Scenario
    metrics: dict[str, Metric | None]
    memory: Room
    cost: Cost
    bounds: dict[str, str]
    """What bounds prefill and decode."""
    tags: dict[str, float]
    """Share of the time priced by each kind of knowledge: fitted, extrapolated or assumed."""
    notes: tuple[str, ...]
    outside: tuple[str, ...]
    """What takes a hundredth of the time or more and lies outside the fitted range or GPU: --strict refuses it."""
    report: LoadReport | None = None
    """How the run went; None for a static batch."""

    def __getitem__(self, name: str) -> float:
        """The central value of a metric; NaN where it needs a second output token."""
        if name not in self.metrics:
            raise KeyError(f"'{name}' is not a metric; there are {', '.join(self.metrics)}")
        metric = self.metrics[name]
        return float("nan") if metric is None else metric.value


def predict(
    scenario: Scenario,
    slo: Slo = NO_SLO,
    timeline: Timeline | None = None,
    progress: Callable[[int], None] | None = None,
) -> Prediction:
    """Latency, throughput and memory of one scenario.

    Parameters
    ----------
    slo : Slo
        What an answer must keep to count towards goodput, under load.
    timeline : Timeline, optional
        Told of every step of a run under load.
    progress : callable, optional
        Told now and then how many requests of a run are answered.

    Raises
    ------
    SpecError
        The scenario's parts do not go together.
    DoesNotFit
        It needs more GPU memory than there is; carries the shortfall and what would fit.
    """
    if not isinstance(scenario, Scenario):
        raise TypeError("predict takes a Scenario; moesim.load reads one from a file")
    problems = check(scenario)
    if problems:
        raise SpecError("; ".join(message for _, message in problems))
    parts = assemble(scenario)
    room = room_of(scenario, parts)
    if not room.fits:
        require_room(room, parts.rank.model, parts.hardware, scenario.workload.size, ways_out(scenario))
    if scenario.workload.arrivals == "batch":
        return _of_batch(scenario, parts, room)
    report = run(scenario, parts, slo, timeline, progress)
    cost = load_cost(parts.steps, report)
    found = load_metrics(report, cost, parts.steps.machine.served_errors)
    return _prediction(scenario, cost, found, room, report)


def run(
    scenario: Scenario, parts: Parts, slo: Slo = NO_SLO, timeline: Timeline | None = None,
    progress: Callable[[int], None] | None = None,
) -> LoadReport:  # fmt: skip
    """The scenario's workload, simulated."""
    load = scenario.workload
    if parts.rank.model.moe is None and parts.rank.plan.dp > 1:
        load = of_replica(load, parts.rank.plan.dp)
    fullest = fullest_stage(parts.rank, parts.hardware, parts.limits)
    return simulated(parts.steps, scenario.engine, parts.limits, fullest, load, slo, timeline, progress)


def _of_batch(scenario: Scenario, parts: Parts, room: Room) -> Prediction:
    load, budget = scenario.workload, parts.limits.max_num_batched_tokens
    batch = static_batch(parts.steps, load.size, load.input_len, load.output_len, budget)
    phases = [batch.prefill, batch.decode] if np.any(batch.decode.seconds) else [batch.prefill]
    cost = reduced(summed("batch", phases), lambda x: np.asarray(x).item())
    found = {name: tuple(float(v[0]) for v in values) for name, values in metrics(batch).items()}
    return _prediction(scenario, cost, found, room)


@dataclass(frozen=True)
class Parts:
    """A scenario's objects, ready to price."""

    hardware: Hardware
    rank: Rank
    limits: Limits
    steps: StepModel


def assemble(scenario: Scenario) -> Parts:
    """Look up the model, the GPU and the calibration a scenario names."""
    hardware = load_hardware(scenario.hardware)
    rank = _rank(scenario)
    machine = machine_of(hardware, scenario.calibration)
    limits, engine = limits_of(scenario, hardware), scenario.engine
    captured = 0 if limits.eager else engine.max_cudagraph_capture_size
    return Parts(hardware, rank, limits, StepModel(rank, machine, captured, engine.async_scheduling))


def _rank(scenario: Scenario) -> Rank:
    engine = scenario.engine
    model = load_model(scenario.model, engine.hf_overrides)
    shipped, chosen = model.quantization, engine.quantization
    if chosen == "none":
        experts = linear = "bfloat16"
    elif chosen == "mxfp4":
        experts, linear = "mxfp4", "bfloat16"
    else:
        experts, linear = chosen or shipped.experts, chosen or shipped.linear
    kv_bytes = 1.0 if engine.kv_cache_dtype == "fp8" else 2.0
    return Rank(model, Plan.of(engine), experts, linear, kv_bytes, scenario.routing, engine.moe_backend)


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


def _room_if(scenario: Scenario, changes: dict[str, Any]) -> Room | None:
    try:
        changed = scenario.with_(**changes) if changes else scenario
    except SpecError:
        return None
    return room_of(changed, assemble(changed))


def _prediction(
    scenario: Scenario, cost: Cost, found: dict[str, Any], room: Room, report: LoadReport | None = None
) -> Prediction:
    leaves = leaf_seconds(cost)
    total = sum(seconds for _, seconds in leaves)
    tags: dict[str, float] = {}
    for leaf, seconds in leaves:
        tags[leaf.tag] = tags.get(leaf.tag, 0.0) + seconds / total
    bounds = {part.name: _dominant_bound(part) for part in cost.children}
    notes = sorted({f"{leaf.name}: {note}" for leaf, _ in leaves for note in leaf.notes})
    outside = sorted(
        {
            f"{leaf.name}: {note}"
            for leaf, seconds in leaves
            for note in leaf.notes
            if seconds >= _STRICT_SHARE * total and ("outside the fitted range" in note or "fitted on" in note)
        }
    )
    shown = {name: None if np.isnan(values[0]) else Metric(*values) for name, values in found.items()}
    return Prediction(scenario, shown, room, cost, bounds, tags, tuple(notes), tuple(outside), report)


def _dominant_bound(cost: Cost) -> str:
    shares: dict[str, float] = {}
    for leaf, seconds in leaf_seconds(cost):
        key = f"{leaf.name} ({leaf.bound})"
        shares[key] = shares.get(key, 0.0) + seconds
    return max(shares, key=lambda k: shares[k])
