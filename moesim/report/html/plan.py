"""The GPUs of a plan, each with what it holds."""

from __future__ import annotations

from moesim.hardware.catalogue import load_hardware
from moesim.models.plan import Plan
from moesim.outcome import Prediction
from moesim.report.html.svg import COLORS, figure, rect, words
from moesim.serving.under_load import sides

_CELL, _GAP, _ACROSS = 100.0, 8.0, 8
_MOST = 256


def plan_picture(prediction: Prediction) -> str:
    """A cell for each GPU of each kind of engine; color is the replica, the words its place along each axis."""
    scenario, body, y = prediction.scenario, "", 0.0
    apart = scenario.disaggregation
    kinds = {"": (scenario, 1)} if apart is None else {
        name: (side, getattr(apart, f"{name}_replicas")) for name, side in sides(scenario).items()
    }  # fmt: skip
    node = load_hardware(scenario.hardware).gpus_per_node
    for name, (side, many) in kinds.items():
        plan = Plan.of(side.engine)
        if name:
            body += words(0, y + 14, f"{many} {name} engine{'s' if many > 1 else ''} of {plan.describe()}", 12)
            y += 22
        shown = min(plan.world * many, _MOST)
        for place in range(shown):
            at = plan.coordinates(place % plan.world)
            column, row = place % min(_ACROSS, node), place // min(_ACROSS, node)
            x, top = column * (_CELL + _GAP), y + row * (_CELL / 2 + _GAP)
            told = f"GPU {place}, node {place // node}: " + ", ".join(f"{k.upper()} rank {v}" for k, v in at.items())
            body += rect(
                x, top, _CELL, _CELL / 2, COLORS[(at["dp"] + place // plan.world) % len(COLORS)], told, 'rx="4"'
            )
            body += words(x + 6, top + 18, f"GPU {place}", 11, more='fill="white"')
            ranks = " ".join(f"{k.upper()}{v}" for k, v in at.items() if getattr(plan, k) > 1) or "all"
            body += words(x + 6, top + 36, ranks, 10, more='fill="white"')
        y += (-(-shown // min(_ACROSS, node))) * (_CELL / 2 + _GAP) + 6
    return figure(_ACROSS * (_CELL + _GAP), y, body, "GPUs of the plan")
