"""A log of measurements -> a dataset: tidy tables and a data sheet, unstable and failed points counted there."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from moesim.bench.log import LogError, rows
from moesim.calibrate.dataset import META, POINTS, Dataset, content_sha256, units_of, write_sheet, write_table
from moesim.errors import CalibrationError
from moesim.files import yaml

KEPT = ("kernel_source", "copies", "seconds", "seconds_q1", "seconds_q3", "samples")
"""Measured columns that a table keeps; the log has the rest."""
_BUSY_SHARE = 0.25
"""Processes a core that make a host a busy one."""
_VOLATILE = {"versions", "python", "system", "cpu", "gpu", "driver", "cuda", "compute_capability", "device",
             "cores", "memory_bytes"}  # fmt: skip
"""What must not change from one session of a log to the next."""


def log_rows(log: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(environments of the sessions, rows of points) of a log. Raises CalibrationError."""
    try:
        everything = list(rows(log))
    except LogError as error:
        raise CalibrationError(str(error)) from None
    return [row["session"] for row in everything if "session" in row], [row for row in everything if "point" in row]


def check_same_place(log: Path, here: dict[str, Any]) -> None:
    """Raise CalibrationError where a log was begun on another machine or with other software."""
    sessions, points = log_rows(log)
    for before in sessions if points else []:
        for name in sorted(_VOLATILE):
            if before.get(name) != here.get(name):
                raise CalibrationError(
                    f"'{log}' holds rows of {name} {before.get(name)}, here or later it is {here.get(name)}: both "
                    "cannot stand in one dataset; choose another folder with -o"
                )


def write_dataset(folder: Path, log: Path, name: str, stack: str) -> Dataset:
    """Write the tables and the data sheet of everything a log holds.

    Parameters
    ----------
    name : str
        moesim's name of the GPU, or of the host.

    Raises
    ------
    CalibrationError
        There is no usable row.
    """
    import pandas as pd

    sessions, points = log_rows(log)
    tables: dict[str, pd.DataFrame] = {}
    about: dict[str, Any] = {}
    lost: list[str] = []
    for table in sorted({row["point"]["table"] for row in points}):
        mine = [row for row in points if row["point"]["table"] == table]
        good = [row for row in mine if "seconds" in row and not row["unstable"]]
        if not good:
            reason = next(iter(_dropped(mine)), "")
            lost.append(f"{table}: 0 of {len(mine)} points kept; {reason}")
            continue
        columns = [{k: v for k, v in row["point"].items() if k != "table"} for row in good]
        measured = [{k: row[k] for k in KEPT} for row in good]
        tables[table] = pd.DataFrame([{**c, **m} for c, m in zip(columns, measured, strict=True)])
        about[table] = {
            "rows_read": len(mine),
            "rows_kept": len(good),
            "rows_dropped": _dropped(mine),
            "kernels": sorted({row["kernel_source"] for row in good}),
            "sha256": content_sha256(tables[table]),
        }
    if not tables or not sessions:
        why = "; ".join(lost) or "no session or no point is in it"
        raise CalibrationError(f"'{log}' holds no stable measured point, so there is nothing to fit: {why}")
    for old in _tables_of(folder):
        if old not in tables:
            (folder / f"{old}.parquet").unlink(missing_ok=True)
    for table, frame in tables.items():
        write_table(folder, table, frame)
    write_sheet(folder, "moesim calibrate", _sheet(name, stack, sessions, points, tables, about, lost))
    return Dataset(folder, name, stack)


def refuse_foreign_folder(folder: Path, own: str = POINTS) -> None:
    """Raise CalibrationError for a folder whose files are not a calibration's: they would be written over."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / own).exists():
        raise CalibrationError(
            f"'{folder}' holds files, and no {own} of an earlier run; choose an empty or new folder with -o"
        )


def _tables_of(folder: Path) -> list[str]:
    """Tables that an earlier data sheet in a folder names."""
    if not (folder / META).is_file():
        return []
    found = yaml.read(folder / META).data.get("tables", {})
    return list(found) if isinstance(found, dict) else []


def _dropped(rows: list[dict[str, Any]]) -> dict[str, int]:
    reasons = [
        f"failed: {row['failed'].splitlines()[0][:80]}"
        if "failed" in row
        else f"unstable: {', '.join(row['unstable'])}"
        for row in rows
        if "failed" in row or row["unstable"]
    ]
    return dict(Counter(reasons).most_common())


def _sheet(
    name: str,
    stack: str,
    sessions: list[dict[str, Any]],
    points: list[dict[str, Any]],
    tables: dict[str, Any],
    about: dict[str, Any],
    lost: list[str],
) -> dict[str, Any]:
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(f(r["at"] for r in points))) for f in (min, max))
    here = sessions[-1]
    doubts = [
        "buffers hold random numbers: kernels whose time depends on values are not told apart",
        "points marked unstable are in the log, not in the tables",
    ]
    doubts += lost
    if "nvml" in here:
        doubts.append(here["nvml"])
    load = here.get("load_average", 0.0)
    if load > _BUSY_SHARE * here["cores"]:
        doubts.append(f"{load:.1f} processes ran on {here['cores']} cores when measuring began: the host was not idle")
    if here["device"] == "cpu":
        doubts.append("a processor shared with other work, or whose clock moves, measures slower than it is")
    return {
        "title": f"kernels of {stack} on {name}, measured by moesim calibrate",
        "gpu": name,
        "stack": stack,
        "source": "measured here",
        "licence": "CC0-1.0",
        "measured_at": f"{first} to {last} UTC, {len(sessions)} session{'s' * (len(sessions) > 1)}",
        "units": units_of(tables),
        "repetitions": "median and quartiles of 5 to 15 samples a row, each of many calls over rotating buffers",
        "environment": here,
        "doubts": doubts,
        "tables": about,
    }
