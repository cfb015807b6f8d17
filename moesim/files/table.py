"""CSV files that begin with a header known beforehand; every problem a sentence with its line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from moesim.errors import Problem, SpecError
from moesim.files.reading import MIB, text_of

T = TypeVar("T")
_MOST_PROBLEMS = 5
_MOST_BYTES = 16 * MIB


def read_table(
    path: Path, columns: Sequence[str], read: Callable[[dict[str, str]], T], optional: Sequence[str] = (),
    most: int = 10_000,
) -> list[T]:  # fmt: skip
    """What ``read`` makes of every row; empty lines and those that begin with # are left out.

    Parameters
    ----------
    read : callable
        Takes a row by its columns' names; a ValueError is what is wrong with it.
    optional : sequence of str
        Columns that may be among the others.
    most : int
        Rows.

    Raises
    ------
    SpecError
        No such file, another header, or the first rows that cannot be read.
    """
    (_, head), *rows = _rows(path) or [("", [])]
    if [name for name in head if name not in optional] != list(columns):
        raise SpecError([Problem(f"must begin with the columns {','.join(columns)}", str(path))])
    if len(rows) > most:
        raise SpecError([Problem(f"has {len(rows):,} rows; {most:,} at most are read", str(path))])
    found: list[T] = []
    problems: list[Problem] = []
    for where, row in rows:
        try:
            if len(row) != len(head):
                raise ValueError(f"has {len(row)} cells; {len(head)} are expected")
            found.append(read(dict(zip(head, row, strict=True))))
        except ValueError as error:
            problems.append(Problem(str(error), where))
        if len(problems) == _MOST_PROBLEMS:
            break
    if problems:
        raise SpecError(problems)
    return found


def _rows(path: Path) -> list[tuple[str, list[str]]]:
    """(file and line, cells) of every row, the header first. Raises SpecError."""
    text = text_of(path, "a CSV file", _MOST_BYTES)
    lines = csv.reader(text.splitlines())
    try:
        return [
            (f"{path}:{lines.line_num}", [cell.strip() for cell in row])
            for row in lines
            if "".join(row).strip() and not row[0].startswith("#")
        ]
    except csv.Error as error:
        raise SpecError([Problem(f"is not a CSV file ({error})", f"{path}:{lines.line_num}")]) from None
