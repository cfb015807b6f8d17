"""Counts of picks by layer and expert: a CSV file with the columns layer, expert, count."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from moesim.errors import Problem, SpecError
from moesim.files.reading import require_file
from moesim.files.table import read_table

COLUMNS = ("layer", "expert", "count")
_MOST = 1 << 20
_MOST_CELLS = 1 << 18
MOST_PICKS = 1e15
"""Of an expert."""

Counts = tuple[tuple[float, ...], ...]
"""One row a layer in order of their numbers, one count an expert."""


def read_counts(file: str) -> Counts:
    """Read a file of counts; an expert that is not named was never picked. Raises SpecError."""
    path = require_file(Path(file))
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, _stamp: int) -> Counts:
    found: dict[int, dict[int, float]] = {}

    def add(row: dict[str, str]) -> None:
        layer, expert, count = _pick(row)
        if expert in found.setdefault(layer, {}):
            raise ValueError(f"names expert {expert} of layer {layer} a second time")
        found[layer][expert] = count

    read_table(path, COLUMNS, add, most=_MOST_CELLS)
    if not found:
        raise SpecError([Problem("holds no count", str(path))])
    never = [layer for layer, row in sorted(found.items()) if not any(row.values())]
    if never:
        message = f"counts no pick of layer {never[0]}" + (f" and {len(never) - 1} others" if never[1:] else "")
        raise SpecError([Problem(message, str(path))])
    experts = 1 + max(max(row) for row in found.values())
    if experts * len(found) > _MOST_CELLS:
        message = f"names expert {experts - 1} and {len(found)} layers: more than {_MOST_CELLS:,} counts"
        raise SpecError([Problem(message, str(path))])
    return tuple(tuple(found[layer].get(e, 0.0) for e in range(experts)) for layer in sorted(found))


def _pick(row: dict[str, str]) -> tuple[int, int, float]:
    """(layer, expert, how often it was picked). Raises ValueError."""
    try:
        layer, expert, count = int(row["layer"]), int(row["expert"]), float(row["count"])
    except ValueError:
        layer = expert = count = -1
    if not (0 <= layer < _MOST and 0 <= expert < _MOST and 0 <= count <= MOST_PICKS):
        raise ValueError(f"is not a layer, an expert and a count from 0 to {MOST_PICKS:g}")
    return layer, expert, count
