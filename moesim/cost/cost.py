"""A cost is a tree: seconds, an interval, what bounds it, the formula and where its constants come from.

How intervals combine (docs/intervals.md): errors of one kernel family are the same formula wrong the same way,
so they add; different families err independently, so their sums combine in quadrature.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Spread = dict[str, tuple[Any, Any]]
"""Kernel family -> (seconds the truth may lie below, seconds it may lie above), 90 %."""

TAGS = ("measured", "fitted", "extrapolated", "datasheet", "assumed")


@dataclass(slots=True)
class Cost:
    """Time of one thing, per occurrence; ``count`` occurrences make its parent."""

    name: str
    seconds: Any
    spread: Spread
    bound: str = ""
    formula: str = ""
    source: str = ""
    tag: str = "fitted"
    count: int = 1
    work: str = ""
    children: list[Cost] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> Any:
        """Seconds of all ``count`` occurrences."""
        return self.count * self.seconds

    def leaves(self) -> list[Cost]:
        return [leaf for child in self.children for leaf in child.leaves()] if self.children else [self]


def summed(name: str, children: list[Cost], count: int = 1) -> Cost:
    """A node whose time is the sum of its children's."""
    seconds: Any = 0.0
    spread: Spread = {}
    for child in children:
        seconds = seconds + child.total
        for family, (down, up) in child.spread.items():
            before = spread.get(family, (0.0, 0.0))
            spread[family] = (before[0] + child.count * down, before[1] + child.count * up)
    return Cost(name, seconds, spread, bound="sum", count=count, children=children)


def interval(seconds: Any, spread: Spread) -> tuple[Any, Any]:
    """90 % interval of a sum: families in quadrature. [s]"""
    down = np.sqrt(sum((np.asarray(d) ** 2 for d, _ in spread.values()), np.asarray(0.0)))
    up = np.sqrt(sum((np.asarray(u) ** 2 for _, u in spread.values()), np.asarray(0.0)))
    return np.maximum(seconds - down, 0.0), seconds + up


def collapsed(cost: Cost, weights: Any = None) -> Cost:
    """The same tree with every array over steps summed (optionally weighted) into one number."""

    def total(x: Any) -> float:
        x = np.broadcast_to(np.asarray(x, float), shape)
        return float((x * weights).sum() if weights is not None else x.sum())

    shape = np.shape(cost.seconds)
    return _mapped(cost, total)


def _mapped(cost: Cost, total: Any) -> Cost:
    return Cost(
        cost.name, total(cost.seconds), {f: (total(d), total(u)) for f, (d, u) in cost.spread.items()},
        cost.bound, cost.formula, cost.source, cost.tag, cost.count, cost.work,
        [_mapped(child, total) for child in cost.children], cost.notes,
    )  # fmt: skip
