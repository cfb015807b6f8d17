"""How much wider an interval is where a cost leaves what was fitted (docs/intervals.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.fits import FittedFamily, ranged_fields
from moesim.cost.forms.form import Form, Timing
from moesim.ops import FusedExperts

WIDER_PER_OCTAVE = 0.25
"""Widening of an interval for each doubling beyond the fitted range, relative; a tenth is added on top."""
WIDER_ON_ANOTHER_GPU = 1.5
"""Least widening on a GPU that was not fitted, of the same architecture too."""
WIDER_WHEN_BORROWED = 2.0
"""Widening where a related kernel's constants stand in."""
WIDEST = 2.2
"""A factor of nine either way: wider says nothing more."""


def draws(op: Any, timing: Timing) -> Any:
    """Variance of a rank's routed work, whose variable part follows the busiest rank's rows. [s2]"""
    if not isinstance(op, FusedExperts) or not op.parallel:
        return 0.0
    return (op.loads.deviation(op.tokens) * (timing.seconds - timing.launch)) ** 2


def of_experts(width: Any, op: FusedExperts) -> Any:
    """An interval of fused experts: kernel error and the draw of a random routing are independent."""
    return np.hypot(_in_a_group(op.weights) * width if op.parallel else width, op.loads.spread(op.tokens))


def _in_a_group(weights: str) -> float:
    """Widening for a rank that holds a part of the experts: none was fitted.

    Marlin and triton_kernels also sort tokens by other kernels under an expert map, which no fitted row runs.
    """
    return 3.0 if weights in {"int4", "int8_weight_only", "mxfp4"} else 1.5


def around(seconds: Any, width: Any) -> tuple[Any, Any]:
    """Seconds below and above, of an interval of ``width`` in the logarithm."""
    factor = np.exp(width)
    return seconds * (1.0 - 1.0 / factor), seconds * (factor - 1.0)


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
        if high <= 0:
            # Never measured away from zero: cached context before a prefill chunk counts as one doubling.
            octaves = octaves + np.where(positive > 1e-6, 1.0, 0.0)
        else:
            octaves = octaves + np.maximum(np.log2(positive / high), 0) + np.maximum(np.log2(low / positive), 0)
        names.append(name)
    return octaves, ", ".join(names)
