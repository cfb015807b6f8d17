"""Routing traces: which experts each token picked."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

from moesim.errors import Problem, SpecError


@lru_cache(maxsize=16)
def read_trace(file: str, num_experts: int, top_k: int) -> tuple[tuple[int, ...], ...]:
    """Read a trace: one line a token, its k expert numbers separated by commas. Raises SpecError."""
    problems: list[Problem] = []
    rows: list[tuple[int, ...]] = []
    accepted = f"{top_k} different numbers from 0 to {num_experts - 1}"
    with Path(file).open(encoding="utf-8", errors="replace", newline="") as stream:
        for number, cells in enumerate(csv.reader(stream), start=1):
            if not cells or cells[0].lstrip().startswith("#"):
                continue
            try:
                row = tuple(int(cell) for cell in cells)
            except ValueError:
                row = ()
            if len(set(row)) != top_k or len(row) != top_k or min(row) < 0 or max(row) >= num_experts:
                problems.append(Problem(f"is {','.join(cells)[:40]!r}; accepted: {accepted}", f"{file}:{number}"))
                if len(problems) == 5:
                    break
            rows.append(row)
    if problems or not rows:
        raise SpecError(problems or [Problem("holds no token", file)])
    return tuple(rows)
