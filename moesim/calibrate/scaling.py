"""Collectives fitted on few ranks or nodes and asked for more, and how well their two ends are met."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.calibrate.collective_rows import across_all_nodes
from moesim.calibrate.dataset import read_table
from moesim.calibrate.families import FAMILIES
from moesim.calibrate.family import Family
from moesim.calibrate.fitting import solve
from moesim.cost.fit_file import load_fits
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import tuned_tiles
from moesim.hardware.catalogue import load_hardware

_FLOOR_BYTES = 4096
NODES_STACK = "sglang-0.5.6.post2"


@dataclass(frozen=True)
class Ends:
    """Predicted over measured minus 1: the floor (median up to 4 KiB) and the largest message, worst over ranks."""

    floor: float
    asymptote: float


def _families(prefix: str) -> list[Family]:
    return [family for family in FAMILIES if family.name.startswith(prefix)]


def ends(gpu: str, stack: str) -> dict[str, Ends]:
    """How the stored NCCL fits meet short and long messages."""
    fits, numbers = load_fits(f"{gpu}/{stack}"), GpuNumbers.of(load_hardware(gpu))
    found = {}
    for family in _families("nccl/"):
        rows = family.select(read_table(gpu, stack, family.table), numbers)
        predicted = family.form.seconds(fits.family(family.name).parameters, family.operation(rows), numbers).seconds
        ratio = rows.assign(ratio=predicted / rows["seconds"] - 1)
        short = ratio[ratio["message_bytes"] <= _FLOOR_BYTES].groupby("num_gpus")["ratio"].median()
        long = ratio[ratio["message_bytes"] == ratio["message_bytes"].max()].groupby("num_gpus")["ratio"].median()
        found[family.name] = Ends(float(short.abs().max()), float(long.abs().max()))
    return found


def eight_from_four(gpu: str, stack: str) -> dict[str, float]:
    """Mean error on 8 GPUs of constants fitted on 2 and 4."""
    found = {}
    for family in _families("nccl/"):
        found[family.name] = _extrapolated(family, gpu, stack, "num_gpus", 4)[8]
    return found


def more_nodes(gpu: str) -> dict[str, dict[int, float]]:
    """Mean error of DeepEP on 4 and 8 nodes, of constants fitted on 1 and 2."""
    return {f.name: _extrapolated(f, gpu, NODES_STACK, "nodes", 2) for f in _between_nodes()}


def more_nodes_by_row(gpu: str) -> float:
    """The same, every row counting once."""
    counts = []
    for family in _between_nodes():
        rows = family.select(read_table(gpu, NODES_STACK, family.table), GpuNumbers.of(load_hardware(gpu)))
        counts.append(rows["nodes"].value_counts())
    errors = more_nodes(gpu).values()
    weighted = [(e, many[nodes]) for by, many in zip(errors, counts, strict=True) for nodes, e in by.items()]
    return float(np.average([e for e, _ in weighted], weights=[n for _, n in weighted]))


def _between_nodes() -> list[Family]:
    return [across_all_nodes(f) for f in FAMILIES if "_nodes/" in f.name]


def _extrapolated(family: Family, gpu: str, stack: str, column: str, fitted_up_to: int) -> dict[int, float]:
    """Mean error at each value of ``column`` above ``fitted_up_to``."""
    numbers, tuned = GpuNumbers.of(load_hardware(gpu)), tuned_tiles(gpu)
    rows = family.select(read_table(gpu, stack, family.table), numbers).reset_index(drop=True)
    p = solve(family, rows[rows[column] <= fitted_up_to], numbers, tuned)
    beyond = rows[rows[column] > fitted_up_to]
    predicted = family.form.seconds(p, family.operation(beyond), numbers).seconds
    error = np.abs(predicted / beyond["seconds"] - 1).groupby(beyond[column]).mean()
    return {int(value): float(mean) for value, mean in error.items()}
