"""One prediction of a campaign: a point to measure, and what is said of it beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from moesim.bench.point import Point

SECONDS = "seconds"
"""Of a kernel."""
TIMES = ("mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "mean_e2el_ms", "median_ttft_ms", "median_tpot_ms",
         "p99_ttft_ms", "p99_itl_ms")  # fmt: skip
SERVED = (*TIMES, "output_throughput", "mean_power_w")
"""Of batches and loads: milliseconds and tokens a second under vLLM's names, and what the GPU draws."""
MEMORY = ("weights_bytes", "peak_activation_bytes", "cuda_graph_estimate_bytes", "kv_available_bytes", "kv_blocks")
"""Of a start, as vLLM's own profile has them."""
EDGE = "starts_at"
"""The least share of memory with which the engine starts."""
METRICS = (SECONDS, *SERVED, *MEMORY)


class Value(NamedTuple):
    """A number with its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Predicted:
    """What is said of one point."""

    point: Point
    values: Mapping[str, Value]
    """Metric, its unit in the name -> value; empty where nothing can be said."""
    source: str
    """Whose constants, how they are known, and what they leave open; or why nothing is said."""


def asked(point: Point) -> Point:
    """A point but for which of its repetitions it is: those are predicted alike, and their median is compared."""
    return Point(point.table, {k: v for k, v in point.columns.items() if k != "repetition"})
