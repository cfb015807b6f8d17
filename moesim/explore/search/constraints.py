"""What a user asks of a configuration: ``gpu_memory <= 16 GiB``, ``perplexity <= 5``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from moesim import units
from moesim.errors import Problem, SpecError

METRICS = {
    "tpot": "s", "ttft": "s", "gpu_memory": "B", "main_memory": "B", "disk": "B", "output_throughput": "tok/s",
}  # fmt: skip
"""What every configuration has, with the unit a constraint is written in; quality metrics have none."""
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_CONSTRAINT = re.compile(r"^\s*([A-Za-z_]\w*)\s*(<=|>=|<|>)\s*(.+?)\s*$")


@dataclass(frozen=True)
class Constraint:
    """A limit on one metric. Values in SI."""

    metric: str
    sign: str
    limit: float

    def keeps(self, value: float | None) -> bool:
        """Whether a value is within the limit; what is unknown is not."""
        return value is not None and _OPERATORS[self.sign](value, self.limit)

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
        return f"{self.metric} {self.sign} {value_text(self.metric, self.limit)}"


def value_text(metric: str, value: float) -> str:
    """A metric's value as a constraint would be written."""
    unit = METRICS.get(metric, "")
    if unit == "B":
        return units.bytes_text(value)
    if unit == "s":
        return f"{1e3 * value:.4g} ms"
    return f"{value:.4g} {unit}".rstrip()


def _plain(value: str, unit: str) -> float:
    """A number, with its unit behind it or without."""
    try:
        return float(value.removesuffix(unit).strip())
    except ValueError:
        accepted = f"a number, in {unit}" if unit else "a plain number"
        raise ValueError(f"{value!r} is not {accepted}") from None


def parsed(text: str, known: tuple[str, ...]) -> Constraint:
    """One constraint as written. Raises SpecError.

    Parameters
    ----------
    known : tuple of str
        Metrics that can be limited: those of ``METRICS``, and the quality table's.
    """
    match = _CONSTRAINT.match(text) if isinstance(text, str) else None
    if not match:
        raise SpecError([Problem(f"'{text}' is not METRIC <= VALUE, like 'gpu_memory <= 16 GiB'", "--where")])
    name, sign, value = match.groups()
    if name not in known:
        raise SpecError([Problem(f"'{name}' is not a metric; there are {', '.join(known)}", "--where")])
    unit = METRICS.get(name, "")
    try:
        limit = units.parse(value, unit) if unit in units.UNITS else _plain(value, unit)
    except ValueError as error:
        raise SpecError([Problem(f"'{text}': {error}", "--where")]) from None
    if not 0 <= limit < float("inf"):
        raise SpecError([Problem(f"'{text}': a limit from 0 is accepted", "--where")])
    return Constraint(name, sign, limit)
