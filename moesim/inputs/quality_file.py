"""Quality of a model in several weight formats: a table with sources that the user brings or the project ships."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

from moesim import paths
from moesim.errors import Problem, SpecError

COLUMNS = ("model", "experts_format", "attention_format", "metric", "value", "source")
Quality = dict[tuple[str, str, str], float]
"""(experts' format, the other matrices' format, metric) -> value."""


def shipped_quality(model: str) -> Quality:
    """What the project's tables say of a model; empty where they say nothing."""
    found: Quality = {}
    for path in sorted(paths.QUALITY.glob("*.csv")):
        found |= quality_of(model, path)
    return found


def quality_of(model: str, path: Path) -> Quality:
    """What a table says of a model. Raises SpecError."""
    if not path.is_file():
        raise SpecError([Problem("there is no such file", str(path))])
    rows = _rows(path, path.stat().st_mtime_ns)
    return {key: value for name, key, value in rows if name.lower() == model.lower()}


@lru_cache(maxsize=16)
def _rows(path: Path, _stamp: int) -> list[tuple[str, tuple[str, str, str], float]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError([Problem("is not UTF-8 text; a CSV file is expected", str(path))]) from None
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip() and line[0] != "#"]
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
        if not entry["source"].strip():
            problems.append(Problem("names no source", where))
        try:
            value = float(entry["value"])
        except ValueError:
            problems.append(Problem(f"'{entry['value']}' is not a number", where))
            continue
        key = (entry["experts_format"], entry["attention_format"], entry["metric"])
        found.append((entry["model"], key, value))
    if problems:
        raise SpecError(problems)
    return found
