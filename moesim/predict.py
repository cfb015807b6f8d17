"""The spine: a scenario becomes latency, throughput and memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, collapsed, interval, summed
from moesim.cost.machine import Machine
from moesim.errors import SpecError
from moesim.layer import Rank
from moesim.memory import Limits, Room, memory_room, require_room
from moesim.serving import StaticBatch, static_batch
from moesim.spec.checks import check
from moesim.spec.hardware import Hardware
from moesim.spec.loading import load_hardware, load_model
from moesim.spec.scenario import Scenario
from moesim.step import StepModel

_LARGE_GPU_BYTES = 70 * 2**30


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
    """Share of the time priced by each kind of knowledge: fitted, extrapolated, assumed."""
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> float:
        """The central value of a metric."""
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
    engine = scenario.engine
    hardware = load_hardware(scenario.hardware)
    rank = _rank(scenario)
    machine = _machine(scenario.hardware, scenario.calibration)
    return Parts(hardware, rank, limits_of(scenario, hardware), StepModel(rank, machine, engine.enforce_eager))


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
    return Rank(model, engine.tensor_parallel_size, experts, linear, kv_bytes, scenario.routing)


@lru_cache(maxsize=32)
def _machine(hardware: str, calibration: str) -> Machine:
    return Machine(load_hardware(hardware), calibration)


def limits_of(scenario: Scenario, hardware: Hardware) -> Limits:
    """Engine settings with vLLM's defaults for the GPU (arg_utils.py, get_batch_defaults)."""
    engine = scenario.engine
    large = hardware.gpu.memory.value >= _LARGE_GPU_BYTES and "a100" not in hardware.name
    return Limits(
        engine.max_num_batched_tokens or (8192 if large else 2048),
        engine.max_num_seqs or (1024 if large else 256),
        engine.gpu_memory_utilization,
        engine.block_size,
        engine.enforce_eager,
    )


def room_of(scenario: Scenario, parts: Parts) -> Room:
    load = scenario.workload
    encoder = parts.rank.model.has_encoder
    context = load.output_len if encoder else load.input_len + load.output_len
    source = load.input_len if encoder else 0
    return memory_room(parts.rank, parts.hardware, parts.limits, load.batch_size, context, source)


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
    prefill = collapsed(batch.prefill)
    decode = collapsed(batch.decode, batch.decode_weights) if batch.decode else None
    cost = summed("batch", [prefill, decode] if decode else [prefill])
    leaves = [(leaf, seconds) for leaf, seconds in _leaf_seconds(cost)]
    total = sum(seconds for _, seconds in leaves)
    tags: dict[str, float] = {}
    for leaf, seconds in leaves:
        tags[leaf.tag] = tags.get(leaf.tag, 0.0) + seconds / total
    bounds = {part.name: _dominant_bound(part) for part in cost.children}
    notes = sorted({f"{leaf.name}: {note}" for leaf, _ in leaves for note in leaf.notes})
    return Prediction(scenario, _metrics(batch, prefill, decode), room, cost, bounds, tags, tuple(notes))


def _leaf_seconds(cost: Cost, times: float = 1.0) -> list[tuple[Cost, float]]:
    times = times * cost.count
    if not cost.children:
        return [(cost, times * cost.seconds)]
    return [pair for child in cost.children for pair in _leaf_seconds(child, times)]


def _dominant_bound(cost: Cost) -> str:
    shares: dict[str, float] = {}
    for leaf, seconds in _leaf_seconds(cost):
        key = f"{leaf.bound} of {leaf.name}"
        shares[key] = shares.get(key, 0.0) + seconds
    return max(shares, key=lambda k: shares[k])


def _metrics(batch: StaticBatch, prefill: Cost, decode: Cost | None) -> dict[str, Metric | None]:
    """vLLM bench's definitions over the batch's requests, which all arrive together."""
    finish_s = np.cumsum(np.broadcast_to(batch.prefill.seconds, batch.finished.shape))
    mean_finish_s = float((finish_s * batch.finished).sum() / batch.batch)
    prefill_s, decode_s = float(prefill.seconds), float(decode.seconds) if decode else 0.0
    steps_s = np.broadcast_to(batch.decode.seconds, batch.decode_weights.shape) if batch.decode else np.zeros(0)
    first_s = float(steps_s[0]) if batch.first_token_is_decoded else 0.0
    gaps = batch.output_len - 1
    tokens_out, tokens = batch.batch * batch.output_len, batch.batch * (batch.input_len + batch.output_len)
    e2e_s = prefill_s + decode_s
    mean_ttft_s = mean_finish_s + first_s
    of_prefill = _relative(prefill.seconds, prefill.spread)
    of_decode = _relative(decode.seconds, decode.spread) if decode else of_prefill
    both = summed("", [prefill, decode] if decode else [prefill])
    of_all = _relative(both.seconds, both.spread)
    per_gap_s = (e2e_s - mean_ttft_s) / gaps if gaps else None
    return {
        "mean_ttft_ms": _scaled(1e3 * mean_ttft_s, of_prefill),
        "max_ttft_ms": _scaled(1e3 * (prefill_s + first_s), of_prefill),
        "mean_tpot_ms": _scaled(1e3 * per_gap_s, of_decode) if per_gap_s is not None else None,
        "mean_itl_ms": _scaled(1e3 * per_gap_s, of_decode) if per_gap_s is not None else None,
        "median_itl_ms": _scaled(1e3 * float(np.median(steps_s)), of_decode) if gaps else None,
        "p99_itl_ms": _scaled(1e3 * float(np.quantile(steps_s, 0.99)), of_decode) if gaps else None,
        "mean_e2el_ms": _scaled(1e3 * e2e_s, of_all),
        "request_throughput": _rate(batch.batch / e2e_s, of_all),
        "output_throughput": _rate(tokens_out / e2e_s, of_all),
        "total_token_throughput": _rate(tokens / e2e_s, of_all),
        "itl_per_batch_token_ms": _scaled(1e3 * (e2e_s - prefill_s - first_s) / max(tokens_out - 1, 1), of_decode),
    }


def _relative(seconds: Any, spread: Any) -> tuple[float, float]:
    low, high = interval(seconds, spread)
    return float(low / seconds), float(high / seconds)


def _scaled(value: float, relative: tuple[float, float]) -> Metric:
    return Metric(value, value * relative[0], value * relative[1])


def _rate(value: float, relative: tuple[float, float]) -> Metric:
    return Metric(value, value / relative[1], value / max(relative[0], 1e-9))
