"""Skewed rows of the fused-experts tables, predicted from the balanced fit through routing alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from moesim.calibrate.families import FAMILIES, Family, implied_bound_broken, moe_shape, skewed
from moesim.calibrate.fitting import ideal_seconds
from moesim.calibrate.tables import read_table
from moesim.cost.fits import FittedFamily, load_fits
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import tuned_tiles
from moesim.spec.loading import load_hardware


@dataclass(frozen=True)
class SkewError:
    """How rows that no fit saw come out: mean over rows, worst model shape, coverage of the interval."""

    rows: int
    mean: float
    worst: float
    roofline: float
    coverage: float


@lru_cache(maxsize=8)
def power_law_errors(gpu: str, stack: str) -> dict[str, SkewError]:
    """Errors on power-law rows, by fused-experts family. Constants come from balanced rows only."""
    fits = load_fits(f"{gpu}/{stack}")
    return {
        family.name: _skew_error(family, fits.family(family.name), gpu, stack)
        for family in FAMILIES
        if family.form.name == "fused_moe" and family.name in fits.families
    }


def _skew_error(family: Family, fitted: FittedFamily, gpu: str, stack: str) -> SkewError:
    numbers = GpuNumbers.of(load_hardware(gpu))
    table = read_table(gpu, stack, family.table)
    balanced = family.select(table, numbers)
    efficiency = float(np.median(balanced["seconds"] / ideal_seconds(family, balanced, numbers)))
    family = replace(family, select=skewed(family))
    rows = family.select(table, numbers)
    rows = rows[~implied_bound_broken(family, rows, numbers)].reset_index(drop=True)
    predicted = np.asarray(family.evaluator(rows, numbers, tuned_tiles(gpu))(fitted.parameters).seconds)
    measured = rows["seconds"].to_numpy()
    errors = np.abs(predicted / measured - 1)
    routing_spread = family.operation(rows).loads.spread(rows["num_tokens"].to_numpy())
    half_width = np.hypot(fitted.residuals.interval(predicted), routing_spread)
    roofline = np.abs(ideal_seconds(family, rows, numbers) * efficiency / measured - 1)
    by_shape = [errors[(moe_shape(rows) == shape).to_numpy()].mean() for shape in moe_shape(rows).unique()]
    return SkewError(
        len(rows),
        float(errors.mean()),
        float(max(by_shape)),
        float(roofline.mean()),
        float((np.abs(np.log(measured / predicted)) <= half_width).mean()),
    )
