"""The spine: a scenario becomes latency, throughput and memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, interval, leaf_seconds, reduced, summed
from moesim.cost.machine import Machine
from moesim.errors import SpecError
from moesim.memory import Limits, Room, memory_room, require_room
from moesim.rank import Rank
from moesim.serving import StaticBatch, static_batch
from moesim.spec.checks import check
from moesim.spec.defaults import max_num_batched_tokens, max_num_seqs
from moesim.spec.hardware import Hardware
from moesim.spec.loading import load_hardware, load_model
from moesim.spec.plan import Plan
from moesim.spec.scenario import Scenario
from moesim.step import StepModel

_STRICT_SHARE = 0.01
_NORMAL_99 = 2.326


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

    def __getitem__(self, name: str) -> float:
        """The central value of a metric; NaN where it needs a second output token."""
        if name not in self.metrics:
            raise KeyError(f"'{name}' is not a metric; there are {', '.join(self.metrics)}")
        metric = self.metrics[name]
        return float("nan") if metric is None else metric.value


def predict(scenario: Scenario) -> Prediction:
    """Latency, throughput and memory of one scenario.

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
        require_room(room, parts.rank.model, parts.hardware, scenario.workload.batch_size, ways_out(scenario))
    load, budget = scenario.workload, parts.limits.max_num_batched_tokens
    batch = static_batch(parts.steps, load.batch_size, load.input_len, load.output_len, budget)
    return _prediction(scenario, batch, room)


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
    limits = limits_of(scenario, hardware)
    return Parts(hardware, rank, limits, StepModel(rank, machine, limits.eager))


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
    return Rank(model, Plan.of(engine), experts, linear, kv_bytes, scenario.routing)


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
    load = scenario.workload
    encoder = parts.rank.model.has_encoder
    context = load.output_len if encoder else load.input_len + load.output_len
    source = load.input_len if encoder else 0
    plan = parts.rank.plan
    room = memory_room(parts.rank, parts.hardware, parts.limits, plan.share(load.batch_size), context, source)
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
    if here and here.largest_batch >= 1:
        found.append(f"batch_size {here.largest_batch}")
    if here and here.longest_context > load.output_len + 1 and not load_model(scenario.model).has_encoder:
        found.append(f"input_len {here.longest_context - load.output_len}")
    return tuple(found)


def _room_if(scenario: Scenario, changes: dict[str, Any]) -> Room | None:
    try:
        changed = scenario.with_(**changes) if changes else scenario
    except SpecError:
        return None
    return room_of(changed, assemble(changed))


def _prediction(scenario: Scenario, batch: StaticBatch, room: Room) -> Prediction:
    phases = [batch.prefill, batch.decode] if np.any(batch.decode.seconds) else [batch.prefill]
    cost = reduced(summed("batch", phases), lambda x: np.asarray(x).item())
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
    found = {
        name: None if np.isnan(value[0]) else Metric(float(value[0]), float(low[0]), float(high[0]))
        for name, (value, low, high) in metrics(batch).items()
    }
    return Prediction(scenario, found, room, cost, bounds, tags, tuple(notes), tuple(outside))


def _dominant_bound(cost: Cost) -> str:
    shares: dict[str, float] = {}
    for leaf, seconds in leaf_seconds(cost):
        key = f"{leaf.name} ({leaf.bound})"
        shares[key] = shares.get(key, 0.0) + seconds
    return max(shares, key=lambda k: shares[k])


METRICS = (
    "mean_ttft_ms", "max_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "median_itl_ms", "p99_itl_ms", "mean_e2el_ms",
    "request_throughput", "output_throughput", "total_token_throughput", "itl_per_batch_token_ms",
    "median_decode_step_ms", "p99_decode_step_ms",
)  # fmt: skip


def metrics(batch: StaticBatch) -> dict[str, tuple[Any, Any, Any]]:
    """vLLM bench's metrics over the batch's requests, which all arrive together: (value, low, high) by name.

    TPOT = (E2EL - TTFT)/(n_out - 1), mean over requests; ITL pools every gap; ``itl_per_batch_token_ms`` is
    (E2E - TTFT)/(batch x out - 1). Throughput counts the whole batch over its end-to-end latency. Metrics that
    need a second output token are NaN without one. ``*_decode_step_ms`` are over steps and routing draws.
    """
    prefill_s, decode_s = batch.prefill.seconds, batch.decode.seconds
    first_s = batch.decode_step_s[:, 0] if batch.first_token_is_decoded else 0.0
    e2e_s, all_first_s = prefill_s + decode_s, prefill_s + first_s
    ttft_s = batch.mean_finish_s + first_s
    gaps = np.where(batch.output_len > 1, batch.output_len - 1, np.nan)
    tokens_out = batch.batch * batch.output_len
    of_prefill, of_decode = _relative(batch.prefill), _relative(batch.decode)
    of_all = _relative(summed("", [batch.prefill, batch.decode]))
    waiting_s = prefill_s - batch.mean_finish_s
    waiting = reduced(batch.prefill, lambda x: x * waiting_s / prefill_s)
    of_gaps = _relative(summed("", [waiting, batch.decode]))
    per_gap_s = (e2e_s - ttft_s) / gaps
    median_s, p99_s = _pooled_gaps(batch, (0.5, 0.99))
    per_batch_token_s = (e2e_s - all_first_s) / np.where(tokens_out > 1, tokens_out - 1, np.nan)
    one = gaps / gaps

    def times(seconds: Any, relative: tuple[Any, Any]) -> tuple[Any, Any, Any]:
        return 1e3 * seconds, 1e3 * seconds * relative[0], 1e3 * seconds * relative[1]

    def rate(value: Any) -> tuple[Any, Any, Any]:
        return value, value / of_all[1], value / np.maximum(of_all[0], 1e-9)

    return {
        "mean_ttft_ms": times(ttft_s, of_prefill),
        "max_ttft_ms": times(all_first_s, of_prefill),
        "mean_tpot_ms": times(per_gap_s, of_gaps),
        "mean_itl_ms": times(per_gap_s, of_gaps),
        "median_itl_ms": times(one * median_s, of_decode),
        "p99_itl_ms": times(one * p99_s, of_gaps),
        "mean_e2el_ms": times(e2e_s, of_all),
        "request_throughput": rate(batch.batch / e2e_s),
        "output_throughput": rate(tokens_out / e2e_s),
        "total_token_throughput": rate(batch.batch * (batch.input_len + batch.output_len) / e2e_s),
        "itl_per_batch_token_ms": times(one * per_batch_token_s, of_decode),
        "median_decode_step_ms": times(one * np.median(batch.decode_step_s, axis=1), of_decode),
        "p99_decode_step_ms": times(one * _slow_step(batch), of_decode),
    }


def _slow_step(batch: StaticBatch) -> Any:
    """The decode step that one in a hundred exceeds: long contexts, and routing that fills one rank."""
    steps_s = batch.decode_step_s
    middle, late = np.median(steps_s, axis=1), np.quantile(steps_s, 0.99, axis=1)
    draws = batch.decode.variance / np.maximum(batch.output_len - 1, 1)
    return middle + np.hypot(late - middle, _NORMAL_99 * np.sqrt(draws))


def _pooled_gaps(batch: StaticBatch, quantiles: tuple[float, ...]) -> list[Any]:
    """Quantiles over every gap of every request: one wait for others' prefill, then a decode step per token."""
    steps_s, stall_s = batch.decode_step_s, batch.stall_s
    gaps = np.maximum(batch.output_len - 1, 1)[:, None]
    first_s = stall_s + steps_s[:, :1]
    values = np.concatenate([first_s, steps_s], axis=1)
    weights = np.empty(values.shape)
    weights[:, : first_s.shape[1]] = 1.0 / first_s.shape[1]
    weights[:, first_s.shape[1] :] = (gaps - 1) / steps_s.shape[1]
    order = values.argsort(axis=1)
    passed = np.take_along_axis(weights, order, axis=1).cumsum(axis=1)
    values = np.take_along_axis(values, order, axis=1)
    last = values.shape[1] - 1
    places = [np.minimum((passed < q * gaps).sum(1, keepdims=True), last) for q in quantiles]
    return [np.take_along_axis(values, place, axis=1)[:, 0] for place in places]


def _relative(cost: Cost) -> tuple[Any, Any]:
    """Interval of a cost as factors of its time."""
    low, high = interval(cost.seconds, cost.spread)
    seconds = np.maximum(cost.seconds, 1e-30)
    return low / seconds, high / seconds
