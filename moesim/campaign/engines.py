"""What engines will do: times, throughput and power of every batch and load, and the memory they start with."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moesim.assembly import assemble
from moesim.bench.engine.plan import arrivals_of
from moesim.bench.engine.settings import memory_point
from moesim.bench.point import Point
from moesim.calibrate.engine_ask import EngineAsk
from moesim.calibrate.engine_scenario import scenario_data
from moesim.campaign.predicted import EDGE, TIMES, Predicted, Value, asked
from moesim.errors import DoesNotFit, SpecError
from moesim.explore.economy import economy
from moesim.explore.pool import pool
from moesim.explore.validate import least_share
from moesim.files.quantities import Seen
from moesim.inputs.scenario import Scenario
from moesim.outcome import Prediction
from moesim.prediction import predict

_OF_MANY = ("p99_itl_ms",)
"""Of loads alone: a batch has a few dozen gaps, whose 99th percentile is the longest."""


@dataclass(frozen=True)
class _Job:
    point: Point
    scenario: Scenario


def predicted_engines(asks: Sequence[EngineAsk], hardware: str, vllm: str, workers: int = 2) -> Iterator[Predicted]:
    """Every start, batch and load of the asks, each once. Raises SpecError for what no engine can be asked.

    Parameters
    ----------
    hardware : str
        A name or a file.
    vllm : str
        The version.
    """
    with tempfile.TemporaryDirectory() as folder:
        jobs = list(_jobs(asks, hardware, vllm, Path(folder)))
        with pool(workers) as processes:
            yield from processes.map(_predicted, jobs)


def _jobs(asks: Sequence[EngineAsk], hardware: str, vllm: str, folder: Path) -> Iterator[_Job]:
    seen: set[str] = set()
    for ask in asks:
        settings = ask.settings(folder)
        for point in [memory_point(settings), *map(asked, ask.points(settings))]:
            if point.key not in seen:
                seen.add(point.key)
                data = scenario_data(
                    point.columns, str(settings.model), hardware, vllm,
                    draft=str(settings.draft_model) if settings.draft_model else None,
                )  # fmt: skip
                if point.table == "engine_load":
                    data["workload"] = {"trace_file": str(_trace(point, folder))}
                yield _Job(point, Scenario.model_validate(data))


def _trace(point: Point, folder: Path) -> Path:
    """The very requests that will be sent: how few of them happen to arrive is no error of a prediction."""
    path = folder / f"{hashlib.sha256(point.key.encode()).hexdigest()}.csv"
    lines = [f"{at!r},{tokens_in},{tokens_out}" for at, tokens_in, tokens_out in arrivals_of(point)]
    path.write_text("\n".join(["arrival_s,input_len,output_len", *lines]) + "\n", encoding="utf-8")
    return path


def _predicted(job: _Job) -> Predicted:
    try:
        if job.point.table == "engine_memory":
            return Predicted(job.point, _memory(job), "counted; reserves assumed")
        prediction = predict(job.scenario)
    except (DoesNotFit, SpecError) as error:
        return Predicted(job.point, {}, f"not predicted: {str(error).splitlines()[0]}")
    values = {
        name: Value(metric.value, metric.low, metric.high)
        for name in TIMES
        if (metric := prediction.metrics[name]) is not None and metric.value > 0
        if job.point.table == "engine_load" or name not in _OF_MANY
    }
    rate, power = prediction.metrics["output_throughput"], economy(prediction).gpu_w
    assert rate is not None
    values |= {"output_throughput": Value(rate.value, rate.low, rate.high)}
    values |= {"mean_power_w": Value(power.value, power.low, power.high)}
    return Predicted(job.point, values, _source(prediction))


def _source(prediction: Prediction) -> str:
    """How much of the time each kind of knowledge prices, and what of it lies outside the fits."""
    known = prediction.knowledge
    shares = ", ".join(f"{share:.0%} {tag}" for tag, share in sorted(known.tags.items(), key=lambda item: -item[1]))
    return "; ".join([shares, *known.outside])


def _memory(job: _Job) -> dict[str, Value]:
    """What the engine's own profile will say. [B; blocks; a share]"""
    parts = assemble(job.scenario)
    room, reserves = parts.fullest[1], parts.rank.engine.file.reserves

    def ranged(value: float, reserve: Seen | None) -> Value:
        ends = reserve.seen if reserve else None
        return Value(value, *((value * end / reserve.value for end in ends) if ends and reserve else (value, value)))

    low, high = room.kv_range or (room.kv_available, room.kv_available)
    share = least_share(job.scenario)
    more, less = (high - room.kv_available) / room.total, (room.kv_available - low) / room.total
    return {
        "weights_bytes": ranged(room.weights, None),
        "peak_activation_bytes": ranged(room.activations, reserves.activation_peak),
        "cuda_graph_estimate_bytes": ranged(room.cuda_graphs, reserves.cuda_graphs),
        "kv_available_bytes": Value(room.kv_available, low, high),
        "kv_blocks": Value(room.kv_blocks, room.blocks_at(low), room.blocks_at(high)),
        EDGE: Value(share, max(share - more, 0.0), min(share + less, 1.0)),
    }
