"""Predictions written down before anybody compares them: a set of measured runs that was never looked at yet.

A file holds what was predicted for each row, and no measured value; it is committed, then the set is compared. What the
first comparison said stays on the page of served runs, whatever is changed later.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from moesim import paths
from moesim.errors import DoesNotFit
from moesim.explore.validate import predicted_runs
from moesim.files.writing import whole
from moesim.inputs.offload_runs import runs
from moesim.inputs.run_file import RunSet, load_runs
from moesim.prediction import predict

FOLDER = paths.CALIBRATION / "first-looks"
_COLUMNS = ("runs", "line", "metric", "predicted", "low", "high")
_Line = tuple[str, int, str, Sequence[float]]
"""(set, line, metric, value with its interval)."""


def write_predictions(sets: Sequence[Path], target: Path, workers: int = 2) -> Path:
    """Predict every run of the sets and write what was predicted, beside nothing measured."""
    groups = [load_runs(path) for path in sets]
    return _written(target, (
        (group.name, run.line, metric, values[metric])
        for group, run, values in predicted_runs(groups, workers)
        for metric in run.measured
        if values
    ))  # fmt: skip


def write_offload_predictions(target: Path) -> Path:
    """The same of published runs of offloading systems; what does not fit has no line. [ms]"""
    return _written(target, _of_offloading())


def _of_offloading() -> Iterator[_Line]:
    for run in runs():
        try:
            metric = predict(run.scenario).metrics[run.metric]
        except DoesNotFit:
            continue
        assert metric is not None
        yield run.file, run.row, run.metric, (metric.value, metric.low, metric.high)


def _written(target: Path, lines: Iterable[_Line]) -> Path:
    with whole(target) as half, half.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((*which, *(f"{x:.6g}" for x in values)) for *which, values in lines)
    return target


@lru_cache(maxsize=1)
def first_looks() -> dict[tuple[str, int, str], float]:
    """(set, line, metric) -> what was predicted first."""
    found: dict[tuple[str, int, str], float] = {}
    for path in sorted(FOLDER.glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault((row["runs"], int(row["line"]), row["metric"]), float(row["predicted"]))
    return found


def first_error(group: RunSet, metric: str) -> float | None:
    """Mean absolute error of the first look at a set; None where its predictions were not written down."""
    looks = first_looks()
    errors = [
        abs(looks[key] / run.measured[metric] - 1.0)
        for run in group.runs
        if metric in run.measured and (key := (group.name, run.line, metric)) in looks
    ]
    return float(np.mean(errors)) if errors else None
