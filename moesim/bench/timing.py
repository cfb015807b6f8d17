"""Seconds of a call: medians and quartiles of repeated calls over rotating buffers, so that weights are cold.

On a GPU calls are captured back to back into a CUDA graph and events surround each replay: no launch gaps, as a served
model runs. What cannot be captured (pageable copies, calls that wait for the GPU) is timed by events around plain
calls.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Call = Callable[[], Any]
NOT_CAPTURED = "no CUDA graph could be captured"

_REPLAY_S = 4e-4
_MOST_CALLS = 128
_REPLAYS = 15
_FEW_REPLAYS = 5
_LONG_S = 0.02
_CPU_SAMPLE_S = 0.04
_CPU_SAMPLES = 9
_CPU_FEW_SAMPLES = 5
_CPU_LONG_S = 0.3


@dataclass(frozen=True)
class Times:
    """Seconds of one call: median and quartiles of ``samples`` samples, and how they were taken."""

    seconds: float
    seconds_q1: float
    seconds_q3: float
    samples: int
    calls: int
    how: str
    trend: float
    """Median of the later half of the samples over that of the earlier half, less one: a clock that moves."""

    @classmethod
    def of(cls, samples: Sequence[float], calls: int, how: str) -> Times:
        low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
        half = len(samples) // 2
        trend = statistics.median(samples[-half:]) / statistics.median(samples[:half]) - 1.0
        return cls(middle, low, high, len(samples), calls, how, trend)


def time_calls(calls: Sequence[Call], device: str, graph: bool = True) -> Times:
    """Time calls that do the same over different buffers, on ``cuda`` or ``cpu``."""
    return _on_gpu(calls, graph) if device == "cuda" else _on_cpu(calls)


def _on_cpu(calls: Sequence[Call]) -> Times:
    """Each sample goes on through the buffers where the last one stopped, for long enough for the clock."""
    position = 0

    def run(many: int) -> float:
        nonlocal position
        begin = time.perf_counter()
        for _ in range(many):
            calls[position % len(calls)]()
            position += 1
        return time.perf_counter() - begin

    run(1)
    each = max(run(1), 1e-9)
    if each < _CPU_SAMPLE_S:
        many = max(1, round(_CPU_SAMPLE_S / each))
        each = run(many) / many
    many = max(1, round(_CPU_SAMPLE_S / each))
    samples = [run(many) / many for _ in range(_CPU_FEW_SAMPLES if each > _CPU_LONG_S else _CPU_SAMPLES)]
    return Times.of(samples, many * len(samples), "wall clock")


def _on_gpu(calls: Sequence[Call], graph: bool) -> Times:
    import torch

    def event() -> Any:
        return torch.cuda.Event(enable_timing=True)

    for call in calls[:4]:
        call()
    torch.cuda.synchronize()
    begin, end = event(), event()
    begin.record()
    for call in calls:
        call()
    end.record()
    torch.cuda.synchronize()
    each = max(begin.elapsed_time(end) * 1e-3 / len(calls), 1e-6)
    many = int(min(_MOST_CALLS, max(len(calls), _REPLAY_S / each + 1)))
    many += -many % len(calls)

    def plain() -> None:
        for i in range(many):
            calls[i % len(calls)]()

    replay, how = plain, "events around plain calls"
    if graph:
        try:
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                plain()
            replay, how = recorded.replay, "events around CUDA graph replays"
        except RuntimeError as error:
            # The capture's own error hides what broke it.
            torch.cuda.synchronize()
            how = f"{how}; {NOT_CAPTURED}: {str(error.__context__ or error).strip()[:200]}"
    for _ in range(3):
        replay()
    pairs = [(event(), event()) for _ in range(_FEW_REPLAYS if each > _LONG_S else _REPLAYS)]
    for begin, end in pairs:
        begin.record()
        replay()
        end.record()
    torch.cuda.synchronize()
    samples = [begin.elapsed_time(end) * 1e-3 / many for begin, end in pairs]
    return Times.of(samples, many * len(pairs), how)
