"""How few points a fit needs: chosen ones against random ones, on public tables, whole groups left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.calibrate.dataset import Dataset
from moesim.calibrate.design import telling_order
from moesim.calibrate.families import FAMILIES, implied_bound_broken
from moesim.calibrate.family import Family
from moesim.calibrate.fitting import folds_of, solve
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import TunedTiles, tuned_tiles

if TYPE_CHECKING:
    import pandas as pd

SIZES = (30, 100, 300)
SEEDS = 3
_CANDIDATES = 3000
"""A larger table offers this many of its rows to choose from, drawn at random: choosing among tens of thousands would
take minutes and choose no better."""

Pick = Callable[["pd.DataFrame"], Any]


@dataclass(frozen=True)
class Studied:
    """Held-out errors of one family, mean over groups: of all rows, and of few, chosen or random."""

    family: str
    rows: int
    groups: int
    everything: float
    chosen: dict[int, float]
    random: dict[int, list[float]]
    """One error a seed."""

    def ratio(self, many: int) -> float:
        """Error of ``many`` chosen points over the error of all rows."""
        return self.chosen[many] / self.everything

    def random_ratio(self, many: int) -> float:
        return float(np.mean(self.random[many])) / self.everything


def study(
    dataset: Dataset, numbers: GpuNumbers, name: str, sizes: tuple[int, ...] = SIZES, seeds: int = SEEDS
) -> Studied:
    """Fit a family on all rows, on chosen and on random ones, each time without the group that is asked for."""
    family, tuned = next(f for f in FAMILIES if f.name == name), tuned_tiles(dataset.gpu)
    rows = family.select(dataset.table(family.table), numbers)
    rows = rows[~implied_bound_broken(family, rows, numbers)].reset_index(drop=True)

    def error(pick: Pick | None) -> float:
        return _held_out(family, rows, numbers, tuned, pick)

    orders: dict[int, Any] = {}

    def telling(many: int) -> Pick:
        def pick(train: pd.DataFrame) -> Any:
            key = hash(tuple(family.group(train).unique()))
            if key not in orders:
                offered = train.sample(min(len(train), _CANDIDATES), random_state=0)
                order = telling_order(family, offered.reset_index(drop=True), numbers, tuned, max(sizes))
                orders[key] = train.index.get_indexer(offered.index[order])
            return orders[key][:many]

        return pick

    def drawn(many: int, seed: int) -> Pick:
        return lambda train: np.random.default_rng(seed).permutation(len(train))[:many]

    return Studied(
        name,
        len(rows),
        family.group(rows).nunique(),
        error(None),
        {many: error(telling(many)) for many in sizes},
        {many: [error(drawn(many, seed)) for seed in range(seeds)] for many in sizes},
    )


def _held_out(family: Family, rows: pd.DataFrame, numbers: GpuNumbers, tuned: TunedTiles, pick: Pick | None) -> float:
    folds, errors = folds_of(family, rows), np.empty(len(rows))
    for fold in range(folds.max() + 1):
        out = folds == fold
        train = rows[~out].reset_index(drop=True)
        few = train if pick is None else train.iloc[pick(train)].reset_index(drop=True)
        p = solve(family, few, numbers, tuned)
        predicted = family.evaluator(rows[out], numbers, tuned)(p).seconds
        errors[out] = np.abs(predicted / rows["seconds"].to_numpy()[out] - 1)
    return float(rows.assign(error=errors).groupby(family.group(rows))["error"].mean().mean())
