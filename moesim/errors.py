"""What can be wrong, said in sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with what the user wrote: where, what, and what would be accepted."""

    message: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


_LISTED, _ALIKE, _LIKELY = 3, 0.8, 0.5


def nearest(name: str, known: Iterable[str], lists: str) -> str:
    """The end of a sentence on a name that is none: the three nearest, and which command ``lists`` all."""
    names = list(dict.fromkeys(known))
    spelled = {one.lower(): one for one in names}
    if near := difflib.get_close_matches(name.lower(), spelled, 1, _ALIKE):
        return f"did you mean '{spelled[near[0]]}'?"
    if near := difflib.get_close_matches(name.lower(), spelled, _LISTED, _LIKELY):
        return f"did you mean {' or '.join(repr(spelled[one]) for one in near)}? {lists} lists all"
    if len(names) <= _LISTED + 1:
        return f"there are {', '.join(names)}"
    return f"there are {', '.join(names[:_LISTED])} and {len(names) - _LISTED} more: {lists} lists all"


class MoesimError(Exception):
    """Whatever moesim refuses."""


class SpecError(MoesimError, ValueError):
    """A scenario, model or hardware description cannot be used. Carries every problem found."""

    def __init__(self, problems: list[Problem] | str):
        self.problems = [Problem(problems)] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class DoesNotFit(MoesimError, RuntimeError):
    """The scenario needs more GPU memory than there is, so it has no latency.

    ``shortfall_bytes`` is what is missing on each GPU; ``ways_out`` are the nearest changes that fit.
    """

    def __init__(self, message: str, shortfall_bytes: float, memory: object, ways_out: tuple[str, ...] = ()):
        self.shortfall_bytes = shortfall_bytes
        self.memory = memory
        self.ways_out = ways_out
        super().__init__(message)


class CalibrationError(MoesimError, RuntimeError):
    """A measured table or a fit cannot be used as asked."""
