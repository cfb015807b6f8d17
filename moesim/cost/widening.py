"""How much wider an interval is where a cost leaves what was fitted (docs/intervals.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.fits import FittedFamily, ranged_fields
from moesim.cost.forms.form import Form

WIDEST = 2.2
"""A factor of nine either way: wider says nothing more."""
OCTAVE_STEP = 0.1
"""Added to a half-width for each doubling beyond the fitted range, on top of its factor."""


def around(seconds: Any, width: Any) -> tuple[Any, Any]:
    """Seconds below and above, of an interval of ``width`` in the logarithm."""
    factor = np.exp(width)
    return seconds * (1.0 - 1.0 / factor), seconds * (factor - 1.0)


def of_experts(width: Any, map_widening: float | None, spread: Any) -> Any:
    """A half-width of experts: wider under an expert map, which no fitted row ran, and by the draw of a routing.

    Parameters
    ----------
    map_widening : float, optional
        The engine's factor where a rank holds a part of the experts.
    spread : array_like, optional
        Half-width of the draws, which are independent of the kernel's error.
    """
    if map_widening is not None:
        width = map_widening * width
    return width if spread is None else np.hypot(width, spread)


def octaves_outside(family: FittedFamily, op: Any, form: Form) -> tuple[Any, str]:
    """Doublings between the op's load and shape and the nearest fitted value, summed over fields."""
    octaves: Any = 0.0
    names: list[str] = []
    for name, value in ranged_fields(op, form.ranged).items():
        limits = family.valid_range.get(name)
        if limits is None:
            continue
        low, high = limits
        smallest, largest = (value, value) if isinstance(value, (int, float)) else (value.min(), value.max())
        if low <= smallest and largest <= high:
            continue
        positive = np.maximum(np.asarray(value, float), 1e-12)
        if low <= 0:
            # Measured from zero: cached context before a prefill chunk, more than tables have, counts as one doubling.
            octaves = octaves + np.where(positive > max(high, 1e-6), 1.0, 0.0)
        else:
            octaves = octaves + np.maximum(np.log2(positive / high), 0) + np.maximum(np.log2(low / positive), 0)
        names.append(name)
    return octaves, ", ".join(names)
