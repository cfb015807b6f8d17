"""What GPUs cost an hour: a table with providers, dates and sources."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim import paths
from moesim.errors import Problem, SpecError
from moesim.hardware.catalogue import load_hardware

COLUMNS = ("gpu", "provider", "instance", "usd_per_hour", "gpus", "date", "source")
SHIPPED = paths.HWSPECS / "prices.csv"


@dataclass(frozen=True)
class Price:
    """One provider's price of a GPU."""

    gpu: str
    provider: str
    instance: str
    usd_per_gpu_hour: float
    date: str
    source: str


def prices_of(gpu: str, path: Path | None = None) -> list[Price]:
    """What a table says of a GPU, cheapest first; the project's where none is named. Raises SpecError."""
    path = path or SHIPPED
    if not path.is_file():
        raise SpecError([Problem("there is no such file", str(path))])
    found = [price for price in _read(path, path.stat().st_mtime_ns) if price.gpu == gpu]
    return sorted(found, key=lambda price: price.usd_per_gpu_hour)


@lru_cache(maxsize=8)
def _read(path: Path, _stamp: int) -> list[Price]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError([Problem("is not UTF-8 text; a CSV file is expected", str(path))]) from None
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    if not lines or tuple(lines[0][1].split(",")) != COLUMNS:
        raise SpecError([Problem(f"must begin with the columns {','.join(COLUMNS)}", str(path))])
    problems: list[Problem] = []
    found = []
    for (number, _), row in zip(lines[1:], csv.reader(line for _, line in lines[1:]), strict=True):
        where = f"{path}:{number}"
        if len(row) != len(COLUMNS):
            problems.append(Problem(f"has {len(row)} cells; {len(COLUMNS)} are expected", where))
            continue
        entry = dict(zip(COLUMNS, row, strict=True))
        said = _problem(entry)
        if said:
            problems.append(Problem(said, where))
            continue
        each = float(entry["usd_per_hour"]) / int(entry["gpus"])
        name = load_hardware(entry["gpu"]).name
        found.append(Price(name, entry["provider"], entry["instance"], each, entry["date"], entry["source"]))
    if problems:
        raise SpecError(problems)
    return found


def _problem(entry: Mapping[Any, str]) -> str:
    """Why a row cannot be read; empty where it can."""
    try:
        load_hardware(entry["gpu"])
        if not (0 < float(entry["usd_per_hour"]) < 1e6 and 0 < int(entry["gpus"]) < 1e6):
            raise ValueError
        datetime.date.fromisoformat(entry["date"])
    except SpecError as error:
        return error.problems[0].message
    except ValueError:
        return "needs dollars an hour, a number of GPUs, and a date like 2026-11-09"
    return "" if entry["source"].strip() else "names no source"
