"""One prediction of a campaign: a point to measure, and what is said of it beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from moesim.bench.point import Point


class Value(NamedTuple):
    """A number with its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Predicted:
    """What is said of one point."""

    point: Point
    values: Mapping[str, Value]
    """Metric, its unit in the name -> value; empty where nothing can be said."""
    source: str
    """Whose constants, how they are known, and what they leave open; or why nothing is said."""


def asked(point: Point) -> Point:
    """A point but for which of its repetitions it is: those are predicted alike, and their median is compared."""
    return Point(point.table, {k: v for k, v in point.columns.items() if k != "repetition"})
