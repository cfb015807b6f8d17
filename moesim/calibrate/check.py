"""Whether a stored calibration still holds on this box: a few of its points measured again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.bench import kernels
from moesim.bench.point import Point
from moesim.calibrate import worker
from moesim.calibrate.candidates import HOST_TABLES
from moesim.calibrate.dataset import Dataset
from moesim.calibrate.grid_file import load_grid
from moesim.calibrate.lint import lint
from moesim.calibrate.machine_file import known_hardware
from moesim.calibrate.tidy import log_rows
from moesim.errors import CalibrationError, SpecError

if TYPE_CHECKING:
    import pandas as pd

_OURS = "linear|CutlassFP8Scaled|CutlassFp8Block|triton_tritonexperts|flash_attn_fa3|static_scaled_fp8|^NCCL"
"""Kernels of public tables that `moesim.bench` runs too."""
_MEASURED = {"kernel_source", "copies", "seconds", "seconds_q1", "seconds_q3", "samples", "sms", "notify_seconds"}
_LONGEST_S = 0.2
_MOST_TIME_S = 600.0
_HOLDING = 0.8


@dataclass(frozen=True)
class Again:
    """A stored point and what it takes now. [s]"""

    point: Point
    stored_s: float
    now_s: float

    @property
    def change(self) -> float:
        return self.now_s / self.stored_s - 1.0


@dataclass(frozen=True)
class Verdict:
    """Points measured again, and whether the calibration holds within ``within``."""

    points: Sequence[Again]
    missing: Sequence[str]
    """Why others could not be measured."""
    within: float

    @property
    def median(self) -> float:
        return float(np.median([p.change for p in self.points]))

    @property
    def holds(self) -> bool:
        near = np.mean([abs(p.change) <= self.within for p in self.points])
        return abs(self.median) <= self.within and float(near) >= _HOLDING


def check(dataset: Dataset, device: str, busy: bool, told: Callable[[Any], None] = lambda progress: None) -> Verdict:
    """Measure some of a dataset's points again.

    Raises
    ------
    SpecError
        The dataset is broken.
    CalibrationError
        None of its points can be measured here.
    """
    if problems := lint(dataset):
        raise SpecError(problems)
    rule = load_grid().check
    here = worker.environment_of(device, busy)
    part = "gpu" if device == "cuda" else "cpu"
    theirs, mine = dataset.sheet["environment"].get(part), here[part]
    known = known_hardware(mine) if device == "cuda" else None
    if theirs != mine and not (theirs is None and known and known.name == dataset.gpu):
        raise CalibrationError(f"the dataset was measured on '{theirs or dataset.gpu}', this is '{mine}'")
    chosen = _chosen(dataset, device, rule.points)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "check.jsonl"
        worker.measure([point for point, _ in chosen], log, device, _MOST_TIME_S, busy, told)
        rows = {row["key"]: row for row in log_rows(log)[1]}
    again, missing = [], []
    for point, stored_s in chosen:
        row = rows.get(point.key, {})
        if "seconds" in row:
            again.append(Again(point, stored_s, row["seconds"]))
        else:
            missing.append(f"{point.table}: {row.get('failed', 'not reached')}")
    if not again:
        raise CalibrationError(f"no point of the dataset can be measured here: {missing[0]}")
    return Verdict(again, missing, rule.within)


def _chosen(dataset: Dataset, device: str, many: int) -> list[tuple[Point, float]]:
    """Points of every table that can be measured here, spread over durations."""
    here = [name for name in dataset.tables if name in kernels.TABLES and (device == "cuda" or name in HOST_TABLES)]
    mine = {name: rows for name in here if len(rows := _same_kernels(dataset.table(name)))}
    if not mine:
        raise CalibrationError(
            f"the dataset holds no table that --device {device} measures; it holds {', '.join(dataset.tables)}"
        )
    found: list[tuple[Point, float]] = []
    # The smallest tables first: what they cannot give, the others do.
    for i, (name, table) in enumerate(sorted(mine.items(), key=lambda entry: len(entry[1]))):
        short = table[table["seconds"] <= _LONGEST_S].sort_values("seconds", kind="stable")
        share = min(-(-(many - len(found)) // (len(mine) - i)), len(short))
        places = np.unique(np.linspace(0, len(short) - 1, 2 * share + 1).round().astype(int)[1::2]) if share else []
        found += [_point(name, short.iloc[place]) for place in places]
    return found


def _same_kernels(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that `moesim.bench` would measure with the kernel they were measured with."""
    if "samples" in table or "kernel_source" not in table:
        return table
    kept = table["kernel_source"].str.contains(_OURS, regex=True)
    for column, ours in (("moe_dtype", {"bfloat16", "fp8_block"}), ("backend", set())):
        if column in table:
            kept &= table[column].isin(ours)
    return table[kept]


def _point(name: str, row: pd.Series) -> tuple[Point, float]:
    said = row.drop(list(_MEASURED), errors="ignore").dropna()
    columns = {str(k): v.item() if hasattr(v, "item") else v for k, v in said.items()}
    return Point(name, columns), float(row["seconds"])
