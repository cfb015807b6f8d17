"""Tables of lengths: moesim's own, or a trace of which arrivals are left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.files.names import squeezed
from moesim.inputs.traces import json_lines, tables
from moesim.inputs.traces.opening import opened
from moesim.inputs.traces.row import LONGEST, refused, whole


def read_lengths(path: str) -> tuple[tuple[int, int], ...]:
    """Pairs (input_len, output_len) of a CSV file, or of a trace as others publish it. Raises SpecError."""
    try:
        changed_ns = os.stat(path).st_mtime_ns
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror or error}", path)]) from None
    return _lengths(path, changed_ns)


@lru_cache(maxsize=8)
def _lengths(path: str, changed_ns: int) -> tuple[tuple[int, int], ...]:
    pairs: list[tuple[int, int]] = []
    with opened(path) as (file, is_json):
        for where, pair, recorded in (_of_objects if is_json else _of_table)(path, file):
            if recorded and not pair[1]:
                # Failed, or cut off: as in a trace.
                continue
            if not (1 <= pair[0] <= LONGEST and 1 <= pair[1] <= LONGEST):
                message = f"lengths are {pair[0]} and {pair[1]}; whole numbers from 1 to {LONGEST:,} are accepted"
                raise refused(path, where, message)
            pairs.append(pair)
    if not pairs:
        raise SpecError([Problem("holds no lengths; at least one line is needed", path)])
    return tuple(pairs)


def _of_table(path: str, file: Any) -> Iterator[tuple[str, tuple[int, int], bool]]:
    lines, header = tables.table(file)
    columns = {squeezed(name): i for i, name in enumerate(header)}
    kind = next((k for k in tables.KINDS if {squeezed(k.prompt), squeezed(k.output)} <= set(columns)), None)
    for cells in lines:
        if not cells:
            continue
        where = f":{lines.line_num}"
        try:
            if kind is None:
                raise ValueError
            pair = whole(cells[columns[squeezed(kind.prompt)]]), whole(cells[columns[squeezed(kind.output)]])
        except (ValueError, IndexError, OverflowError):
            message = "is not a pair of lengths: the columns input_len and output_len, whole numbers"
            raise refused(path, where, message) from None
        yield where, pair, kind.recorded


def _of_objects(path: str, file: Any) -> Iterator[tuple[str, tuple[int, int], bool]]:
    for where, data in json_lines.objects(path, file):
        try:
            yield where, (whole(data["input_length"]), whole(data["output_length"])), True
        except (ValueError, KeyError, TypeError, OverflowError):
            message = "is not a pair of lengths: a JSON object with input_length and output_length, whole numbers"
            raise refused(path, where, message) from None
