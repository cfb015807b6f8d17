"""Counts over a run in constant memory: quantiles to a fixed relative width, means exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_WIDTH = 0.002
_LEAST_S = 1e-7
_BINS = 14_000
"""Bins of 0.2 % from 0.1 us to a day and more."""


class Distribution:
    """Of positive numbers: mean, spread and quantiles within 0.1 %."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS)
        self.count = 0.0
        self.sum = 0.0
        self._squares = 0.0
        self.least = np.inf
        self.most = 0.0

    def add(self, value: float, times: float = 1.0) -> None:
        self.count += times
        self.sum += times * value
        self._squares += times * value * value
        self.least, self.most = min(self.least, value), max(self.most, value)
        self._counts[self._bin(value)] += times

    def add_all(self, values: Array, times: float = 1.0) -> None:
        """Each of ``values`` counted ``times`` times."""
        if len(values) == 0:
            return
        self.count += times * len(values)
        self.sum += times * float(values.sum())
        self._squares += times * float((values * values).sum())
        self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))
        places = np.log(np.maximum(values, _LEAST_S) / _LEAST_S) / _WIDTH
        np.add.at(self._counts, np.minimum(places.astype(np.int64), _BINS - 1), times)

    def add_from(self, other: Distribution, times: float = 1.0) -> None:
        """All numbers of another distribution, each ``times`` times."""
        self._counts += times * other._counts
        self.count += times * other.count
        self.sum += times * other.sum
        self._squares += times * other._squares
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    @staticmethod
    def _bin(value: float) -> int:
        return min(int(np.log(max(value, _LEAST_S) / _LEAST_S) / _WIDTH), _BINS - 1)

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else float("nan")

    @property
    def std(self) -> float:
        """Standard deviation of the numbers themselves."""
        return max(self._squares / self.count - self.mean**2, 0.0) ** 0.5 if self.count else float("nan")

    def quantile(self, share: float) -> float:
        """The value that ``share`` of the numbers do not exceed."""
        if not self.count:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self._counts), share * self.count - 1e-9))
        middle = _LEAST_S * np.exp((place + 0.5) * _WIDTH)
        return float(min(max(middle, self.least), self.most))


class OverTime:
    """A level that changes with time: its mean and its peak."""

    def __init__(self) -> None:
        self._area = 0.0
        self._seconds = 0.0
        self.peak = 0.0

    def hold(self, level: float, seconds: float) -> None:
        self._area += level * seconds
        self._seconds += seconds
        self.peak = max(self.peak, level)

    def add_from(self, other: OverTime, times: float, shared: bool) -> None:
        """Another engine's level beside this one, ``times`` of it; ``shared`` levels are shares, and average."""
        if shared:
            self._area, self._seconds = self._area + times * other._area, self._seconds + times * other._seconds
            self.peak = max(self.peak, other.peak)
            return
        self._area, self._seconds = self._area + times * other._area, max(self._seconds, other._seconds)
        self.peak += times * other.peak

    @property
    def mean(self) -> float:
        return self._area / self._seconds if self._seconds else 0.0


class Sample:
    """Every so many of a long row of things, thinned evenly."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._stride = 1.0
        self._passed = 0.0
        self._next = 0.0
        self.items: list[Any] = []

    def offer(self, item: Any, times: float = 1.0) -> None:
        """One thing, standing for ``times`` of its kind in a row."""
        self._passed += times
        while self._passed > self._next:
            self.items.append(item)
            self._next += self._stride
            if len(self.items) >= 2 * self._most:
                self.items = self.items[::2]
                self._stride *= 2.0

    def add_from(self, other: Sample) -> None:
        """Another sample's things beside these."""
        self.items.extend(other.items)
