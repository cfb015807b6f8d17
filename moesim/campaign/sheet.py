"""The data sheet of a campaign's rows: what, where, when, how, in which units, and what is doubtful about it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moesim.calibrate.dataset import POINTS
from moesim.calibrate.tidy import log_rows
from moesim.campaign.registration import Registration, utc
from moesim.errors import CalibrationError
from moesim.files import yaml
from moesim.files.writing import write_whole

KERNELS, RUNS, OWN = "kernels", "runs", "preregistered"
"""Folders of a campaign: rows of kernels, rows of engines, predictions of its own where none ship for the GPU."""
SHEET, COMPARED = "campaign.yaml", "compared.csv"
"""Its data sheet, and every row beside its prediction."""
_UNPREDICTED = "not beforehand"
_DOUBTS = [
    "weights and buffers are random: how a model routes tokens, and what depends on values, is not a trained model's",
    "one machine, one hour: another GPU of the kind, or another day, differs by a few per cent",
    "engines run in one process without a server; prompts are token ids",
]


def logs_of(folder: Path) -> dict[str, Path]:
    """Part of a campaign -> its log, where there is one."""
    logs = {part: folder / part / POINTS for part in (KERNELS, RUNS)}
    return {part: log for part, log in logs.items() if log.exists()}


def machine_of(session: Mapping[str, Any]) -> str:
    """The GPU, or the processor, that a session measured."""
    return str(session.get("gpu") or session.get("cpu") or "a machine that is not named")


def digest_of(folder: Path) -> str:
    """SHA-256 of all rows of a campaign."""
    found = hashlib.sha256()
    for part, log in logs_of(folder).items():
        found.update(part.encode())
        found.update(log.read_bytes())
    return found.hexdigest()


def write_sheet(
    folder: Path, registration: Registration | None, here: Mapping[str, Any], problems: Sequence[str] = ()
) -> Path:
    """Write the data sheet of everything measured so far, of nothing too: it marks the folder as a campaign's.

    Parameters
    ----------
    here : mapping
        The machine that measures.
    problems : sequence of str
        What could not be measured in this run.
    """
    sessions: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for log in logs_of(folder).values():
        seen, points = log_rows(log)
        sessions, rows = [*sessions, *seen], [*rows, *points]
    first, last = (utc(pick(row["at"] for row in rows)) if rows else "" for pick in (min, max))
    about = {
        "title": f"a measuring campaign of moesim on {machine_of(here)}",
        "source": "measured by moesim campaign run",
        "licence": "CC0-1.0",
        "measured_at": f"{first} to {last} UTC, {len(sessions)} sessions" if rows else "nothing yet",
        "predicted": registration.name if registration else _UNPREDICTED,
        "registered_at": registration.sheet.registered_at if registration else "",
        "environment": dict(here),
        "units": "seconds, bytes, watts, joules; a column's name says which",
        "rows": dict(Counter(row["point"]["table"] for row in rows)),
        "failed": dict(Counter(row["point"]["table"] for row in rows if "failed" in row)),
        "unstable": dict(Counter(row["point"]["table"] for row in rows if row.get("unstable"))),
        "not_measured": list(problems),
        "doubts": _DOUBTS,
    }
    target = folder / SHEET
    write_whole(target, f"# Written by `moesim campaign run`; do not edit.\n{yaml.text(about)}")
    return target


def predicted_by(folder: Path) -> str | None:
    """The registration that a campaign's data sheet names; None without a sheet, or where there was none beforehand."""
    if not (folder / SHEET).is_file():
        return None
    about = yaml.read(folder / SHEET).data
    name = about.get("predicted") if isinstance(about, dict) else None
    return name if isinstance(name, str) and name != _UNPREDICTED else None


def refuse_uncompared(folder: Path) -> None:
    """Raise CalibrationError where rows are a campaign's that were not held against what was predicted of them."""
    folder = folder.resolve()
    campaign = folder.parent
    if folder.name != KERNELS or not any((campaign / name).exists() for name in (SHEET, RUNS, OWN)):
        return
    compared = campaign / COMPARED
    if compared.is_file() and compared.read_text(encoding="utf-8").partition("\n")[0] == f"# {digest_of(campaign)}":
        return
    raise CalibrationError(
        f"'{folder}' holds rows of a campaign that were not compared yet, and nothing is fitted before: "
        f"run moesim campaign compare {campaign}, commit its page, then fit"
    )
