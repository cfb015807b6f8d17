"""How a form's seconds follow its parameters: d ln(seconds) / d ln(parameter)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moesim.calibrate.family import Evaluate
from moesim.cost.forms.form import Parameter

Array = np.ndarray[Any, Any]
_STEP = 1e-3


def log_seconds(evaluate: Evaluate, parameters: Sequence[Parameter], values: Array, rows: int) -> Array:
    """ln(seconds) of every row at ``values``."""
    by_name = dict(zip((q.name for q in parameters), values.tolist(), strict=True))
    return np.log(np.broadcast_to(evaluate(by_name).seconds, rows))


def log_jacobian(evaluate: Evaluate, parameters: Sequence[Parameter], values: Array, rows: int) -> Array:
    """d ln(seconds) / d ln(parameter) at ``values``, (rows, parameters); zero for a parameter that is zero."""
    here, found = log_seconds(evaluate, parameters, values, rows), np.empty((rows, len(parameters)))
    for q in range(len(parameters)):
        moved = values.copy()
        moved[q] *= 1 - _STEP
        found[:, q] = (here - log_seconds(evaluate, parameters, moved, rows)) / _STEP
    return found
