"""Arithmetic on plain numbers and on arrays alike: a prediction prices numbers, a fit prices tables.

NumPy's functions give the same results for both, ten times slower for one number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

_NUMBERS = (int, float, bool)


def where(condition: Any, yes: Any, no: Any) -> Any:
    if isinstance(condition, (bool, np.bool_)):
        return yes if condition else no
    return np.where(condition, yes, no)


def maximum(a: Any, b: Any) -> Any:
    if isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS):
        return a if a >= b else b
    return np.maximum(a, b)


def minimum(a: Any, b: Any) -> Any:
    if isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS):
        return a if a <= b else b
    return np.minimum(a, b)


def least(options: Iterable[Any]) -> Any:
    return functools.reduce(minimum, options)


def clip(x: Any, low: Any, high: Any) -> Any:
    return minimum(maximum(x, low), high)


def ceil(x: Any) -> Any:
    return float(math.ceil(x)) if isinstance(x, _NUMBERS) and math.isfinite(x) else np.ceil(x)


def floor(x: Any) -> Any:
    return float(math.floor(x)) if isinstance(x, _NUMBERS) and math.isfinite(x) else np.floor(x)


def exp(x: Any) -> Any:
    return math.exp(x) if isinstance(x, _NUMBERS) and x < 700 else np.exp(x)


def log2(x: Any) -> Any:
    return math.log2(x) if isinstance(x, _NUMBERS) and x > 0 else np.log2(x)


def real(x: Any) -> Any:
    """A number as a float, anything else as an array of them."""
    return float(x) if isinstance(x, (*_NUMBERS, np.number)) else np.asarray(x, float)
