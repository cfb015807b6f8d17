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
from moesim.cost.fits import FittedFamily
from moesim.cost.gpu import GpuNumbers
from moesim.cost.sources import own_fit
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
def power_law_errors(gpu: str) -> dict[str, UnseenError]:
    """Errors on power-law rows, by fused-experts family: of a rank with all experts, or as the family was fitted."""
    return _errors(gpu, "power_law", None)


@lru_cache(maxsize=8)
def expert_parallel_errors(gpu: str) -> dict[str, UnseenError]:
    """Errors on rows of expert-parallel ranks, balanced and power-law, by family fitted on ranks that hold all."""
    return _errors(gpu, "", True)


@lru_cache(maxsize=8)
def held_out_shape_errors(gpu: str) -> dict[str, UnseenError]:
    """Errors on every row of the model shape that no fit sees."""
    return _errors(gpu, "", None, held_out=True)


@lru_cache(maxsize=8)
def later_version_errors(gpu: str, stack: str) -> dict[str, UnseenError]:
    """Errors on rows of a stack that is held out, by fused-experts family: a later version, and a shape never seen."""
    return _errors(gpu, "", None, stack=stack)


def _errors(
    gpu: str, distribution: str, parallel: bool | None, held_out: bool = False, stack: str = ""
) -> dict[str, UnseenError]:
    """By family; ``parallel`` None takes ranks as the family's own rows are, ``stack`` another's table than its own."""
    numbers = GpuNumbers.of(load_hardware(gpu))
    found: dict[str, UnseenError] = {}
    for family in FAMILIES:
        fits = own_fit(gpu, family.name) if family.table == "fused_moe" else None
        if fits is None or (parallel and family.extra["parallel"]):
            continue
        ranks = family.extra["parallel"] if parallel is None else parallel
        table, unseen = read_table(gpu, fits.stack, family.table), never_fitted(family, distribution, ranks, held_out)
        rows = unseen.select(read_table(gpu, stack, family.table) if stack else table, numbers)
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
    listed = load_engine().file.kernels.listed(operation.weights)
    kernel = next((kernel for kernel in listed if kernel.family == family.name), listed[0])
    widening = kernel.map_widening if operation.parallel else None
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
