"""Rows of the fused-experts tables that no fit sees, predicted from the balanced single-rank fit alone.

Skewed rows try routing, rows of expert-parallel ranks try placement and the busiest rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.calibrate.dataset import read_table
from moesim.calibrate.expert_rows import moe_shape, never_fitted
from moesim.calibrate.families import FAMILIES, implied_bound_broken
from moesim.calibrate.family import Family
from moesim.calibrate.fitting import ideal_seconds
from moesim.cost.fits import FittedFamily, load_fits
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import tuned_tiles
from moesim.cost.widening import of_experts
from moesim.engines.engine import load_engine
from moesim.hardware.catalogue import load_hardware

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class UnseenError:
    """How rows that no fit saw come out: mean over rows, worst model shape, coverage of the interval."""

    rows: int
    mean: float
    worst: float
    roofline: float
    coverage: float


@lru_cache(maxsize=8)
def power_law_errors(gpu: str, stack: str) -> dict[str, UnseenError]:
    """Errors on power-law rows of a rank with all experts, by fused-experts family."""
    return _errors(gpu, stack, "power_law", parallel=False)


@lru_cache(maxsize=8)
def expert_parallel_errors(gpu: str, stack: str) -> dict[str, UnseenError]:
    """Errors on rows of expert-parallel ranks, balanced and power-law, by fused-experts family."""
    return _errors(gpu, stack, "", parallel=True)


def _errors(gpu: str, stack: str, distribution: str, parallel: bool) -> dict[str, UnseenError]:
    fits, numbers = load_fits(f"{gpu}/{stack}"), GpuNumbers.of(load_hardware(gpu))
    found: dict[str, UnseenError] = {}
    for family in FAMILIES:
        if family.form.name != "fused_moe" or family.name not in fits.families:
            continue
        table, unseen = read_table(gpu, stack, family.table), never_fitted(family, distribution, parallel)
        rows = unseen.select(table, numbers)
        if rows.empty:
            continue
        rows = rows[~implied_bound_broken(unseen, rows, numbers)].reset_index(drop=True)
        balanced = family.select(table, numbers)
        efficiency = float(np.median(balanced["seconds"] / ideal_seconds(family, balanced, numbers)))
        roofline = ideal_seconds(family, rows, numbers) * efficiency
        fitted = fits.family(family.name)
        predicted = np.asarray(unseen.evaluator(rows, numbers, tuned_tiles(gpu))(fitted.parameters).seconds)
        found[family.name] = _error(unseen, fitted, rows, predicted, roofline)
    return found


def _error(family: Family, fitted: FittedFamily, rows: pd.DataFrame, predicted: Any, roofline: Any) -> UnseenError:
    measured = rows["seconds"].to_numpy()
    errors = np.abs(predicted / measured - 1)
    operation = family.operation(rows)
    widening = load_engine().file.kernels.experts[operation.weights].map_widening if operation.parallel else None
    spread = operation.loads.spread(operation.tokens)
    half_width = of_experts(fitted.residuals.interval(predicted), widening, spread)
    by_shape = [errors[(moe_shape(rows) == shape).to_numpy()].mean() for shape in moe_shape(rows).unique()]
    return UnseenError(
        len(rows),
        float(errors.mean()),
        float(max(by_shape)),
        float(np.abs(roofline / measured - 1).mean()),
        float((np.abs(np.log(measured / predicted)) <= half_width).mean()),
    )
