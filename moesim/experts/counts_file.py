"""Counts of picks by layer and expert: a CSV file with the columns layer, expert, count."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

from moesim.errors import Problem, SpecError

COLUMNS = ("layer", "expert", "count")
_MOST = 1 << 20
_MOST_PROBLEMS = 5

Counts = tuple[tuple[float, ...], ...]
"""One row a layer in order of their numbers, one count an expert."""


def read_counts(file: str) -> Counts:
    """Read a file of counts; an expert that is not named was never picked. Raises SpecError."""
    path = Path(file)
    if not path.is_file():
        raise SpecError([Problem("there is no such file", file)])
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, _stamp: int) -> Counts:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError([Problem("is not UTF-8 text; a CSV file is expected", str(path))]) from None
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    if not lines or tuple(cell.strip() for cell in lines[0][1].split(",")) != COLUMNS:
        raise SpecError([Problem(f"must begin with the columns {','.join(COLUMNS)}", str(path))])
    found: dict[int, dict[int, float]] = {}
    problems: list[Problem] = []
    for (number, _), row in zip(lines[1:], csv.reader(line for _, line in lines[1:]), strict=True):
        try:
            layer, expert, count = int(row[0]), int(row[1]), float(row[2])
            if len(row) != 3 or not (0 <= layer < _MOST and 0 <= expert < _MOST and 0 <= count < float("inf")):
                raise ValueError
        except (ValueError, IndexError):
            problems.append(Problem("is not a layer, an expert and a count, all from 0", f"{path}:{number}"))
            if len(problems) == _MOST_PROBLEMS:
                break
            continue
        found.setdefault(layer, {})[expert] = found.get(layer, {}).get(expert, 0.0) + count
    if problems or not found:
        raise SpecError(problems or [Problem("holds no count", str(path))])
    experts = 1 + max(max(row) for row in found.values())
    return tuple(tuple(found[layer].get(e, 0.0) for e in range(experts)) for layer in sorted(found))
