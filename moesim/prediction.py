"""The spine: a scenario becomes latency, throughput and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.assembly import Parts, assemble, offload_ways_out, room_of, ways_out
from moesim.cost.cost import Cost, leaf_seconds, reduced, summed
from moesim.errors import SpecError
from moesim.memory import Room, fullest_stage, require_room
from moesim.serving.engine import front_end, scheduler_limits
from moesim.serving.load_metrics import load_cost, load_metrics, steady_metrics
from moesim.serving.report import NO_SLO, LoadReport, Slo, Timeline
from moesim.serving.static import static_batch
from moesim.serving.static_metrics import metrics
from moesim.serving.steady import SteadyState, steady_state
from moesim.spec.checks import check
from moesim.spec.loading import load_model
from moesim.spec.scenario import Locality, Scenario
from moesim.under_load import memory_side, served

if TYPE_CHECKING:
    from moesim.offload.report import OffloadReport
    from moesim.offload.tiers import Tiers

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
    memory: Room | Tiers
    cost: Cost
    bounds: dict[str, str]
    """What bounds prefill and decode."""
    tags: dict[str, float]
    """Share of the time priced by each kind of knowledge: fitted, extrapolated or assumed."""
    notes: tuple[str, ...]
    outside: tuple[str, ...]
    """What takes a hundredth of the time or more and lies outside the fitted range or GPU: --strict refuses it."""
    report: LoadReport | None = None
    """How a simulated run went."""
    steady: SteadyState | None = None
    """The steady state, where that was asked for."""
    offload: OffloadReport | None = None
    """What is where and which lane does what, where weights are off the GPU."""

    @property
    def room(self) -> Room:
        """The GPU's memory where all weights are on it."""
        assert isinstance(self.memory, Room), "weights are off the GPU: see memory"
        return self.memory

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
    parts, room = _fitting(memory_side(scenario))
    if scenario.workload.arrivals == "batch":
        return _of_batch(scenario, parts, room)
    report, steps = served(scenario, parts, slo, timeline, progress)
    cost = load_cost(steps, report)
    found = load_metrics(report, cost, parts.steps.machine.served_errors)
    return _prediction(scenario, cost, found, room, report)


def predict_steady(scenario: Scenario) -> Prediction:
    """The same under load, in closed form: instant, for requests out of step (``serving/steady.py``).

    Raises
    ------
    SpecError
        As ``predict``; a static batch, a trace or lengths from a file have no steady state.
    DoesNotFit
        As ``predict``.
    """
    problems = check(scenario)
    load = scenario.workload
    if not problems and scenario.disaggregation is not None:
        problems = [(("disaggregation",), "has no closed form yet; leave out --steady")]
    if not problems and (load.arrivals in {"batch", "trace"} or load.lengths.kind == "file"):
        what = f"lengths from a {load.lengths.kind}" if load.lengths.kind == "file" else f"a {load.arrivals}"
        problems = [(("workload",), f"{what} has no steady state; give max_concurrency or request_rate and lengths")]
    if problems:
        raise SpecError("; ".join(message for _, message in problems))
    parts, room = _fitting(scenario)
    fullest = fullest_stage(parts.rank, parts.hardware, parts.limits)
    front = front_end(parts.steps, scenario.engine)
    settings = scheduler_limits(scenario.engine, parts.limits)
    state = steady_state(parts.steps, settings, parts.limits.block_size, fullest, load, front)
    found = steady_metrics(state, load, parts.steps.machine.served_errors)
    return _prediction(scenario, state.cost, found, room, steady=state)


def _fitting(scenario: Scenario) -> tuple[Parts, Room | Tiers]:
    """The scenario's parts and its memory. Raises DoesNotFit."""
    parts = assemble(scenario)
    if parts.offload is not None and not parts.offload.plain:
        if not parts.offload.tiers.fits:
            from moesim.offload.report import require_tiers

            require_tiers(parts.offload, offload_ways_out(scenario))
        return parts, parts.offload.tiers
    room = room_of(scenario, parts)
    if not room.fits:
        require_room(room, parts.rank.model, parts.hardware, scenario.workload.size, ways_out(scenario))
    return parts, room


def _of_batch(scenario: Scenario, parts: Parts, room: Room | Tiers) -> Prediction:
    load, budget = scenario.workload, parts.limits.max_num_batched_tokens
    batch = static_batch(parts.steps, load.size, load.input_len, load.output_len, budget)
    phases = [batch.prefill, batch.decode] if np.any(batch.decode.seconds) else [batch.prefill]
    cost = reduced(summed("batch", phases), lambda x: np.asarray(x).item())
    found = {name: tuple(float(v[0]) for v in values) for name, values in metrics(batch).items()}
    predicted = _prediction(scenario, cost, found, room)
    if parts.offload is None:
        return predicted
    from moesim.offload.report import offload_report

    return replace(predicted, offload=offload_report(parts.steps, load))


def _prediction(
    scenario: Scenario,
    cost: Cost,
    found: dict[str, Any],
    room: Room | Tiers,
    report: LoadReport | None = None,
    steady: SteadyState | None = None,
) -> Prediction:
    leaves = leaf_seconds(cost)
    # What overlap hides is no work of its own.
    total = sum(seconds for _, seconds in leaves if seconds > 0)
    tags: dict[str, float] = {}
    for leaf, seconds in leaves:
        tags[leaf.tag] = tags.get(leaf.tag, 0.0) + max(seconds, 0.0) / total
    tags = {tag: share for tag, share in tags.items() if share > 0}
    bounds = {part.name: _dominant_bound(part) for part in cost.children}
    notes = sorted({f"{leaf.name}: {note}" for leaf, _ in leaves for note in leaf.notes})
    if isinstance(scenario.routing, Locality):
        from moesim.spec.locality_file import locality_note

        model = load_model(scenario.model, scenario.engine.hf_overrides)
        notes += [note] if model.moe and (note := locality_note(scenario.routing, model.name)) else []
    outside = sorted(
        {
            f"{leaf.name}: {note}"
            for leaf, seconds in leaves
            for note in leaf.notes
            if seconds >= _STRICT_SHARE * total and ("outside the fitted range" in note or "fitted on" in note)
        }
        | {
            f"{leaf.name}: {leaf.tag}, not fitted ({leaf.source})"
            for leaf, seconds in leaves
            if seconds >= _STRICT_SHARE * total
            and any(family.startswith("offload/") for family in leaf.spread)
            and leaf.tag != "fitted"
        }
    )
    shown = {name: None if np.isnan(values[0]) else Metric(*values) for name, values in found.items()}
    return Prediction(scenario, shown, room, cost, bounds, tags, tuple(notes), tuple(outside), report, steady)


def _dominant_bound(cost: Cost) -> str:
    shares: dict[str, float] = {}
    for leaf, seconds in leaf_seconds(cost):
        key = f"{leaf.name} ({leaf.bound})"
        shares[key] = shares.get(key, 0.0) + seconds
    return max(shares, key=lambda k: shares[k])
