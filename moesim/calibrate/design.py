"""Which points to measure first: those that tell the most about what the fit will be asked.

Every candidate's row of the Jacobian, d ln(seconds) / d ln(parameter), comes from the model itself at its start and at
draws around it, before anything is measured. Points are taken one by one, each the one that lowers the mean variance of
predictions over all candidates most (I-optimal design, Fedorov 1972; here Bayesian, Chaloner and Verdinelli 1995,
section 2.4): the parameters have a prior, a row has noise, and rows of one group share an error, so that a
new shape tells more than one shape again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.calibrate.family import Family
from moesim.calibrate.sensitivity import log_jacobian, log_seconds
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import TunedTiles

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]

_PRIOR = 0.7
"""Standard deviation of ln(parameter) before measuring: a factor of two."""
_NOISE = 0.05
"""Standard deviation of ln(seconds) of one row, beyond its group's."""
_GROUP = 0.1
"""Standard deviation of ln(seconds) that the rows of a group share."""
_MODEL = 0.2
"""Standard deviation of what the model gets wrong along its range, in ln(seconds)."""
_BUMPS = 8
_DRAWS = 6


def jacobians(family: Family, table: pd.DataFrame, gpu: GpuNumbers, tuned: TunedTiles) -> tuple[Array, Array]:
    """d ln(seconds) / d ln(parameter), (draws, rows, parameters), at the form's start and at draws around it; and
    ln(seconds) at the start."""
    parameters = family.form.parameters
    start = np.array([q.start for q in parameters])
    low, high = (np.array([getattr(q, side) for q in parameters]) for side in ("low", "high"))
    shift = np.random.default_rng(0).normal(0.0, _PRIOR / 2, (_DRAWS, len(parameters)))
    shift[0] = 0.0
    evaluate, rows = family.evaluator(table, gpu, tuned), len(table)
    around = np.clip(start * np.exp(shift), low, high)
    found = np.stack([log_jacobian(evaluate, parameters, values, rows) for values in around])
    return found, log_seconds(evaluate, parameters, start, rows)


def most_telling(jacobian: Array, groups: Array, load: Array, many: int, cost_s: Array | None = None) -> Array:
    """Indices of ``many`` rows, the most telling first.

    Parameters
    ----------
    jacobian : array, (draws, rows, parameters)
    groups : array, (rows,)
        What rows err together by.
    load : array, (rows,)
        Where along the model's range a row lies: ln(seconds), say. Rows of like load err together too.
    many : int
        How many to choose, at most the rows there are.
    cost_s : array, (rows,), optional
        Seconds to measure each; then what is gained a second counts.
    """
    _, index = np.unique(groups, return_inverse=True)
    draws, rows, _ = jacobian.shape
    shared = np.zeros((rows, index.max() + 1))
    shared[np.arange(rows), index] = _GROUP
    # What the model gets wrong along its range is asked for as its parameters are; a group's own error is not.
    asked = np.concatenate([_PRIOR * jacobian, np.broadcast_to(_bumps(load), (draws, rows, _BUMPS))], axis=2) / _NOISE
    design = np.concatenate([asked, np.broadcast_to(shared / _NOISE, (draws, *shared.shape))], axis=2)
    # A root of the mean of asked asked': the variance of predictions is the squared length of root' covariance.
    root = np.stack([np.asarray(np.linalg.qr(a, mode="r")).T for a in asked]) / np.sqrt(rows)
    through, left = design.copy(), asked @ root
    chosen: list[int] = []
    free = np.ones(rows, bool)
    for _ in range(min(many, rows)):
        spread = 1.0 + (through * design).sum(2)
        gain = (left**2).sum(2) / spread
        total = (gain / gain.max(1, keepdims=True)).mean(0)
        if cost_s is not None:
            total = total / cost_s
        best = int(np.argmax(np.where(free, total, -1.0)))
        chosen.append(best)
        free[best] = False
        direction = through[:, best].copy()
        dot = np.einsum("drp,dp->dr", design, direction) / spread[:, best, None]
        left = left - dot[:, :, None] * left[:, best][:, None, :]
        through = through - dot[:, :, None] * direction[:, None, :]
    return np.array(chosen)


def _bumps(load: Array) -> Array:
    """Smooth errors along the range: Gaussian bumps side by side, each of ``_MODEL`` standard deviation."""
    low, high = float(load.min()), float(load.max())
    width = max((high - low) / (_BUMPS - 1), 1e-9)
    centres = np.linspace(low, high, _BUMPS)
    return _MODEL * np.exp(-0.5 * ((load[:, None] - centres) / width) ** 2)


def telling_order(
    family: Family, table: pd.DataFrame, gpu: GpuNumbers, tuned: TunedTiles, many: int, cost_s: Array | None = None
) -> Array:
    """Positions in ``table`` of the ``many`` rows to measure first, from shapes and loads alone."""
    jacobian, log_seconds = jacobians(family, table, gpu, tuned)
    return most_telling(jacobian, family.group(table).to_numpy(str), log_seconds, many, cost_s)
