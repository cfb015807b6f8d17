"""A cost is a tree: seconds, an interval, what bounds it, the formula and where its constants come from.

How intervals combine (docs/intervals.md): errors of one kernel family are the same formula wrong the same way,
so they add, but for products of different shapes, which err mostly on their own; different families err independently,
so their sums combine in quadrature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesim.cost.reasons import Reason

Spread = dict[str, tuple[Any, Any]]
"""Kernel family -> (seconds the truth may lie below, seconds it may lie above), 90 %."""


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
    op: Any = None
    """The operation priced, where this is a leaf."""
    children: list[Cost] = field(default_factory=list)
    reasons: tuple[Reason, ...] = ()
    """Why it is known less well than its family's fit."""
    remarks: tuple[str, ...] = ()
    """What else to know about it."""
    variance: Any = 0.0
    """Of the seconds, from one routing draw to the next: which rank is busiest, and how busy. [s2]"""

    @property
    def notes(self) -> tuple[str, ...]:
        """Reasons and remarks in words."""
        return (*(reason.text for reason in self.reasons), *self.remarks)

    @property
    def total(self) -> Any:
        """Seconds of all ``count`` occurrences."""
        return self.count * self.seconds


def summed(name: str, children: list[Cost], count: int = 1) -> Cost:
    """A node whose time is the sum of its children's."""
    seconds: Any = 0.0
    spread: Spread = {}
    variance: Any = 0.0
    for child in children:
        seconds = seconds + child.total
        variance = variance + child.count * child.variance
        add_spread(spread, child.spread, child.count)
    return Cost(name, seconds, spread, bound="sum", count=count, children=children, variance=variance)


def add_spread(total: Spread, more: Spread, count: Any = 1) -> None:
    """``count`` times what another may err by, term by term: the same term errs the same way everywhere."""
    for term, (down, up) in more.items():
        below, above = total.get(term, (0.0, 0.0))
        total[term] = (below + count * down, above + count * up)


_OF_ONE = " @ "


def of_one(term: str, name: str) -> str:
    """The term of what one operation errs by beside what its family does."""
    return f"{term}{_OF_ONE}{name}"


def by_family(spread: Spread) -> Spread:
    """Terms with what belongs to one family put together, in quadrature."""
    found: Spread = {}
    for term, ends in spread.items():
        family = term.partition(_OF_ONE)[0]
        before = found.get(family, (0.0, 0.0))
        found[family] = (np.hypot(before[0], ends[0]), np.hypot(before[1], ends[1]))
    return found


def interval(seconds: Any, spread: Spread) -> tuple[Any, Any]:
    """90 % interval of a sum: families in quadrature. [s]"""
    down = np.sqrt(sum((np.asarray(d) ** 2 for d, _ in spread.values()), np.asarray(0.0)))
    up = np.sqrt(sum((np.asarray(u) ** 2 for _, u in spread.values()), np.asarray(0.0)))
    return np.maximum(seconds - down, 0.0), seconds + up


def relative_interval(cost: Cost) -> tuple[Any, Any]:
    """The same of a whole cost, as factors of its time."""
    low, high = interval(cost.seconds, cost.spread)
    seconds = np.maximum(cost.seconds, 1e-30)
    return low / seconds, high / seconds


def reduced(cost: Cost, total: Callable[[Any], Any]) -> Cost:
    """The same tree with ``total`` (a sum over steps) applied to every array."""
    return Cost(
        cost.name, total(cost.seconds), {f: (total(d), total(u)) for f, (d, u) in cost.spread.items()},
        cost.bound, cost.formula, cost.source, cost.tag, cost.count, cost.op,
        [reduced(child, total) for child in cost.children], cost.reasons, cost.remarks, total(cost.variance),
    )  # fmt: skip


def leaf_seconds(cost: Cost, times: float = 1.0) -> list[tuple[Cost, Any]]:
    """Every leaf with the seconds it takes in the whole."""
    times = times * cost.count
    if not cost.children:
        return [(cost, times * cost.seconds)]
    return [pair for child in cost.children for pair in leaf_seconds(child, times)]
