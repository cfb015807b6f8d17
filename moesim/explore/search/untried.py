"""What amounts between those tried could reach at best: a bound, and what to try next.

How much stays on the GPU moves every metric one way, so an amount between two neighbours is no better than the better
of them in anything. Where even that would not beat the best found, nothing between them can.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moesim.inputs.offload import AMOUNTS

_PARTS = 4
"""Of a gap between amounts that are no whole numbers."""
_CLOSE = 0.01
"""A gap that could gain no more than this over the best is left."""


@dataclass(frozen=True)
class Gap:
    """Two neighbouring amounts of one way, and what lies between them."""

    settings: dict[str, Any]
    """Of the lower one."""
    gpus: int
    amount: str
    low: float
    high: float
    at_best: float
    """Of the metric that is minimised; a throughput's sign is turned."""

    def between(self) -> list[Any]:
        """Amounts to try inside, a few at most."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = max((self.high - self.low) // _PARTS, 1)
            return list(range(self.low + step, self.high, step))
        width = (self.high - self.low) / _PARTS
        return [self.low + width * i for i in range(1, _PARTS)]


def gaps(
    tried: Sequence[Any], value: Callable[[Any], float], could_keep: Callable[[Any, Any], bool], best: float
) -> list[Gap]:
    """Gaps that might hold something better than ``best``, the most promising first.

    Parameters
    ----------
    tried : sequence of Configuration
    value : callable
        A configuration's value of what is minimised, infinite where it is not known.
    could_keep : callable
        Whether something between two configurations might fit and keep every limit.
    """
    ways: dict[tuple[Any, ...], list[tuple[float, Any]]] = {}
    for one in tried:
        amount = next((name for name in AMOUNTS if name in one.settings), None)
        if amount is None:
            continue
        others = tuple(sorted((key, str(x)) for key, x in one.settings.items() if key != amount))
        ways.setdefault((one.gpus, amount, *others), []).append((one.settings[amount], one))
    found = []
    enough = best - _CLOSE * abs(best) if best < float("inf") else best
    for (_, amount, *_), steps in ways.items():
        steps.sort(key=lambda step: step[0])
        for (low, a), (high, b) in itertools.pairwise(steps):
            whole = isinstance(low, int) and isinstance(high, int)
            if high == low or (whole and high - low < 2) or not could_keep(a, b):
                continue
            at_best = min(value(a), value(b))
            if at_best < enough:
                found.append(Gap(a.settings, a.gpus, str(amount), low, high, at_best))
    return sorted(found, key=lambda gap: gap.at_best)
