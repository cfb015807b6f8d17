"""Every metric, defined once under vLLM bench's names: milliseconds, requests and tokens a second, 90 % intervals.

TTFT is the time to the first output token, E2EL the time to the last, TPOT = (E2EL - TTFT) / (output tokens - 1) of a
request, ITL a gap between two of its tokens. Throughputs count all requests over the whole duration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Interval = tuple[Any, Any, Any]
"""(value, low, high)."""


@dataclass(frozen=True)
class Metric:
    """A number with its 90 % interval. Unit in the metric's name."""

    value: float
    low: float
    high: float


LATENCIES = ("ttft", "tpot", "itl", "e2el")
STATISTICS = ("mean", "median", "std", "p90", "p99")
THROUGHPUTS = ("request_throughput", "output_throughput", "total_token_throughput")
LOAD_METRICS = (*(f"{s}_{name}_ms" for name in LATENCIES for s in STATISTICS), *THROUGHPUTS)
"""Of a run under load, over its requests and gaps."""
STEADY_METRICS = ("mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "mean_e2el_ms", *THROUGHPUTS)
"""Of a steady state."""
STATIC_METRICS = (
    "mean_ttft_ms", "max_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "median_itl_ms", "p99_itl_ms", "mean_e2el_ms",
    *THROUGHPUTS, "itl_per_batch_token_ms", "median_decode_step_ms", "p99_decode_step_ms",
)  # fmt: skip
"""Of a static batch, whose requests arrive together."""


def unit_of(metric: str) -> str:
    """The unit of a metric, told by its name."""
    if metric.endswith("_ms"):
        return "ms"
    return "req/s" if metric == "request_throughput" else "tok/s"


def time_per_token(e2el_s: Any, ttft_s: Any, output_len: Any) -> Any:
    """TPOT of a request; NaN where it has one token. [s]"""
    if isinstance(output_len, int):
        return (e2el_s - ttft_s) / (output_len - 1) if output_len > 1 else float("nan")
    return (e2el_s - ttft_s) / np.where(output_len > 1, output_len - 1, np.nan)


def throughputs(requests: Any, input_tokens: Any, output_tokens: Any, seconds: Any) -> dict[str, Any]:
    """Requests, output tokens and all tokens a second."""
    amounts = (requests, output_tokens, input_tokens + output_tokens)
    return {name: amount / seconds for name, amount in zip(THROUGHPUTS, amounts, strict=True)}


def milliseconds(seconds: Any, relative: tuple[Any, Any]) -> Interval:
    """A latency and its interval, whose ends are factors of it."""
    return 1e3 * seconds, 1e3 * seconds * relative[0], 1e3 * seconds * relative[1]


def ended(first: Interval, end: Interval) -> Interval:
    """E2EL's interval, no end of it below TTFT's: an answer does not end before it begins, however either errs."""
    value, low, high = end
    return value, np.maximum(low, np.minimum(first[1], value)), np.maximum(high, first[2])


def rate(value: Any, relative: tuple[Any, Any], share: float = 1.0) -> Interval:
    """A throughput whose time has an interval; ``share`` of that time is the engine's, the rest is given."""
    fast, slow = (1.0 + (factor - 1.0) * share for factor in relative)
    return value, value / slow, value / np.maximum(fast, 1e-9)


def shown(found: dict[str, Any]) -> dict[str, Metric | None]:
    """Metrics as a prediction holds them; None is what needs a second output token."""
    return {name: None if np.isnan(values[0]) else Metric(*map(float, values)) for name, values in found.items()}
