"""An exchange and its experts cut into parts, one part's tokens on their way while another's are computed.

Tutel (arXiv 2206.03382): of d equal parts ``(m + c)/d + (d - 1)/d max(m, c)``, m what all parts move and c what they
compute, each part priced as the smaller exchange and the smaller batch that it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from moesim.models.frame import Frame
from moesim.models.model import Layers
from moesim.ops.load import Load

FORMULA = "(m + c)/d + (d - 1)/d max(m, c) - (m + c of one part)"
Priced = Callable[[str, Any], Any]
"""Seconds of an operation by its name."""


def part_of(load: Load, parts: int) -> Load:
    """One of several equal parts of a step."""
    groups = tuple(g._replace(sequences=g.sequences / parts) for g in load.groups)
    return replace(load, groups=groups, padded_tokens=-(-load.padded_tokens // parts))


def added_seconds(layers: Layers, at: Frame, priced: Priced) -> Any:
    """What cutting a layer's exchange adds to its parts' times one after the other; below zero where it hides more. [s]

    The fastest of the degrees that the engine may choose.
    """
    degrees = at.rank.dispatch.degrees
    if degrees == (1,) or layers.routed is None or not at.rank.plan.exchanges:
        return 0.0
    exchanges = frozenset().union(*(block.exchanges for block in layers.blocks))

    def sides(frame: Frame) -> tuple[Any, Any]:
        moves: Any = 0.0
        computes: Any = 0.0
        for name, op in layers.operations(frame):
            if name in exchanges:
                moves = moves + priced(name, op)
            elif name == "experts":
                computes = computes + priced(name, op)
        return moves, computes

    whole = sum(sides(at))
    found = []
    for degree in degrees:
        moves, computes = (degree * side for side in sides(Frame(at.rank, part_of(at.load, degree))))
        found.append((moves + computes) / degree + (degree - 1) / degree * np.maximum(moves, computes) - whole)
    least = np.minimum.reduce(found) if len(found) > 1 else found[0]
    return least.item() if np.ndim(least) == 0 and hasattr(least, "item") else least
