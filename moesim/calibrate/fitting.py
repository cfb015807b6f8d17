"""Least squares on log residuals, held-out errors by whole groups, and the residuals' quantiles.

Standard errors are the larger of two: from the refits that leave groups out (a jackknife over groups), because rows of
one shape err together, and from the scatter of all rows through the Jacobian, because few folds can agree by chance.
Interval quantiles of a group come from the other groups only, so that the printed coverage is honest
(cross-conformal).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.calibrate.families import implied_bound_broken
from moesim.calibrate.family import Family
from moesim.calibrate.sensitivity import log_jacobian, log_seconds
from moesim.cost.fits import Residuals, ranged_fields
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import TunedTiles
from moesim.errors import CalibrationError
from moesim.ops import Collective, ExpertAllToAll

if TYPE_CHECKING:
    import pandas as pd

_MAX_ROWS = 8000
_MOST_EVALUATIONS = 300
_ROBUST_SCALE = 0.1
_PRIOR = 0.01
"""Weight of a parameter's distance from its start, in the logarithm, as if one row erred by a hundredth of it: what
the rows do not identify stays there, and the same rows give the same fit on every processor."""
_LEAST = 1e-3
_NOTHING_S = 1e-12
"""What a launch of nothing takes by a roofline: one time for all, which its efficiency constant then scales."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FamilyFit:
    """A fitted family with everything the quality page says about it."""

    family: Family
    parameters: dict[str, float]
    standard_errors: dict[str, float]
    valid_range: dict[str, tuple[float, float]]
    residuals: Residuals
    held_out: pd.DataFrame
    """One row a measured row: group, seconds, predicted, roofline."""
    coverage: float
    set_aside: dict[str, int]

    @property
    def errors(self) -> pd.Series:
        """|predicted / measured - 1| of every row left out."""
        return (self.held_out["predicted"] / self.held_out["seconds"] - 1).abs()


def fit_family(family: Family, table: pd.DataFrame, gpu: GpuNumbers, tuned: TunedTiles) -> FamilyFit:
    """Fit one family on its rows of ``table`` and hold out every group once.

    Raises
    ------
    CalibrationError
        No more usable rows than constants, or a single group (nothing could be held out).
    """
    import pandas as pd

    rows = family.select(table, gpu)
    if rows.empty:
        raise CalibrationError(f"the table has no rows of {family.name}")
    broken = implied_bound_broken(family, rows, gpu)
    set_aside = family_counts(family, rows, broken)
    rows = rows[~broken].reset_index(drop=True)
    if len(rows) <= len(family.form.parameters):
        raise CalibrationError(
            f"{family.name} has {len(rows)} usable rows for {len(family.form.parameters)} constants; more are needed"
        )
    folds = folds_of(family, rows)
    if folds.max() < 1:
        raise CalibrationError(f"{family.name} has one group only ({family.scheme}), so nothing can be held out")
    measured = rows["seconds"].to_numpy(float)
    everything = solve(family, rows, gpu, tuned)
    predicted, refits, roofline = np.empty(len(rows)), [], np.empty(len(rows))
    ideal = ideal_seconds(family, rows, gpu)
    for fold in range(folds.max() + 1):
        out = folds == fold
        p = solve(family, rows[~out], gpu, tuned)
        refits.append([p[q.name] for q in family.form.parameters])
        predicted[out] = family.evaluator(rows[out], gpu, tuned)(p).seconds
        roofline[out] = ideal[out] * np.exp(np.median(np.log(measured[~out] / ideal[~out])))
    spread = np.array(refits)
    many = len(spread)
    errors = np.sqrt((many - 1) / many * ((spread - spread.mean(0)) ** 2).sum(0))
    errors = np.maximum(errors, _scatter_errors(family, rows, gpu, tuned, everything))
    names = [q.name for q in family.form.parameters]
    log_ratio = np.log(measured / predicted)
    held_out = pd.DataFrame(
        {"group": family.group(rows), "seconds": measured, "predicted": predicted, "roofline": roofline}
    )
    return FamilyFit(
        family,
        everything,
        dict(zip(names, errors.tolist(), strict=True)),
        valid_range(family, rows),
        Residuals.of(predicted, log_ratio),
        held_out,
        _coverage(predicted, log_ratio, folds),
        set_aside,
    )


def _scatter_errors(
    family: Family, rows: pd.DataFrame, gpu: GpuNumbers, tuned: TunedTiles, fitted: dict[str, float]
) -> Array:
    """Standard errors as if rows erred independently: the scatter of the residuals through the Jacobian."""
    rows = _thinned(rows)
    parameters, values = family.form.parameters, np.array([fitted[q.name] for q in family.form.parameters])
    evaluate = family.evaluator(rows, gpu, tuned)
    missed = np.log(rows["seconds"].to_numpy(float)) - log_seconds(evaluate, parameters, values, len(rows))
    jacobian = log_jacobian(evaluate, parameters, values, len(rows))
    scatter = (missed**2).sum() / max(len(rows) - len(values), 1)
    spread = np.linalg.inv(jacobian.T @ jacobian + _PRIOR**2 * np.eye(len(values)))
    return np.sqrt(scatter * np.diag(spread)) * np.abs(values)


def family_counts(family: Family, rows: pd.DataFrame, broken: Array) -> dict[str, int]:
    """How many rows the physical rule sets aside, by group."""
    groups = family.group(rows)[broken]
    return {str(k): int(v) for k, v in groups.value_counts().items()}


def ideal_seconds(family: Family, rows: pd.DataFrame, gpu: GpuNumbers) -> Array:
    """The plain roofline at full efficiency: max(FLOP / peak, bytes / bandwidth), links for collectives. [s]"""
    op = family.operation(rows)
    if isinstance(op, Collective):
        return np.asarray(op.link_bytes / gpu.link_bytes_per_s)
    if isinstance(op, ExpertAllToAll):
        return np.maximum(op.link_bytes / gpu.link_bytes_per_s, op.node_bytes / gpu.nic_bytes_per_s)
    flop, moved = (np.broadcast_to(np.asarray(x, float), len(rows)) for x in (op.flop, op.hbm_bytes))
    return np.maximum(np.maximum(flop / gpu.flop_per_s(family.arithmetic), moved / gpu.hbm_bytes_per_s), _NOTHING_S)


def valid_range(family: Family, rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every load and shape field the fit saw."""
    values = ranged_fields(family.operation(rows), family.form.ranged)
    return {name: (float(np.min(v)), float(np.max(v))) for name, v in values.items()}


def _thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """As many rows as a fit looks at, the same ones each time."""
    return rows.sample(_MAX_ROWS, random_state=0) if len(rows) > _MAX_ROWS else rows


def folds_of(family: Family, rows: pd.DataFrame) -> Array:
    labels, index = np.unique(family.group(rows).to_numpy(str), return_inverse=True)
    if family.folds is None:
        return index
    order = np.random.default_rng(0).permutation(len(labels))
    return order[index] % family.folds


def solve(family: Family, rows: pd.DataFrame, gpu: GpuNumbers, tuned: TunedTiles) -> dict[str, float]:
    """Robust least squares of log(predicted / measured) within the parameters' bounds, from the form's own start.

    Never from another fit: a fold that starts where all rows led would have seen the rows left out.
    """
    from scipy.optimize import least_squares

    rows = _thinned(rows)
    names = [q.name for q in family.form.parameters]
    scale = np.array([q.start for q in family.form.parameters])
    low, high = (np.array([getattr(q, s) for q in family.form.parameters]) / scale for s in ("low", "high"))
    evaluate, target = family.evaluator(rows, gpu, tuned), np.log(rows["seconds"].to_numpy(float))

    def residual(z: Array) -> Array:
        missed = np.log(evaluate(dict(zip(names, z * scale, strict=True))).seconds) - target
        return np.concatenate([missed, _PRIOR * np.log(np.maximum(z, _LEAST))])

    margin = 1e-7 * (high - low)
    result = least_squares(
        residual, np.clip(np.ones(len(names)), low + margin, high - margin), bounds=(low, high), x_scale="jac",
        diff_step=1e-4, loss="soft_l1", f_scale=_ROBUST_SCALE, max_nfev=_MOST_EVALUATIONS,
    )  # fmt: skip
    return dict(zip(names, (result.x * scale).tolist(), strict=True))


def _coverage(predicted: Array, log_ratio: Array, folds: Array) -> float:
    """Share of held-out rows inside the interval that the other folds' residuals give."""
    inside = np.zeros(len(predicted), bool)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        half_width = Residuals.of(predicted[~out], log_ratio[~out]).interval(predicted[out])
        inside[out] = np.abs(log_ratio[out]) <= half_width
    return float(inside.mean())
