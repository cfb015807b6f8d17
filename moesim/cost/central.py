"""A machine whose prices are central values alone: what a search asks by the thousand."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.cost import Cost
from moesim.cost.machine import Machine
from moesim.cost.registry import CHOICES, Choice
from moesim.cost.roofline import prices
from moesim.ops import Operation

_MOST_NUMBERS = 1024
"""Of an array in a key: comparing longer ones takes as long as pricing."""


class _TooLong(Exception):
    """An array that is not worth remembering."""


class CentralMachine(Machine):
    """The same times without intervals, and prices of arrays remembered too: engines share most operations."""

    def price(self, name: str, op: Operation) -> Cost:
        try:
            key = (name, _key(op))
        except _TooLong:
            return self._price(name, op)
        found = self._remembered.get(key)
        if found is None:
            found = self._remembered[key] = self._price(name, op)
        return found

    def _price(self, name: str, op: Operation) -> Cost:
        # What prices an operation with a choice of its own adds to its interval alone.
        choose = CHOICES.get(type(op))
        if choose is None or (self.hardware.roofline is not None and prices(op)):
            return super()._price(name, op)
        return self.priced(name, choose(self, name, op))

    def priced(self, name: str, choice: Choice) -> Cost:
        seconds = self._timing(choice).seconds
        return Cost(name, float(seconds) if np.ndim(seconds) == 0 else seconds, {}, op=choice.op)


def _key(x: Any) -> Any:
    """What two equal operations share; arrays by their numbers. Raises _TooLong."""
    if isinstance(x, np.ndarray):
        if x.size > _MOST_NUMBERS:
            raise _TooLong
        return x.shape, x.tobytes()
    if isinstance(x, tuple):
        return tuple(map(_key, x))
    slots = getattr(type(x), "__slots__", None)
    if slots and not isinstance(x, (str, int, float)):
        return (type(x), *(_key(getattr(x, name)) for name in slots))
    return x
