"""A log of measured points: a JSON line each, appended whole, so that a killed run leaves whole rows and can go on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard

from moesim.bench.point import Point
from moesim.locks import lock

_YEAR_9999 = 2.5e11
DIED, MEMORY, REFUSED = "died", "memory", "refused"
"""``cause`` of an engine that did not start: its process died, it found too little memory, it said why it cannot."""


class LogError(RuntimeError):
    """The log cannot be read, or a row cannot be written."""


class Log:
    """Appends rows; knows which points it holds already. A last line cut short by a kill is taken away on opening."""

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise LogError(f"'{path}' cannot be written: {error.strerror}") from None
        try:
            lock(self._file)
        except OSError:
            os.close(self._file)
            message = f"'{path}' is being written by another measurement; wait for it, or choose another folder"
            raise LogError(message) from None
        _cut_half_line(path)
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        """Key of a point that is done -> why it has no figure."""
        for row in rows(path):
            self._note(row)

    def session(self, environment: Mapping[str, Any]) -> None:
        """Note where and when what follows was measured."""
        self._append({"session": dict(environment)})

    def add(self, point: Point, measured: Mapping[str, Any]) -> None:
        """Append one point's row; a point that is there already is not written again."""
        if point.key not in self.done:
            row = {"key": point.key, "point": point.as_data(), **measured}
            self._append(row)
            self._note(row)

    def _note(self, row: Mapping[str, Any]) -> None:
        """A point is done by its row, but for an engine whose process died as it started: it may start another time."""
        if "key" not in row or row.get("cause") == DIED:
            return
        self.done.add(row["key"])
        if "failed" in row:
            self.failed[row["key"]] = row["failed"]

    def _append(self, row: dict[str, Any]) -> None:
        line = (json.dumps(row) + "\n").encode()
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self._file)
        except OSError as error:
            _cut_half_line(self.path)
            raise LogError(f"'{self.path}' could not be written: {error.strerror}; rows so far are kept") from None

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every row of a log. Raises LogError at a line that is no row."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not _is_row(row):
                raise LogError(
                    f"{path}:{number}: is no row of a log of measurements; delete the line to go on without it"
                )
            yield row


def _is_row(row: Any) -> TypeGuard[dict[str, Any]]:
    """A session that says where, or a point that was measured, or failed, or was an engine's."""
    if not isinstance(row, dict):
        return False
    if "session" in row:
        return _is_session(row["session"])
    if not _is_point(row.get("point")) or not _is_number(row.get("at"), 0.0, _YEAR_9999):
        return False
    if isinstance(row.get("failed"), str):
        return True
    return isinstance(row.get("unstable"), list) and ("seconds" not in row or _is_timed(row))


def _is_session(said: Any) -> bool:
    if not isinstance(said, dict) or not isinstance(said.get("versions"), dict):
        return False
    texts = [said.get("device"), *(said[name] for name in ("gpu", "cpu") if name in said)]
    numbers = [said[name] for name in ("power_limit_w", "memory_clock_most_hz") if said.get(name) is not None]
    return all(isinstance(text, str) for text in texts) and all(_is_number(x, 0.0) for x in numbers)


def _is_point(point: Any) -> bool:
    if not isinstance(point, dict) or not isinstance(point.get("table"), str):
        return False
    return all(isinstance(value, (str, int, float)) for value in point.values())


def _is_timed(row: Mapping[str, Any]) -> bool:
    """What every kernel's row says."""
    return (
        all(_is_number(row.get(name), 0.0) and row[name] > 0 for name in ("seconds", "seconds_q1", "seconds_q3"))
        and all(isinstance(row.get(name), int) for name in ("copies", "samples"))
        and isinstance(row.get("kernel_source"), str)
    )


def _is_number(value: Any, least: float, most: float = math.inf) -> bool:
    return isinstance(value, (int, float)) and least <= value < most


def _cut_half_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            file.truncate(end)
