"""Which drafts are kept, drawn: the same whoever asks, and when, so that steps priced at once and one by one agree."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_APART = 1 << 32
_STEP, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def drafts_kept(kept: tuple[float, ...], request: Array, number: Array) -> Array:
    """How many drafts requests keep in their rounds of such numbers; arrays of one shape, or of shapes that broadcast.

    ``kept`` is the chance that at least the first, the first two, ... are.
    """
    drawn = _uniform(request.astype(np.uint64) * np.uint64(_APART) + number.astype(np.uint64))
    return (drawn[..., None] < np.array(kept)).sum(-1)


def _uniform(counter: Array) -> Array:
    """Evenly spread between 0 and 1, one for each counter (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        x = (counter + np.uint64(1)) * _STEP
        x = (x ^ (x >> np.uint64(30))) * _FIRST
        x = (x ^ (x >> np.uint64(27))) * _SECOND
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)) * 2.0**-53
