"""What an engine takes under an SLO, as text."""

from __future__ import annotations

from typing import Any

from moesim.explore.capacity import Capacity
from moesim.report.load_text import load_text
from moesim.report.text import number

_WORDS = {"max_concurrency": "clients at once", "request_rate": "requests a second"}


def capacity_text(found: Capacity) -> str:
    """The largest load, what breaks beyond it, and the run at it."""
    limits = ", ".join(
        f"{name} <= {1e3 * value:g} ms" for name, value in zip(("TTFT", "TPOT", "E2EL"), found.slo, strict=True)
        if value < float("inf")
    )  # fmt: skip
    what = _WORDS[found.of]
    if found.prediction is None:
        broken = "; ".join(found.broken)
        return f"no load keeps {found.statistic} {limits}: at {number(found.next_value or 0)} {what} {broken}"
    lines = [f"{number(found.value)} {what} keep {found.statistic} {limits}"]
    if found.next_value is None:
        lines.append("nothing larger was tried")
    else:
        lines.append(f"at {number(found.next_value)} {'; '.join(found.broken)}")
    return "\n".join([*lines, "", load_text(found.prediction)])


def capacity_data(found: Capacity) -> dict[str, Any]:
    """Everything, for ``--json``; milliseconds and tokens a second."""
    metrics = found.prediction.metrics if found.prediction else {}
    return {
        "of": found.of, "statistic": found.statistic, "value": found.value, "next_value": found.next_value,
        "broken": list(found.broken), "metrics": {name: m.value for name, m in metrics.items() if m is not None},
    }  # fmt: skip
