"""Predictions written down before anybody measures: a folder of tables and a sheet, never written over."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from moesim import __version__, paths
from moesim.bench.point import Point
from moesim.bench.point import Value as Cell
from moesim.campaign.predicted import Predicted, Value
from moesim.errors import Problem, SpecError
from moesim.files import yaml
from moesim.files.quantities import FileName, Strict
from moesim.files.reading import text_of
from moesim.files.validation import read_as
from moesim.files.writing import half_of, write_whole

FOLDER = paths.CALIBRATION / "preregistered"
SHEET = "registered.yaml"
_SOURCE = "source"
_LOW = "_low"
_ENDS = ("", _LOW, "_high")
"""Of a metric's columns: its value, and both ends of its interval."""
_NOTHING = (None, None, None)
_DECIDING = ("moesim", "calibration", "hwspecs", "scenarios", ":(exclude)calibration/preregistered")
"""What decides a prediction, as git is asked for it."""


def utc(at: float) -> str:
    """A time, to the millisecond: sorts as the times do."""
    return datetime.fromtimestamp(at, UTC).isoformat(" ", "milliseconds").removesuffix("+00:00")


class Registered(Strict):
    """A table of a registration."""

    points: Annotated[int, Field(ge=1)]
    predicted: Annotated[int, Field(ge=0)]
    sha256: str


class Sheet(Strict):
    """When and by what predictions were made, and of what."""

    title: str
    registered_at: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}$")]
    """UTC."""
    moesim: str
    """Its version."""
    commit: str | None
    """Of the checkout that predicted; null outside one."""
    changed: bool = False
    """Whether files of that checkout differed from the commit."""
    hardware: FileName
    engine: Annotated[str, Field(pattern=r"^\S+ \S+$")]
    campaign_sha256: str
    """Of what is measured (``Campaign.digest``)."""
    tables: dict[str, Registered]
    sources: list[str]
    """What the tables' last column counts: whose constants, or why nothing is predicted."""


@dataclass(frozen=True)
class Registration:
    """Predictions as they were written down."""

    folder: Path
    sheet: Sheet

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def predicted(self) -> dict[str, Predicted]:
        """Key of a point -> what was said of it. Raises SpecError for a table that was changed since."""
        return {p.point.key: p for table in self.sheet.tables for p in self._of(table)}

    def _of(self, table: str) -> list[Predicted]:
        path = self.folder / f"{table}.csv"
        text = text_of(path, "a table of predictions")
        if hashlib.sha256(text.encode()).hexdigest() != self.sheet.tables[table].sha256:
            raise SpecError([Problem(f"is not what was registered: {SHEET} names another SHA-256", str(path))])
        rows, found = csv.DictReader(io.StringIO(text)), list[Predicted]()
        try:
            for row in rows:
                found.append(_read(table, row, self.sheet.sources))
        except (ValueError, KeyError, IndexError, TypeError, csv.Error):
            raise SpecError([Problem("holds no prediction", f"{path}:{rows.line_num}")]) from None
        return found


def register(
    predictions: Iterable[Predicted], target: Path, hardware: str, engine: str, campaign_sha256: str
) -> Registration:
    """Write predictions into a new folder, whole or not at all.

    Raises
    ------
    SpecError
        There is such a folder: what is registered is never written over.
    """
    refuse_registered(target)
    commit, changed = checkout()
    tables: dict[str, list[Predicted]] = {}
    for found in predictions:
        tables.setdefault(found.point.table, []).append(found)
    sources = list(dict.fromkeys(p.source for rows in tables.values() for p in rows))
    target.parent.mkdir(parents=True, exist_ok=True)
    half = half_of(target)
    half.mkdir()
    try:
        about: dict[str, Any] = {}
        for table, rows in tables.items():
            text = _table(rows, sources)
            write_whole(half / f"{table}.csv", text)
            known = sum(bool(p.values) for p in rows)
            content = hashlib.sha256(text.encode()).hexdigest()
            about[table] = {"points": len(rows), "predicted": known, "sha256": content}
        since = checkout()
        sheet = Sheet(
            title=f"what moesim {__version__} predicts of its campaign on {hardware} under {engine}",
            registered_at=utc(time.time()), moesim=__version__, commit=commit,
            changed=changed or since != (commit, changed), hardware=hardware, engine=engine,
            campaign_sha256=campaign_sha256, tables=about, sources=sources,
        )  # fmt: skip
        head = "# Written by `moesim campaign preregister` before anything was measured; never changed.\n"
        write_whole(half / SHEET, head + yaml.text(sheet.model_dump()))
        _keep_keys(Registration(half, sheet), tables)
        half.rename(target)
    except OSError as error:
        if target.exists():
            # Another process was faster.
            refuse_registered(target)
        raise OSError(error.errno, error.strerror, str(target)) from None
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return Registration(target, sheet)


def refuse_registered(target: Path) -> None:
    """Raise SpecError where something is registered already, or lies in the way."""
    if not target.exists():
        return
    told = f" at {load(target).sheet.registered_at} UTC" if (target / SHEET).is_file() else ""
    message = f"was written{told}; predictions that are registered are never written over, so choose another folder"
    raise SpecError([Problem(message, str(target))])


def load(folder: Path) -> Registration:
    """A registration by its folder. Raises SpecError."""
    return Registration(folder, read_as(Sheet, folder / SHEET)[0])


def registrations(*folders: Path) -> list[Registration]:
    """Every registration below the folders, the oldest first. Raises SpecError."""
    sheets = [sheet for folder in folders for sheet in folder.glob(f"*/{SHEET}")]
    found = [load(sheet.parent) for sheet in sheets if not sheet.parent.name.startswith(".")]
    return sorted(found, key=lambda one: (one.sheet.registered_at, one.name))


def checkout() -> tuple[str | None, bool]:
    """(commit, whether anything that decides a prediction was changed since) of the checkout this runs from.

    A checkout of which git does not tell counts as changed; outside one there is no commit and no change.
    """
    if not (paths.ROOT / ".git").exists():
        return None, False

    def git(*words: str) -> str:
        command = ["git", "-C", str(paths.ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=all", "--", *_DECIDING)
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.SubprocessError):
        return None, True


def _keep_keys(written: Registration, tables: Mapping[str, Sequence[Predicted]]) -> None:
    """What was written is found again by the points that were asked."""
    asked = {p.point.key for rows in tables.values() for p in rows}
    lost = asked ^ written.predicted.keys()
    if lost:
        raise SpecError([Problem("is not read as it is written, and nothing was registered", sorted(lost)[0])])


def _table(rows: Sequence[Predicted], sources: Sequence[str]) -> str:
    """CSV: a point's columns, each metric with its interval, and whose constants they come from."""
    columns = list(dict.fromkeys(name for row in rows for name in row.point.columns))
    metrics = list(dict.fromkeys(name for row in rows for name in row.values))
    place = {text: i for i, text in enumerate(sources)}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{metric}{end}" for metric in metrics for end in _ENDS]
    writer.writerow([*columns, *ends, _SOURCE])
    for row in rows:
        cells = [row.point.columns.get(name, "") for name in columns]
        values = [f"{x:.5g}" if x is not None else "" for metric in metrics for x in row.values.get(metric, _NOTHING)]
        writer.writerow([*cells, *values, place[row.source]])
    return out.getvalue()


def _read(table: str, row: dict[str, str], sources: Sequence[str]) -> Predicted:
    if None in row or None in row.values():
        raise ValueError("more or fewer cells than columns")
    metrics = [name.removesuffix(_LOW) for name in row if name.endswith(_LOW)]
    own = {f"{metric}{end}" for metric in metrics for end in _ENDS} | {_SOURCE}
    columns = {name: _cell(text) for name, text in row.items() if name not in own and text}
    values = {m: Value(*(float(row[f"{m}{end}"]) for end in _ENDS)) for m in metrics if row[m]}
    return Predicted(Point(table, columns), values, sources[int(row[_SOURCE])])


def _cell(text: str) -> Cell:
    """A column's value as it was: whole numbers, other numbers, words."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
