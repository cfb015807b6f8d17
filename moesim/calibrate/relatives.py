"""How well a family's constants price the same kernel on another weight format, where a GPU has tables of both.

The format decides what a weight costs to unpack, which slows arithmetic and not the stream from memory: one factor,
solved for on the format's rows with every other constant as the family has it. What is still missed is the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.calibrate.dataset import stored_datasets
from moesim.calibrate.families import FAMILIES, implied_bound_broken, measured_best
from moesim.calibrate.family import Family
from moesim.calibrate.fitting import solve
from moesim.cost.fits import LEVEL
from moesim.cost.forms import fused_moe
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import tuned_tiles
from moesim.hardware.catalogue import load_hardware

if TYPE_CHECKING:
    import pandas as pd

_SLICES = 8
"""Ranks that share an expert, at most: finer cuts are served nowhere."""
_SLOWEST = 2.0


def relatives(family: Family, gpu: str) -> dict[str, dict[str, Any]]:
    """Weight format -> what is stored of it beside a family's fit for ``gpu``.

    The slow-down is of this GPU where it has a relative's table, else of all that have; the half-width is the 90 %
    quantile of |log(measured/predicted)| over all of them, each at its own slow-down.
    """
    found = {weights: _seen(family, names, gpu) for weights, names in family.extra.get("relatives", {}).items()}
    return {weights: entry for weights, entry in found.items() if entry}


def _seen(family: Family, names: Sequence[str], gpu: str) -> dict[str, Any]:
    from scipy.optimize import minimize_scalar

    found: dict[str, Any] = {}
    missed: list[Any] = []
    for where in dict.fromkeys(dataset.gpu for dataset in stored_datasets()):
        for name in names:
            logs = _log_ratios(family, name, where)
            if logs is None:
                continue
            best = minimize_scalar(
                lambda x, logs=logs: float(np.abs(logs(np.exp(x))).mean()),
                bounds=(0.0, np.log(_SLOWEST)),
                method="bounded",
            )
            slower = float(np.exp(best.x))
            found[f"{where}/{name}"] = round(slower, 4)
            missed.append(np.abs(logs(slower)))
    if not found:
        return {}
    own = [value for key, value in found.items() if key.startswith(f"{gpu}/")]
    return {
        "slower_arithmetic": round(float(np.mean(own or list(found.values()))), 4),
        "half_width": round(float(np.quantile(np.concatenate(missed), LEVEL)), 4),
        "seen": found,
    }


def _log_ratios(family: Family, name: str, gpu: str) -> Any:
    """Slow-down of arithmetic -> ln(measured/predicted) of a relative's rows; None without tables of both."""
    other = next(one for one in FAMILIES if one.name == name)
    own, theirs = measured_best(family, gpu), measured_best(other, gpu)
    if own is None or theirs is None:
        return None
    numbers, tuned = GpuNumbers.of(load_hardware(gpu)), tuned_tiles(gpu)
    p = solve(family, family.select(own.table(family.table), numbers), numbers, tuned)
    # Widths as the engine pads them.
    padded = replace(other, operation=lambda table: fused_moe.padded(other.operation(table)))
    rows = _served(padded, other.select(theirs.table(other.table), numbers), numbers)
    price = padded.evaluator(rows, numbers, tuned)
    seconds = rows["seconds"].to_numpy()
    return lambda slower: np.log(seconds / price(fused_moe.slowed(p, slower)).seconds)


def _served(family: Family, rows: pd.DataFrame, numbers: GpuNumbers) -> pd.DataFrame:
    """Rows as a running model would take: cut no finer than it is served, with more weights than L2 keeps.

    A benchmark repeats one layer, whose experts stay in L2 where they fit there; a model's do not.
    """
    rows = rows[rows["moe_tp_size"] <= _SLICES].reset_index(drop=True)
    rows = rows[~implied_bound_broken(family, rows, numbers)].reset_index(drop=True)
    cold = np.asarray(family.operation(rows).weight_bytes) > numbers.l2_bytes
    return rows[cold].reset_index(drop=True)
