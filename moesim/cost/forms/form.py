"""What every form is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from moesim.cost.forms.arithmetic import ceil, maximum, minimum

_LEAST = 1e-300


@dataclass(frozen=True, slots=True)
class Parameter:
    """One constant to fit: its unit, where to start, the bounds it may not leave, and what it means."""

    name: str
    unit: str
    start: float
    low: float
    high: float
    meaning: str


class Timing(NamedTuple):
    """Seconds, and the parts that explain them: fixed launch time, memory time, arithmetic time."""

    seconds: Any
    launch: Any
    memory: Any
    compute: Any


@dataclass(frozen=True, slots=True)
class Form:
    """A formula with its parameters and the load and shape fields whose fitted range is recorded."""

    name: str
    text: str
    """The formula for a reader, one line."""
    parameters: tuple[Parameter, ...]
    seconds: Callable[..., Timing]
    """``seconds(p, op, gpu)``; fused experts also take the tile their kernel picks."""
    ranged: tuple[str, ...]


def smooth_max(a: Any, b: Any, p: float) -> Any:
    """(a^p + b^p)^(1/p), safe for any scale: the larger of two, rounded where they are close."""
    high, low = maximum(a, b), minimum(a, b)
    return high * (1 + (low / maximum(high, _LEAST)) ** p) ** (1 / p)


_NOTHING_S = 1e-12
"""Stands for no time where a smooth maximum needs some. [s]"""


def joined(p: float, first: Any, *others: Any) -> Any:
    """The largest of several times, rounded where they are close; any of them may be nothing. [s]"""
    total = maximum(first, _NOTHING_S)
    for other in others:
        total = smooth_max(total, maximum(other, _NOTHING_S), p)
    return total


def waves(tiles: Any, slots: Any, quantised: float) -> Any:
    """Rounds of ``slots`` workers needed for ``tiles``, at least one, partly rounded up."""
    exact = tiles / slots
    return maximum(exact + quantised * (ceil(exact) - exact), 1.0)
