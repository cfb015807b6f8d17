"""Limits as a user writes them: ``gpu_memory <= 16 GiB``, ``p99_ttft <= 1 s``, ``perplexity <= 5``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim import units
from moesim.errors import Problem, SpecError, nearest

Array = np.ndarray[Any, Any]
_OPERATORS: dict[str, Callable[[Any, float], Any]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_LISTS = "--help"
_CONSTRAINT = re.compile(r"^\s*([A-Za-z_]\w*)\s*(<=|>=|<|>)\s*(.+?)\s*$")


@dataclass(frozen=True)
class Constraint:
    """A limit on one metric. Values in SI."""

    metric: str
    sign: str
    limit: float
    unit: str = ""

    def keeps(self, value: float | None) -> bool:
        """Whether a value is within the limit; what is unknown is not."""
        return value is not None and _OPERATORS[self.sign](value, self.limit)

    def within(self, values: Array) -> Array:
        """Of many values at once, NaN being what is unknown."""
        return _OPERATORS[self.sign](values, self.limit)

    @property
    def upper(self) -> bool:
        return self.sign in {"<=", "<"}

    def excess(self, value: float | None) -> float:
        """How far beyond the limit, relative to it; 0 within, infinite where unknown."""
        if value is None:
            return float("inf")
        over = (value - self.limit) if self.upper else (self.limit - value)
        return max(over, 0.0) / max(abs(self.limit), 1e-12)

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {value_text(self.limit, self.unit)}"


def value_text(value: float, unit: str) -> str:
    """A metric's value as a constraint would be written."""
    if unit == "B":
        return units.bytes_text(value)
    if unit == "s":
        return f"{value:.4g} s" if value >= 1 else f"{1e3 * value:.4g} ms"
    if unit == "$":
        return f"${value:.4g}"
    return f"{value:.4g} {unit}".rstrip()


def _plain(value: str, unit: str) -> float:
    """A number, with its unit behind it (dollars: before it) or without."""
    try:
        return float(value.removesuffix(unit).removeprefix("$" if unit == "$" else "").strip())
    except ValueError:
        accepted = f"a number, in {unit}" if unit else "a plain number"
        raise ValueError(f"{value!r} is not {accepted}") from None


def parsed(text: str, known: Mapping[str, str]) -> Constraint:
    """One constraint as written. Raises SpecError.

    Parameters
    ----------
    known : mapping
        Metrics that can be limited -> the unit of their values; empty where a plain number is meant.
    """
    match = _CONSTRAINT.match(text) if isinstance(text, str) else None
    if not match:
        raise SpecError([Problem(f"'{text}' is not METRIC <= VALUE, like '{_example(known)}'", "--where")])
    name, sign, value = match.groups()
    if name not in known:
        raise SpecError([Problem(f"'{name}' is not a metric; {nearest(name, known, _LISTS)}", "--where")])
    unit = known[name]
    try:
        limit = units.parse(value, unit) if unit in units.UNITS else _plain(value, unit)
    except ValueError as error:
        raise SpecError([Problem(f"'{text}': {error}", "--where")]) from None
    if not 0 <= limit < float("inf"):
        raise SpecError([Problem(f"'{text}': a limit from 0 is accepted", "--where")])
    return Constraint(name, sign, limit, unit)


def _example(known: Mapping[str, str]) -> str:
    return "gpu_memory <= 16 GiB" if "gpu_memory" in known else f"{next(iter(known))} <= 1"
