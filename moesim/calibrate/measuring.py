"""`moesim calibrate`: find the machine, choose points, measure, tidy, fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesim.bench.point import Point
from moesim.calibrate import worker
from moesim.calibrate.candidates import gpu_points, host_points
from moesim.calibrate.dataset import POINTS, Dataset
from moesim.calibrate.fitting import FamilyFit
from moesim.calibrate.grid_file import Grid, load_grid
from moesim.calibrate.machine_file import (
    host_name,
    known_hardware,
    peak_points,
    shipped_or,
    slug,
    write_gpu_file,
    write_host_file,
)
from moesim.calibrate.ordering import ordered
from moesim.calibrate.store import as_data, fit_all, write_fit
from moesim.calibrate.tidy import check_same_place, log_rows, refuse_foreign_folder, write_dataset
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import tuned_tiles
from moesim.errors import CalibrationError
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.hardware import Hardware
from moesim.models.catalogue import load_model

FIT = "fit.json"
_FP8_SINCE = (8, 9)
_LEAST_S = 5.0


@dataclass(frozen=True)
class Asked:
    """What the user wants measured."""

    device: str
    minutes: float
    folder: Path | None = None
    models: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    most_points: int | None = None
    hardware: str | None = None
    busy: bool = False


@dataclass(frozen=True)
class Machine:
    """The machine that is measured."""

    environment: dict[str, Any]
    name: str
    stack: str
    folder: Path
    hardware: Hardware | None
    """None until an unknown GPU's peaks are measured, and of a processor."""

    @property
    def log(self) -> Path:
        return self.folder / POINTS

    @property
    def device(self) -> str:
        return self.environment["device"]

    @property
    def fp8(self) -> bool:
        capability = tuple(int(x) for x in self.environment.get("compute_capability", "0.0").split("."))
        return capability >= _FP8_SINCE


def find_machine(asked: Asked) -> Machine:
    """Look at the machine, choose the folder. Raises CalibrationError where nothing can be measured."""
    here = worker.environment_of(asked.device, asked.busy)
    machine = _machine(here, asked, asked.folder)
    if machine.log.exists():
        check_same_place(machine.log, here)
    return machine


def machine_of_log(asked: Asked) -> Machine:
    """The machine that a log in ``asked.folder`` was measured on, wherever that is. Raises CalibrationError."""
    log = (asked.folder or Path(".")) / POINTS
    if not log.exists():
        raise CalibrationError(f"'{log}' does not exist, so there is nothing to fit; name its folder with -o")
    sessions, rows = log_rows(log)
    if not sessions:
        raise CalibrationError(f"'{log}' does not say where it was measured, so nothing can be fitted")
    check_same_place(log, sessions[-1])
    machine = _machine(sessions[-1], asked, log.parent)
    return _with_hardware(machine, rows) if machine.device == "cuda" else machine


def _with_hardware(machine: Machine, rows: list[dict[str, Any]]) -> Machine:
    """With a hardware file made of the log's peaks where none describes the GPU. Raises CalibrationError."""
    if machine.hardware is not None:
        return machine
    path = write_gpu_file(machine.folder, machine.environment, rows)
    return replace(machine, hardware=load_hardware(str(path)))


def _machine(here: dict[str, Any], asked: Asked, folder: Path | None) -> Machine:
    versions, device = here["versions"], here["device"]
    engine = "vllm" if "vllm" in versions and device == "cuda" else "torch"
    stack = f"{engine}-{versions[engine]}".partition("+")[0]
    hardware = None
    if device == "cuda":
        written = (folder or Path(f"calibration-{slug(here['gpu'])}-{stack}")) / f"{slug(here['gpu'])}.yaml"
        named = asked.hardware or (str(written) if written.is_file() else "")
        hardware = load_hardware(named) if named else known_hardware(here["gpu"])
    name = host_name(here) if device == "cpu" else hardware.name if hardware else slug(here["gpu"])
    return Machine(here, name, stack, folder or Path(f"calibration-{name}-{stack}"), hardware)


def hardware_name(environment: dict[str, Any], folder: Path) -> str:
    """What a scenario calls this machine's GPU. Raises CalibrationError for a processor, which has no name there."""
    if environment["device"] == "cpu":
        raise CalibrationError("moesim predicts no engine on a processor; say with --hardware what to compare it with")
    known, written = known_hardware(environment["gpu"]), folder / f"{slug(environment['gpu'])}.yaml"
    if known is None and not written.is_file():
        raise CalibrationError(
            f"no hardware file describes '{environment['gpu']}'; run moesim calibrate first, which writes one, and "
            "name it with --hardware"
        )
    return known.name if known else str(written)


def choose_points(asked: Asked, machine: Machine, grid: Grid) -> list[Point]:
    """Every point worth measuring here, in order."""
    models = [load_model(name) for name in asked.models or grid.models]
    found = host_points(models, grid, int(machine.environment["cores"]))
    if machine.device == "cuda":
        found = [*gpu_points(models, grid, machine.fp8, int(machine.environment["gpus"])), *found]
    if asked.tables:
        known = sorted({point.table for point in found})
        unknown = [table for table in asked.tables if table not in known]
        if unknown:
            raise CalibrationError(f"nothing here measures '{unknown[0]}'; tables are {', '.join(known)}")
        found = [point for point in found if point.table in asked.tables]
    return ordered(found, grid.shares, numbers_of(machine), tuned_tiles(machine.name), machine.device)


def measure_machine(
    asked: Asked,
    machine: Machine,
    told: Callable[[worker.Progress], None] = lambda progress: None,
    said: Callable[[str], None] = lambda text: None,
) -> tuple[Machine, worker.Progress]:
    """Measure for ``asked.minutes``; the log in the machine's folder grows. Returns what is known afterwards."""
    grid, begun = load_grid(), time.monotonic()
    refuse_foreign_folder(machine.folder)
    if machine.device == "cuda" and machine.hardware is None:
        said(f"no hardware file describes '{machine.environment['gpu']}': its peaks come first")
        worker.measure(peak_points(machine.fp8), machine.log, "cuda", 60 * asked.minutes, asked.busy)
        machine = _with_hardware(machine, log_rows(machine.log)[1])
    points = choose_points(asked, machine, grid)
    machine.folder.mkdir(parents=True, exist_ok=True)
    done = {row["key"] for row in log_rows(machine.log)[1]} if machine.log.exists() else set()
    todo = [point for point in points if point.key not in done]
    said(f"{len(points) - len(todo):,} points are there, {len(todo):,} to choose from, the most telling first")
    points = todo[: asked.most_points]
    left = max(60 * asked.minutes - (time.monotonic() - begun), _LEAST_S)
    return machine, worker.measure(points, machine.log, machine.device, left, asked.busy, told)


def numbers_of(machine: Machine) -> GpuNumbers:
    """What formulas know of the GPU; of a processor nothing, for its forms need nothing."""
    return GpuNumbers.of(machine.hardware) if machine.hardware else unbounded()


def unbounded() -> GpuNumbers:
    """No rates: forms of the host carry their own."""
    return GpuNumbers(
        bf16_flop_per_s=1e18, fp32_flop_per_s=1e18, fp8_flop_per_s=1e18, int8_flop_per_s=1e18, fp4_flop_per_s=1e18,
        hbm_bytes_per_s=1e15,
        sm_count=1, l2_bytes=0.0, link_bytes_per_s=1e15, nic_bytes_per_s=1e15, nic_latency_s=0.0,
        compute_capability="0.0",
    )  # fmt: skip


def fit_machine(
    machine: Machine, told: Callable[[str], None] = lambda text: None
) -> tuple[Dataset, Sequence[FamilyFit], list[Path]]:
    """Tidy the log, fit what it holds, write the files. Returns the dataset, the fits, and every file written.

    Raises
    ------
    CalibrationError
        There is too little to fit anything.
    """
    dataset = write_dataset(machine.folder, machine.log, machine.name, machine.stack)
    written = [dataset.path(table) for table in dataset.tables]
    if host := write_host_file(machine.folder, machine.environment, dataset):
        written.append(host)
    fits = fit_all(dataset, numbers_of(machine), told)
    about = "Written by `moesim calibrate`; do not edit."
    written.append(write_fit(machine.folder / FIT, as_data(dataset, fits) | {"about": about}))
    return dataset, fits, written


def fit_dataset(
    dataset: Dataset, hardware: Hardware, told: Callable[[str], None] = lambda text: None
) -> tuple[Sequence[FamilyFit], Path]:
    """Fit tables that others measured; the fit file goes beside them. Raises CalibrationError."""
    fits = fit_all(dataset, GpuNumbers.of(hardware), told)
    return fits, write_fit(dataset.folder / FIT, as_data(dataset, fits))


def how_to_use(machine: Machine, written: Sequence[Path]) -> list[str]:
    """What to type next."""
    if machine.device == "cpu":
        hosts = [path for path in written if path.suffix == ".yaml"]
        return [f"moesim predict <a scenario with offload> --host {path}" for path in hosts]
    hardware = shipped_or(machine.folder, machine.name)
    return [f"moesim predict <scenario> --hardware {hardware} --calibration {machine.folder / FIT}"]
