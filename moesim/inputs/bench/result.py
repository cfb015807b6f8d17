"""What all clients' results come down to: a row of a run set, and what is to be said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from moesim.errors import Problem, SpecError

EVENLY = 1e6
"""Burstiness of arrivals with equal gaps: a gamma law so narrow that nothing of it is seen."""
_MOST = 10**9
STATISTICS = {"mean": "mean", "avg": "mean", "median": "median", "p50": "median", "p90": "p90", "p99": "p99"}
"""Clients' names of what moesim compares."""


class Record(NamedTuple):
    """One result of a file."""

    where: str
    name: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """A measured row."""

    client: str
    row: dict[str, Any]
    doubts: list[str] = field(default_factory=list)
    lengths: dict[str, Any] | None = None
    """The law that lengths were drawn from, where it is known."""


def refused(record: Record, message: str) -> SpecError:
    return SpecError([Problem(message, record.where)])


def positive(value: Any) -> float | None:
    """The number where it is one above zero and finite; clients write some as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 < number < float("inf") else None


def measured_row(
    record: Record, completed: float, failed: float, prompt: float | None, answer: float | None, times: dict[str, float]
) -> tuple[dict[str, Any], list[str]]:
    """(row without its load, doubts) of counts, mean lengths and milliseconds. Raises SpecError where nothing was
    measured."""
    if not completed:
        which = f"none of {failed:,.0f} requests" if failed else "no request"
        raise refused(record, f"{which} was completed, so nothing was measured")
    if not prompt or not answer:
        raise refused(record, "does not say how long prompts and answers were")
    if not (1 <= completed <= _MOST and prompt <= _MOST and answer <= _MOST):
        message = (
            f"{completed:g} requests of {prompt:g} and {answer:g} tokens are none; from 1 to {_MOST:,} is accepted"
        )
        raise refused(record, message)
    if round(answer) == 1:
        # Nothing was measured between tokens.
        times = {name: value for name, value in times.items() if "tpot" not in name and "itl" not in name}
    if not times:
        raise refused(record, "holds no latency: neither time to first token nor what follows")
    doubts = []
    if failed:
        doubts.append(
            f"{record.name}: {failed:,.0f} of {failed + completed:,.0f} requests failed; lengths and times are of the "
            f"{completed:,.0f} that were answered, and only these are predicted."
        )
    lengths = {"input_len": max(round(prompt), 1), "output_len": max(round(answer), 1)}
    return {"id": record.name, **lengths, "num_prompts": round(completed), **_rounded(times)}, doubts


def _rounded(times: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in times.items()}


def load_of(
    record: Record, concurrency: float | None, rate: float | None, burstiness: float = 1.0, at_once: float | None = None
) -> dict[str, Any]:
    """How requests came; ``at_once`` requests all together where no limit and no rate is said. Raises SpecError."""
    load: dict[str, Any] = {}
    if concurrency:
        load["max_concurrency"] = max(round(concurrency), 1)
    if rate:
        load |= {"request_rate": rate, "burstiness": burstiness}
    if not load and at_once:
        load["max_concurrency"] = round(at_once)
    if not load:
        message = "does not say how requests came; say max_concurrency or request_rate in the scenario's workload"
        raise refused(record, message)
    return load
