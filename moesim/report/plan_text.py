"""The table of plans as plain text, and who moves what in a plan."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.cost import Cost
from moesim.explore.plans import Candidate
from moesim.models.plan import Plan
from moesim.ops import Collective, ExpertAllToAll
from moesim.outcome import Prediction
from moesim.units import bytes_text

_Moved = tuple[tuple[int, ...], float, float]
"""Places of the GPUs an operation joins, bytes each sends, seconds."""
_COLUMNS = (
    ("output tok/s", "output_throughput"),
    ("TPOT ms", "mean_tpot_ms"),
    ("TTFT ms", "mean_ttft_ms"),
)


def plans_text(candidates: list[Candidate], metric: str) -> str:
    """One line a plan, best first: figures, memory left, the reason it loses."""
    shown = [*_COLUMNS] if metric in {m for _, m in _COLUMNS} else [(metric, metric), *_COLUMNS]
    width = max(len(c.plan.describe()) for c in candidates)
    head = f"{'plan':{width}}" + "".join(f"{title:>14}" for title, _ in shown) + f"{'KV room':>12}  why not the first"
    lines = [head]
    for candidate in candidates:
        name = f"{candidate.plan.describe():{width}}"
        prediction = candidate.prediction
        if prediction is None:
            lines.append(f"{name}{'-':>14}{'':{14 * (len(shown) - 1)}}{'':>12}  {candidate.reason}")
            continue
        cells = "".join(f"{_number(prediction.metrics[m]):>14}" for _, m in shown)
        lines.append(f"{name}{cells}{bytes_text(prediction.memory.kv_available):>12}  {candidate.reason}".rstrip())
    fitting = [c for c in candidates if c.prediction]
    lines.append(f"\n{len(candidates)} legal plans, {len(fitting)} fit; ranked by {metric}")
    tied = _tied(fitting, metric)
    if tied:
        lines.append(f"within the first one's 90 % interval: {', '.join(tied)}")
    return "\n".join(lines)


def _number(metric: Any) -> str:
    if metric is None:
        return "-"
    return f"{metric.value:,.0f}" if metric.value >= 1000 else f"{metric.value:.4g}"


def _tied(fitting: list[Candidate], metric: str) -> list[str]:
    """Plans the prediction cannot tell from the best."""
    best = fitting[0].prediction.metrics[metric] if fitting and fitting[0].prediction else None
    if best is None:
        return []
    close = []
    for candidate in fitting[1:]:
        value = candidate.prediction.metrics[metric] if candidate.prediction else None
        if value and best.low <= value.value <= best.high:
            close.append(candidate.plan.describe())
    return close


def traffic(prediction: Prediction) -> list[tuple[str, str, tuple[int, ...], float, float]]:
    """(phase, operation, GPUs' places, bytes each sends, seconds) of what passes links, over the whole batch."""
    load, plan = prediction.scenario.workload, Plan.of(prediction.scenario.engine)
    steps = {"decode": max((load.output_len or 1) - 1, 1) * plan.in_flight(load.size)}
    found: dict[tuple[str, str], _Moved] = {}
    for phase in prediction.cost.children:
        stages = [part for part in phase.children if part.name.startswith("stage ")] or [phase]
        for stage in stages:
            moved: dict[str, _Moved] = {}
            _collect(stage, 1.0, steps.get(phase.name, 1), moved)
            for name, (members, sent, seconds) in moved.items():
                # A GPU belongs to one stage: the one that sends most is shown.
                if sent > found.get((phase.name, name), ((), -1.0, 0.0))[1]:
                    found[phase.name, name] = (members, sent, seconds)
    return [(phase, name, *moved) for (phase, name), moved in found.items()]


def _collect(cost: Cost, times: float, steps: int, found: dict[str, _Moved]) -> None:
    """Work that does not change from step to step is a scalar, and counts ``steps`` times."""
    times *= cost.count
    if not cost.children and isinstance(cost.op, (Collective, ExpertAllToAll)):
        sent = np.asarray(cost.op.link_bytes, float)
        _, sent_before, seconds = found.get(cost.name, ((), 0.0, 0.0))
        sent_now = times * float(sent.sum() if sent.size > 1 else sent.sum() * steps)
        found[cost.name] = (cost.op.members, sent_before + sent_now, seconds + times * float(cost.seconds))
    for child in cost.children:
        _collect(child, times, steps, found)


def traffic_text(prediction: Prediction) -> str:
    """What passes links, by phase and operation."""
    rows = traffic(prediction)
    if not rows:
        return "no GPU talks to another"
    lines = [f"{'links carry':34}{'GPUs':>6}{'each sends':>14}{'time':>12}"]
    for phase, name, members, sent, seconds in rows:
        lines.append(f"  {phase + ': ' + name:32}{len(members):>6}{bytes_text(sent):>14}{1e3 * seconds:>9.1f} ms")
    return "\n".join(lines)
