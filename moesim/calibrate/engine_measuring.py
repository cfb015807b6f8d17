"""`moesim bench-engine`: start an engine, measure what is asked of it, write the run sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from moesim.calibrate import measuring, worker
from moesim.calibrate.dataset import POINTS
from moesim.calibrate.engine_ask import EngineAsk
from moesim.calibrate.engine_runs import edge_of, next_share, write_runs
from moesim.calibrate.tidy import check_same_place
from moesim.hardware.catalogue import load_hardware


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
    seconds = 60 * ask.minutes
    progress = worker.run_engine(settings, points, log, where.device, seconds, where.busy, told)
    for _ in range(ask.edge):
        share = next_share(edge_of(log, settings))
        said(f"trying {share:.3f} of the memory")
        tried = replace(settings, gpu_memory_utilization=share)
        worker.run_engine(tried, [], log, where.device, seconds, where.busy)
    return progress, write_runs(log, hardware, where.folder)
