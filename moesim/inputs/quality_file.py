"""Quality of a model and its variants in several weight formats: a table with sources, the user's or the project's."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

from moesim import paths
from moesim.errors import Problem, SpecError

COLUMNS = ("model", "experts_format", "attention_format", "metric", "value", "source")
_VARIANT = "variant"
"""A column that a table may have behind the model's."""
Quality = dict[tuple[str, str, str], float]
"""(experts' format, the other matrices' format, metric) -> value."""


def shipped_quality(model: str, variant: str = "") -> Quality:
    """What the project's tables say of a model, or of a variant of it; empty where they say nothing."""
    found: Quality = {}
    for path in sorted(paths.QUALITY.glob("*.csv")):
        found |= quality_of(model, path, variant)
    return found


def quality_of(model: str, path: Path, variant: str = "") -> Quality:
    """What a table says of a model, or of a variant of it. Raises SpecError."""
    if not path.is_file():
        raise SpecError([Problem("there is no such file", str(path))])
    rows = _rows(path, path.stat().st_mtime_ns)
    wanted = (model.lower(), variant.lower())
    return {key: value for name, of, key, value in rows if (name.lower(), of.lower()) == wanted}


@lru_cache(maxsize=16)
def _rows(path: Path, _stamp: int) -> list[tuple[str, str, tuple[str, str, str], float]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError([Problem("is not UTF-8 text; a CSV file is expected", str(path))]) from None
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip() and line[0] != "#"]
    columns = tuple(lines[0][1].split(",")) if lines else ()
    if tuple(name for name in columns if name != _VARIANT) != COLUMNS:
        raise SpecError([Problem(f"must begin with the columns {','.join(COLUMNS)}", str(path))])
    problems: list[Problem] = []
    found = []
    for (number, _), row in zip(lines[1:], csv.reader(line for _, line in lines[1:]), strict=True):
        where = f"{path}:{number}"
        if len(row) != len(columns):
            problems.append(Problem(f"has {len(row)} cells; {len(columns)} are expected", where))
            continue
        entry = dict(zip(columns, row, strict=True))
        if not entry["source"].strip():
            problems.append(Problem("names no source", where))
        try:
            value = float(entry["value"])
        except ValueError:
            problems.append(Problem(f"'{entry['value']}' is not a number", where))
            continue
        key = (entry["experts_format"], entry["attention_format"], entry["metric"])
        found.append((entry["model"], entry.get(_VARIANT, ""), key, value))
    if problems:
        raise SpecError(problems)
    return found
