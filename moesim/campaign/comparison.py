"""What a campaign measured beside what was predicted of it: every point, its error, whether the interval held."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from moesim.bench.log import MEMORY as OUT_OF_MEMORY
from moesim.bench.point import Point
from moesim.calibrate.dataset import POINTS
from moesim.calibrate.machine_file import known_hardware
from moesim.calibrate.tidy import log_rows
from moesim.campaign.predicted import EDGE, MEMORY, SECONDS, SERVED, Predicted, Value, asked
from moesim.campaign.registration import FOLDER, Registration, registrations, utc
from moesim.campaign.sheet import KERNELS, OWN, RUNS, SHEET, logs_of, predicted_by
from moesim.errors import CalibrationError
from moesim.hardware.catalogue import load_hardware

_SHARE = "gpu_memory_utilization"


@dataclass(frozen=True)
class Compared:
    """One metric of one point."""

    point: Point
    metric: str
    predicted: Value
    measured: float
    source: str

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted.value / self.measured - 1.0

    @property
    def ranged(self) -> bool:
        """Whether there is an interval; counts have none."""
        return self.predicted.low < self.predicted.high

    @property
    def held(self) -> bool:
        return self.predicted.low <= self.measured <= self.predicted.high


@dataclass(frozen=True)
class Start:
    """Whether an engine started with a share of memory, and from which it was predicted to."""

    point: Point
    started: bool
    share: float
    predicted: Value

    @property
    def held(self) -> bool:
        """Whether what happened lies within the interval."""
        return self.predicted.low <= self.share if self.started else self.share <= self.predicted.high


@dataclass
class Campaigned:
    """A campaign that came back, compared."""

    name: str
    registration: Registration
    sessions: list[dict[str, Any]]
    begun: str
    """UTC."""
    ended: str
    rows: list[Compared] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(table, why there is no figure) -> rows."""
    unregistered: Counter[str] = field(default_factory=Counter)
    """Table -> measured rows of which nothing was said beforehand."""
    silent: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(table, why) -> measured rows of which it was said that nothing can be."""

    @property
    def registered_before(self) -> bool:
        """Whether the predictions were written before the first row was measured."""
        return self.registration.sheet.registered_at < self.begun

    @property
    def measured(self) -> set[str]:
        """Keys of the points with a figure."""
        return {row.point.key for row in self.rows} | {start.point.key for start in self.starts}


def compare(folder: Path, shipped: Path = FOLDER, hardware: str | None = None) -> Campaigned:
    """A campaign's rows beside the predictions that were registered for its GPU.

    Parameters
    ----------
    folder : Path
        With ``kernels/points.jsonl``, ``runs/points.jsonl``, or both.
    shipped : Path
        Where registrations are looked for, beside the campaign's own.
    hardware : str, optional
        What a registration calls the GPU; found by the name that the rows have of it where none is given.

    Raises
    ------
    CalibrationError
        There is no row, or nothing was registered for such a GPU.
    SpecError
        A registration that was changed since.
    """
    found = {part: log_rows(log) for part, log in logs_of(folder).items()}
    rows = [row for _, mine in found.values() for row in mine]
    sessions = [session for sessions, _ in found.values() for session in sessions]
    if not rows or not sessions:
        raise CalibrationError(f"'{folder}' holds no measured row, in neither {KERNELS}/{POINTS} nor {RUNS}/{POINTS}")
    begun, ended = (utc(pick(row["at"] for row in rows)) for pick in (min, max))
    own = registrations(folder / OWN)
    gpu = load_hardware(hardware).name if hardware else _gpu(sessions, own)
    registration = _registration([*registrations(shipped), *own], gpu, begun, predicted_by(folder))
    result = Campaigned(folder.resolve().name, registration, sessions, begun, ended)
    for part, (_, mine) in found.items():
        if part == KERNELS:
            _kernels(result, mine)
        else:
            _engines(result, mine)
    return result


def _gpu(sessions: Sequence[Mapping[str, Any]], own: Sequence[Registration]) -> str:
    """What registrations call the GPU: by its name, or as the campaign's own does."""
    names = {session.get("gpu", "") for session in sessions}
    if len(names) > 1:
        raise CalibrationError(f"rows of several GPUs lie together: {', '.join(sorted(names))}")
    if own:
        return own[-1].sheet.hardware
    (name,) = names
    known = known_hardware(name) if name else None
    if known is None:
        raise CalibrationError(f"no hardware file describes '{name or 'a processor'}'; name one with --hardware")
    return known.name


def _registration(known: Sequence[Registration], gpu: str, begun: str, named: str | None) -> Registration:
    """The one that the data sheet names; without one the last that was written before measuring began, or the first."""
    mine = [one for one in known if one.sheet.hardware == gpu and named in {None, one.name}]
    if not mine and named:
        raise CalibrationError(f"the predictions {named}, which {SHEET} names, are not here or not of {gpu}")
    if not mine:
        raise CalibrationError(
            f"nothing was registered for {gpu}; moesim campaign preregister does that, before measuring"
        )
    mine.sort(key=lambda one: one.sheet.registered_at)
    before = [one for one in mine if one.sheet.registered_at < begun]
    return before[-1] if before else mine[0]


def _kernels(result: Campaigned, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        point = Point.of(row["point"])
        if "seconds" not in row:
            result.failed[point.table, _why(row)] += 1
        elif row["unstable"]:
            result.failed[point.table, f"unstable: {', '.join(map(str, row['unstable']))}"] += 1
        else:
            _add(result, point, {SECONDS: [float(row["seconds"])]})


def _why(row: Mapping[str, Any]) -> str:
    """Why a row has no figure, in a line."""
    return next(iter(str(row.get("failed", "")).splitlines()), "")[:100] or "it does not say why"


def _engines(result: Campaigned, rows: Sequence[Mapping[str, Any]]) -> None:
    """Medians over repetitions, in the units of the predictions."""
    groups: dict[str, tuple[Point, dict[str, list[float]]]] = {}
    started = {row.get("key") for row in rows if "memory" in row}
    for row in rows:
        point = asked(Point.of(row["point"]))
        start = point.table == "engine_memory"
        if start and ("memory" in row or row.get("cause") == OUT_OF_MEMORY):
            _start(result, point, row)
        elif "failed" in row:
            # Another process may have started what one died of.
            if row.get("key") not in started:
                result.failed[point.table, _why(row)] += 1
        elif not start:
            _, values = groups.setdefault(point.key, (point, {}))
            for metric, value in _figures(row):
                values.setdefault(metric, []).append(value)
    for point, values in groups.values():
        _add(result, point, values)


def _figures(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for metric in SERVED:
        seconds = row.get(f"{metric.removesuffix('_ms')}_s") if metric.endswith("_ms") else None
        value = 1e3 * seconds if isinstance(seconds, (int, float)) else row.get(metric)
        if _is_figure(value):
            yield metric, float(value)


def _is_figure(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and 0 < value < math.inf


def _start(result: Campaigned, point: Point, row: Mapping[str, Any]) -> None:
    """A start tells of memory, and whether it was possible at all."""
    said, share = result.registration.predicted.get(point.key), point.columns.get(_SHARE)
    whole = said or _with_any_share(result.registration, point)
    if whole is None or not isinstance(share, (int, float)):
        result.unregistered[point.table] += 1
        return
    if not whole.values:
        result.silent[point.table, whole.source] += 1
        return
    memory = row.get("memory")
    result.starts.append(Start(point, memory is not None, float(share), whole.values[EDGE]))
    if said and isinstance(memory, dict):
        sizes = ((name, memory.get(name)) for name in MEMORY)
        _add(result, point, {name: [float(size)] for name, size in sizes if _is_figure(size)})


def _with_any_share(registration: Registration, point: Point) -> Predicted | None:
    """The same engine under another share of memory: where it starts was predicted for all of them."""
    columns = {**point.columns, _SHARE: None}
    for said in registration.predicted.values():
        if said.point.table == point.table and {**said.point.columns, _SHARE: None} == columns:
            return said
    return None


def _add(result: Campaigned, point: Point, figures: Mapping[str, Sequence[float]]) -> None:
    said = result.registration.predicted.get(point.key)
    if said is None:
        result.unregistered[point.table] += 1
        return
    if not said.values:
        result.silent[point.table, said.source] += 1
        return
    for metric, values in figures.items():
        # Nothing is no figure to hold anything against.
        if metric in said.values and said.values[metric].value > 0:
            measured = statistics.median(values)
            result.rows.append(Compared(point, metric, said.values[metric], measured, said.source))


@dataclass(frozen=True)
class Quality:
    """How close predictions of some rows are."""

    rows: int
    median: float
    """Of the absolute errors."""
    mean: float
    p90: float
    bias: float
    """Median of the signed errors."""
    held: float | None
    """Share of the intervals that hold; None where none has one."""
    width: float | None
    """Median half-width of the intervals, in the logarithm."""

    @classmethod
    def of(cls, rows: Sequence[Compared]) -> Quality:
        errors = sorted(abs(row.error) for row in rows)
        ranged = [row for row in rows if row.ranged]
        widths = [math.log(row.predicted.high / max(row.predicted.low, 1e-12)) / 2 for row in ranged]
        return cls(
            len(rows), statistics.median(errors), statistics.fmean(errors),
            errors[min(len(errors) - 1, math.ceil(0.9 * len(errors)) - 1)],
            statistics.median(row.error for row in rows),
            sum(row.held for row in ranged) / len(ranged) if ranged else None,
            statistics.median(widths) if widths else None,
        )  # fmt: skip
