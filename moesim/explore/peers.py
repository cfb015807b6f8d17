"""What other simulators predicted of runs that moesim predicts too, as they published it, on the same rows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim import paths
from moesim.explore.validate import Comparison

FOLDER = paths.CALIBRATION / "peers"
METRICS = ("mean_itl_ms", "mean_ttft_ms", "p99_ttft_ms", "mean_e2el_ms")


@dataclass(frozen=True)
class Beside:
    """A simulator and moesim on one metric of the same rows: mean absolute errors."""

    simulator: str
    metric: str
    rows: int
    theirs: float
    ours: float


def peer_predictions() -> dict[str, dict[tuple[str, str], float]]:
    """Simulator -> (row, metric) -> what it predicted."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for path in sorted(FOLDER.glob("*.csv")):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        for row in csv.DictReader(lines):
            found.setdefault(row["simulator"], {})[row["id"], row["metric"]] = float(row["predicted"])
    return found


def beside_peers(found: Sequence[Comparison], roles: dict[str, str]) -> list[Beside]:
    """Every peer beside moesim on rows that both predict and that moesim was not fitted on."""
    lines = []
    for simulator, predicted in peer_predictions().items():
        for metric in METRICS:
            rows = [
                (c, predicted[c.run.id, metric])
                for c in found
                if c.metric == metric and roles[c.runs] != "fit" and (c.run.id, metric) in predicted
            ]
            if rows:
                theirs = np.mean([abs(value / c.measured - 1.0) for c, value in rows])
                ours = np.mean([abs(c.error) for c, _ in rows])
                lines.append(Beside(simulator, metric, len(rows), float(theirs), float(ours)))
    return lines
