"""Predictions beside measurements: every run of every run set, its error, and whether the interval held it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moesim.assembly import assemble
from moesim.errors import DoesNotFit
from moesim.explore.pool import pool
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.run_file import Run, RunSet, load_runs, run_sets
from moesim.inputs.scenario import Scenario
from moesim.outcome import Served
from moesim.prediction import predict
from moesim.serving.engine import longest_request

BAD_NODE_RATIO = 1.2
"""A run is set apart as a bad node's when it takes this much longer a token than its twin on a larger GPU of the same
architecture (more bandwidth, same compute capability) and model. Written down before any prediction was compared."""
_SHARE_STEPS = 12
QUEUE_RATIO = 3.0
"""A measured run queues for the cache when its time to first token is this multiple of the same at half the
concurrency (or that one queues already): without a queue it at most doubles."""
REPLICAS_QUEUE_RATIO = 2.0
"""A measured run of data-parallel replicas queues when its time to first token is above this multiple of the smallest
of its plan and prompt length. Both rules were written down before any prediction was compared."""


@dataclass(frozen=True)
class Comparison:
    """One metric of one run."""

    runs: str
    run: Run
    metric: str
    measured: float
    value: float
    low: float
    high: float
    queues: bool
    """The engine is predicted to keep requests waiting for the cache."""
    queued: bool
    """As measured."""
    bad_node: bool

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.value / self.measured - 1.0

    @property
    def half_width(self) -> float:
        """Of the interval, in the logarithm."""
        return float(np.log(self.high / max(self.low, 1e-9)) / 2.0)

    @property
    def covered(self) -> bool:
        return self.low <= self.measured <= self.high


def validate(
    paths: Iterable[Path] | None = None, progress: Callable[[int, int], None] = lambda done, of: None, workers: int = 2
) -> tuple[list[RunSet], list[Comparison]]:
    """Predict every run of the sets at ``paths``; all that ship where none is given.

    Raises
    ------
    SpecError
        A run set that cannot be read.
    """
    sets = [load_runs(path) for path in (paths or run_sets())]
    many = sum(len(group.runs) for group in sets)
    found: list[Comparison] = []
    marks = {group.name: (_queued(group), _bad_nodes(group, sets)) for group in sets}
    for i, (group, run, values) in enumerate(predicted_runs(sets, workers), 1):
        queued, bad = marks[group.name]
        for metric, measured in run.measured.items():
            value, low, high = values[metric] if values else (float("nan"),) * 3
            queues = values["queues"][0] > 0 if values else True
            found.append(
                Comparison(
                    group.name, run, metric, measured, value, low, high, queues, run.line in queued, run.line in bad
                )
            )
        progress(i, many)
    return sets, found


def predicted_runs(
    sets: Sequence[RunSet], workers: int = 2
) -> Iterator[tuple[RunSet, Run, dict[str, tuple[float, float, float]]]]:
    """Every run of the sets with its predicted metrics, in order; none where it does not fit."""
    jobs = [(group, run) for group in sets for run in group.runs]
    with pool(workers) as processes:
        results = processes.map(_predicted, [run for _, run in jobs])
        for (group, run), values in zip(jobs, results, strict=True):
            yield group, run, values


def compared_memory(group: RunSet) -> list[tuple[str, float, float]]:
    """(what, measured, predicted) of an engine's own memory profile, where the set has one. [B; blocks]"""
    measured = group.about.memory
    if measured is None:
        return []
    parts = assemble(group.about.scenario)
    room = parts.fullest[1]
    pairs = (
        ("weights", measured.weights, room.weights),
        ("activations", measured.activations, room.activations),
        ("CUDA graphs", measured.cuda_graphs, room.cuda_graphs),
        ("KV blocks", measured.kv_blocks, room.kv_blocks),
    )
    found = [(what, float(theirs), float(ours)) for what, theirs, ours in pairs if theirs is not None]
    if measured.starts_at is not None:
        found.append(("least share", measured.starts_at, least_share(group.about.scenario)))
    return found


def least_share(scenario: Scenario) -> float:
    """The smallest gpu_memory_utilization whose cache holds one request of max_model_len, as vLLM asks to start."""
    low, high = 0.0, 1.0
    for _ in range(_SHARE_STEPS):
        middle = (low + high) / 2
        parts = assemble(scenario.with_(gpu_memory_utilization=middle))
        room = parts.fullest[1]
        longest = longest_request(scenario.engine, parts.rank)
        low, high = (low, middle) if room.longest_alone >= longest else (middle, high)
    return high


def _predicted(run: Run) -> dict[str, tuple[float, float, float]]:
    """The run's metrics and whether it queues; empty where it does not fit at all."""
    try:
        prediction = predict(run.scenario)
    except DoesNotFit:
        return {}
    found = {n: (m.value, m.low, m.high) for n, m in prediction.metrics.items() if m is not None}
    assert isinstance(prediction, Served)
    return found | {"queues": (float(prediction.report.cache_limited), 0.0, 0.0)}


def _queued(group: RunSet) -> set[int]:
    """Lines of runs that queue for the cache, as measured."""
    first = {_key(run): _first_token_ms(run) for run in group.runs}
    lines = _replicas_queued(group)
    for run in sorted(group.runs, key=lambda run: run.scenario.workload.size):
        *rest, size = _key(run)
        half, now = first.get((*rest, size // 2)), _first_token_ms(run)
        if half and now and (now >= QUEUE_RATIO * half or _line(group, (*rest, size // 2)) in lines):
            lines.add(run.line)
    return lines


def _replicas_queued(group: RunSet) -> set[int]:
    """The same of data-parallel plans, by their own rule."""
    plans: dict[Any, list[tuple[float, int]]] = {}
    for run in group.runs:
        engine, now = run.scenario.engine, _first_token_ms(run)
        if now and engine.data_parallel_size > 1:
            plan = (engine.tensor_parallel_size, engine.data_parallel_size, engine.enable_expert_parallel)
            plans.setdefault((plan, run.scenario.workload.input_len), []).append((now, run.line))
    return {line for times in plans.values() for now, line in times if now > REPLICAS_QUEUE_RATIO * min(times)[0]}


def _first_token_ms(run: Run) -> float | None:
    return run.measured.get("mean_ttft_ms") or run.measured.get("median_ttft_ms")


def _key(run: Run) -> tuple[Any, ...]:
    """What tells runs of a set apart, concurrency last."""
    rest = {k: v for k, v in run.settings.items() if k not in {"max_concurrency", "max_num_seqs", "num_prompts"}}
    return (*sorted(rest.items()), run.scenario.workload.size)


def _line(group: RunSet, key: tuple[object, ...]) -> int:
    return next((run.line for run in group.runs if _key(run) == key), -1)


def _bad_nodes(group: RunSet, sets: Sequence[RunSet]) -> set[int]:
    """Lines of runs much slower a token than the same run on the set's twin, a larger GPU."""
    model, mine = group.about.scenario.model, load_hardware(group.about.scenario.hardware)
    twins: dict[Any, float] = {}
    for other in sets:
        theirs = load_hardware(other.about.scenario.hardware)
        larger = theirs.gpu.hbm_bandwidth.value > mine.gpu.hbm_bandwidth.value
        if other.about.scenario.model == model and larger and theirs.compute_capability == mine.compute_capability:
            twins |= {_key(run): run.measured.get("mean_tpot_ms", 0.0) for run in other.runs}
    return {
        run.line
        for run in group.runs
        if twins.get(_key(run)) and run.measured.get("mean_tpot_ms", 0.0) > BAD_NODE_RATIO * twins[_key(run)]
    }
