"""Two predictions side by side, as text and as data."""

from __future__ import annotations

from typing import Any

from moesim.explore.compare import Compared, MetricChange
from moesim.memory import Room
from moesim.report.text import number, title
from moesim.units import bytes_text

_SHOWN = (
    "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "p99_itl_ms", "mean_e2el_ms", "request_throughput",
    "output_throughput", "total_token_throughput",
)  # fmt: skip
_OPERATIONS = 8


def compared_text(found: Compared) -> str:
    """The answer in a sentence, what differs, every metric with its ratio, the largest changes of the cost tree."""
    lines = [f"A: {title(found.first)}", f"B: {title(found.second)}", "", _answer(found), ""]
    if found.settings:
        width = max(len(name) for name, _, _ in found.settings)
        lines += ["what differs:", *(f"  {name:{width}}  {a} -> {b}" for name, a, b in found.settings), ""]
    lines.append(f"{'':24}{'A':>11}{'B':>11}{'B / A':>9}{'90 %, shared errors cancelled':>32}   B better")
    for one in found.metrics:
        if one.metric in _SHOWN:
            lines.append(_row(one))
    lines += ["", f"{'us an output token':36}{'A':>10}{'B':>10}{'B - A':>10}"]
    for one in found.times[:_OPERATIONS]:
        a, b = 1e6 * one.first_s, 1e6 * one.second_s
        lines.append(f"  {one.operation:34}{a:>10.1f}{b:>10.1f}{b - a:>+10.1f}")
    lines += ["", *_memory(found)]
    return "\n".join(lines)


def _answer(found: Compared) -> str:
    """Which is better in what, in a sentence."""
    said = []
    for name, label in (("output_throughput", "output tok/s"), ("mean_tpot_ms", "TPOT"), ("mean_ttft_ms", "TTFT")):
        one = next((m for m in found.metrics if m.metric == name), None)
        if one is not None:
            sure = max(one.chance, 1.0 - one.chance)
            better = "better" if one.chance >= 0.5 else "worse"
            same = one.low == one.high == 1.0
            said.append(f"{label} the same" if same else f"{label} {one.ratio - 1:+.0%} ({better} with {sure:.0%})")
    cause = found.times[0] if found.times and found.times[0].first_s != found.times[0].second_s else None
    why = f"; most of it {cause.operation}, {1e6 * (cause.second_s - cause.first_s):+,.0f} us a token" if cause else ""
    return f"B against A: {', '.join(said)}{why}"


def _row(one: MetricChange) -> str:
    span = f"{one.low:.3g} .. {one.high:.3g}"
    return (
        f"{one.metric:24}{number(one.first.value):>11}{number(one.second.value):>11}{one.ratio:>9.3g}{span:>32}"
        f"{one.chance:>11.0%}"
    )


def _memory(found: Compared) -> list[str]:
    rooms = [found.first.memory, found.second.memory]
    if not all(isinstance(room, Room) for room in rooms):
        return []
    names = (("weights", "weights"), ("KV cache room", "kv_available"), ("KV cache a token", "kv_bytes_per_token"))
    lines = [f"{'memory of each GPU':24}{'A':>11}{'B':>11}"]
    for label, name in names:
        lines.append(f"  {label:22}" + "".join(f"{bytes_text(getattr(room, name)):>11}" for room in rooms))
    return lines


def compared_data(found: Compared) -> dict[str, Any]:
    """Everything, for ``--json``."""
    return {
        "settings": [{"name": name, "first": a, "second": b} for name, a, b in found.settings],
        "metrics": found.rows(),
        "operations": [
            {"operation": one.operation, "first_s_per_token": one.first_s, "second_s_per_token": one.second_s}
            for one in found.times
        ],
    }
