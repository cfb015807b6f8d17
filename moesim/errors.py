"""What can be wrong, said in sentences."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_MOST_LETTERS = 600


def acts_on_terminal(text: str) -> bool:
    """Whether text holds what a terminal acts on rather than shows; lines and tabs are harmless."""
    return _CONTROL.search(text) is not None


def harmless(text: str) -> str:
    """The same with what a terminal acts on written out."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text) if acts_on_terminal(text) else text


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with what the user wrote: where, what, and what would be accepted."""

    message: str
    where: str = ""

    def __str__(self) -> str:
        """As a terminal may show it, whatever a file's name or content holds; one line, and no page."""
        text = f"{self.where}: {self.message}" if self.where else self.message
        cut = text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} ..."
        return harmless(cut.replace("\n", "\\n"))


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


MOST_PROBLEMS = 20
"""That one refusal names."""


def more(problems: int, where: str = "") -> Problem:
    """What stands for those of so many that are not named."""
    return Problem(f"and {problems - MOST_PROBLEMS:,} more problems", where)


class MoesimError(Exception):
    """Whatever moesim refuses."""


class SpecError(MoesimError, ValueError):
    """A scenario, model or hardware description cannot be used. Carries every problem found, up to twenty."""

    def __init__(self, problems: list[Problem] | str):
        found = [Problem(problems)] if isinstance(problems, str) else list(problems)
        self.problems = found if len(found) <= MOST_PROBLEMS + 1 else [*found[:MOST_PROBLEMS], more(len(found))]
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
