"""Routing traces: which experts each token picked."""

from __future__ import annotations

from pathlib import Path

from moesim.errors import Problem, SpecError
from moesim.files.reading import MIB, refused, text_of

_MOST_PROBLEMS = 5
_MOST_EXPERTS = 1 << 16
_MOST_BYTES = 16 * MIB
_MOST_TOKENS = 200_000
"""A part of a longer trace says as much."""


def read_picks(file: str) -> tuple[tuple[int, ...], ...]:
    """Read a trace of a model that is not known: as many experts on each line as on the first. Raises SpecError."""
    lines = _lines(file)
    first = _first(lines)
    if not _is_picks(first):
        message = "begins neither as a trace (a token's experts on each line, with commas), nor as counts (columns"
        raise refused(file, f"{message} layer,expert,count), nor is it a scenario (.yaml)")
    return _picks(file, lines, _MOST_EXPERTS, first.count(",") + 1)


def first_line(path: Path) -> str:
    """The first line that holds something and is no comment; empty where there is none. Raises SpecError."""
    return _first(_lines(str(path)))


def read_trace(file: str, num_experts: int, top_k: int) -> tuple[tuple[int, ...], ...]:
    """Read a trace: one line a token, its k expert numbers separated by commas. Raises SpecError."""
    return _picks(file, _lines(file), num_experts, top_k)


def _lines(file: str) -> list[str]:
    return text_of(Path(file), "a CSV file", _MOST_BYTES).splitlines()


def _says(line: str) -> bool:
    """Whether a line holds something and is no comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _first(lines: list[str]) -> str:
    return next(filter(_says, lines), "")


def _picks(file: str, lines: list[str], num_experts: int, top_k: int) -> tuple[tuple[int, ...], ...]:
    problems: list[Problem] = []
    rows: list[tuple[int, ...]] = []
    accepted = f"{top_k} different numbers from 0 to {num_experts - 1}"
    for number, line in enumerate(lines, start=1):
        if not _says(line):
            continue
        row = tuple(int(cell[:10]) for cell in line.split(",")) if _is_picks(line) else ()
        if len(rows) == _MOST_TOKENS:
            raise refused(file, f"holds more than {_MOST_TOKENS:,} tokens; a part of them says as much")
        if len(set(row)) != top_k or len(row) != top_k or max(row) >= num_experts:
            # What is no line of numbers may be of any file, and is not shown.
            found = f"is {line[:40]!r}" if row else "is no line of numbers"
            problems.append(Problem(f"{found}; accepted: {accepted}", f"{file}:{number}"))
            if len(problems) == _MOST_PROBLEMS:
                break
        rows.append(row)
    if problems or not rows:
        raise SpecError(problems or [Problem("holds no token", file)])
    return tuple(rows)


def _is_picks(line: str) -> bool:
    """Whether a line is whole numbers with commas between them."""
    return all(cell.strip().isascii() and cell.strip().isdigit() for cell in line.split(","))
