"""`moesim bench-engine`: start an engine, measure what is asked of it, write the run sets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from moesim.bench.engine.settings import EngineSettings
from moesim.calibrate import measuring, worker
from moesim.calibrate.dataset import POINTS
from moesim.calibrate.engine_ask import EngineAsk
from moesim.calibrate.engine_runs import edge_of, next_share, write_runs
from moesim.calibrate.tidy import check_same_place, log_rows
from moesim.errors import CalibrationError
from moesim.hardware.catalogue import load_hardware

_EDGE = 0.005
"""A share of memory known so closely is found."""
_START_S = 20.0
"""An engine is not started for less."""


@dataclass(frozen=True)
class Where:
    """The machine that engines are measured on, and the folder their rows go to."""

    folder: Path
    device: str = "cuda"
    hardware: str | None = None
    """The GPU's hardware file, where its name alone does not find it."""
    busy: bool = False


def measure_ask(
    ask: EngineAsk,
    where: Where,
    told: Callable[[worker.Progress], None] = lambda progress: None,
    said: Callable[[str], None] = lambda text: None,
) -> tuple[worker.Progress, list[Path]]:
    """Measure one engine; the log in the folder grows, and every run set of it is written anew.

    Raises
    ------
    SpecError, CalibrationError
        Nothing of it can be measured here.
    """
    if where.hardware:
        load_hardware(where.hardware)
    settings = ask.settings(where.folder)
    points = ask.points(settings)
    here = worker.environment_of(where.device, where.busy)
    hardware = where.hardware or measuring.hardware_name(here, where.folder)
    log = where.folder / POINTS
    if log.exists():
        check_same_place(log, here)
    log.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * ask.minutes
    progress = worker.run_engine(settings, points, log, where.device, 60 * ask.minutes, where.busy, told)
    _search_edge(ask.edge, settings, log, where, deadline, progress.warnings, said)
    measured = {row["key"] for row in log_rows(log)[1]} if log.exists() else set[str]()
    if missing := sum(point.key not in measured for point in points):
        progress.warnings.append(f"{missing} of {len(points)} points were not reached")
    try:
        return progress, write_runs(log, hardware, where.folder)
    except CalibrationError as error:
        raise CalibrationError("; ".join([*progress.warnings, str(error)])) from None


def _search_edge(
    starts: int,
    settings: EngineSettings,
    log: Path,
    where: Where,
    deadline: float,
    warnings: list[str],
    said: Callable[[str], None],
) -> None:
    """Start with less and less memory, and more again, until it is known to a share from which it starts."""
    for i in range(starts):
        edge = edge_of(log, settings)
        if edge.get("starts_at", 1.0) - edge.get("fails_at", 0.0) <= _EDGE:
            return
        left = deadline - time.monotonic()
        if left < _START_S:
            warnings.append(f"{starts - i} of {starts} starts were not reached")
            return
        share = next_share(edge)
        said(f"trying {share:.3f} of the memory")
        worker.run_engine(replace(settings, gpu_memory_utilization=share), [], log, where.device, left, where.busy)
