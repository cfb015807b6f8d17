"""Dropped tokens and computed slots, as text."""

from __future__ import annotations

from moesim.explore.slots import slots
from moesim.outcome import Prediction


def slots_lines(prediction: Prediction) -> list[str]:
    """A line for each kind of step; nothing where experts take what comes."""
    found = slots(prediction)
    if not found:
        return []
    lines = ["", f"dispatch by {prediction.scenario.engine.moe_dispatch}, a layer:"]
    for one in found:
        held = f"{one.slots:,} slots an expert, " if one.slots is not None else ""
        apart = f" in {one.groups} groups" if one.groups > 1 else ""
        lines.append(
            f"  {one.step} of {one.tokens:,} tokens{apart}: {held}{one.dropped:.2%} of their picks dropped, "
            f"{one.waste:.4g} rows computed a pick"
        )
    return lines
