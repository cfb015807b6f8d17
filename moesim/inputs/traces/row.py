"""A line of a trace as a format's reader hands it over, before anyone checked it."""

from __future__ import annotations

import datetime
from typing import NamedTuple

from moesim.errors import Problem, SpecError

LONGEST = 10_000_000


class Row(NamedTuple):
    """A request, and where it stands."""

    where: str
    """``:3`` is a line, `` entry 3`` a place in a list; behind the file's name."""
    arrival_s: float
    input_len: int
    output_len: int
    segments: tuple[tuple[int, int], ...] = ()
    images: bool = False
    """It comes with images, which the prompt's tokens do not count."""
    turn: bool = False
    """It belongs to a session."""


class Manner(NamedTuple):
    """How a format's rows are to be taken."""

    recorded: bool
    """As a service saw them: the clock starts at the first of them, rows may stand in any order, and a request that
    generated nothing may be among them. Else someone wrote them for moesim: seconds from 0, in order."""
    prompt: str = "input_len"
    """What the columns of prompt tokens and of generated ones are called."""
    output: str = "output_len"


def refused(path: str, where: str, message: str) -> SpecError:
    return SpecError([Problem(message, f"{path}{where}")])


def whole(value: object) -> int:
    """A whole number as files have it, 472 or 472.0. Raises ValueError or TypeError for others."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    number = float(value)
    if number != int(number):
        raise ValueError
    return int(number)


def moment_s(value: object) -> float:
    """Seconds of a date with a time (UTC where no zone is said), or of an epoch in s, ms, us or ns."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    try:
        number = float(value)
    except ValueError:
        moment = datetime.datetime.fromisoformat(str(value).strip().replace(" UTC", "+00:00"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    for least, unit in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3)):
        if abs(number) >= least:
            return number * unit
    return number
