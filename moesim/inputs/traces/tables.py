"""Traces that are CSV tables, told apart by their columns.

Azure (github.com/Azure/AzurePublicDataset) stamps requests with a date; BurstGPT (github.com/HPMLL/BurstGPT) and Vidur
(github.com/microsoft/vidur) with seconds.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from moesim.files.names import squeezed
from moesim.inputs.traces.row import Manner, Row, moment_s, refused, whole


@dataclass(frozen=True)
class Table:
    """A kind of table: its columns, by any case and separator, and how an arrival reads."""

    name: str
    arrival: str
    prompt: str
    output: str
    seconds: Callable[[Any], float] = float
    recorded: bool = True
    unit: str = "seconds"


OWN = Table("moesim", "arrival_s", "input_len", "output_len", recorded=False)
KINDS = (
    OWN,
    Table("Azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", moment_s, unit="a date and time"),
    Table("BurstGPT", "Timestamp", "Request tokens", "Response tokens"),
    Table("Vidur", "arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    Table(
        "Mooncake", "timestamp", "input_length", "output_length", lambda text: float(text) / 1e3, unit="milliseconds"
    ),
)
_DELIMITERS = ";\t|"
_NAME = re.compile(r"[\w .()/%-]{1,40}")
_CELL = re.compile(r"[\w .:+-]{0,32}")


def read(path: str, file: Any) -> tuple[Manner, Iterator[Row]]:
    """How to take a table's rows, and the rows. Raises SpecError for columns that no kind has."""
    lines, header = table(file)
    if not header:
        return Manner(recorded=False), iter(())
    columns = {squeezed(name): i for i, name in enumerate(header)}
    if (half := _half_said(columns)) is not None:
        raise refused(path, f":{max(lines.line_num, 1)}", half)
    for kind in KINDS:
        if all(squeezed(name) in columns for name in (kind.arrival, kind.prompt, kind.output)):
            return Manner(kind.recorded, kind.prompt, kind.output), _rows(path, kind, columns, lines)
    missing = [n for n in (OWN.arrival, OWN.prompt, OWN.output) if squeezed(n) not in columns]
    others = "; ".join(f"{k.arrival}, {k.prompt}, {k.output} ({k.name})" for k in KINDS[1:])
    # What is no line of columns' names may be of any file, and is not shown.
    named = f"; its first line names {', '.join(header[:8])}" if all(map(_NAME.fullmatch, header)) else ""
    message = f"lacks the column {', '.join(missing)}{named}"
    raise refused(path, f":{max(lines.line_num, 1)}", f"{message}. Accepted too: {others}")


def _half_said(columns: dict[str, int]) -> str | None:
    """What is wrong with columns that a table says something of, and not enough."""
    if "hashids" in columns:
        return "has hash_ids, which are read of JSON lines; give the trace as .jsonl, or without them"
    if ("prefixid" in columns) == ("prefixlen" in columns):
        return None
    if "prefixid" in columns:
        return "has prefix_id without prefix_len, the tokens of it; both or neither are read"
    return "has prefix_len without prefix_id, which says what is shared; both or neither are read"


def table(file: Any) -> tuple[Any, list[str]]:
    """A CSV reader past its header, and the header; comment lines count as lines."""
    first, skipped = "", 0
    for first in file:
        skipped += 1
        if first.strip() and not first.startswith("#"):
            break
    delimiter = next((d for d in _DELIMITERS if d in first and "," not in first), ",")
    # Lines before the header were read already, and count.
    ahead = ["\n"] * (skipped - 1) + ([first] if skipped else [])
    lines = csv.reader(_without_comments(ahead, file), delimiter=delimiter)
    header = next((cells for cells in lines if cells and not cells[0].startswith("#")), [])
    return lines, [name.strip() for name in header]


def _without_comments(ahead: list[str], file: Any) -> Iterator[str]:
    for group in (ahead, file):
        for line in group:
            yield "\n" if line.startswith("#") else line


def _rows(path: str, kind: Table, columns: dict[str, int], lines: Any) -> Iterator[Row]:
    arrival, prompt, output = (columns[squeezed(n)] for n in (kind.arrival, kind.prompt, kind.output))
    shared = (columns.get("prefixid"), columns.get("prefixlen"))
    images, session = columns.get("numimages"), columns.get("sessionid")
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        where = f":{lines.line_num}"
        try:
            came, long, answer = kind.seconds(cells[arrival]), whole(cells[prompt]), whole(cells[output])
            segments = _segments(cells, shared, long, lines.line_num)
            pictures = images is not None and float(cells[images] or 0) > 0
        except (ValueError, IndexError, OverflowError):
            message = f"is not a request: {kind.unit}, then whole numbers of tokens"
            raise refused(path, where, f"{_shown(cells, (arrival, prompt, output))}{message}") from None
        yield Row(where, came, long, answer, segments, pictures, bool(session is not None and cells[session]))


def _shown(cells: list[str], columns: tuple[int, ...]) -> str:
    """The cells a request is read of, for a message: of a file that is a table of something else, none."""
    said = [cells[i].strip() for i in columns if i < len(cells)]
    return f"'{','.join(said)}' " if all(_CELL.fullmatch(cell) for cell in said) else ""


def _segments(
    cells: list[str], shared: tuple[int | None, int | None], prompt: int, line: int
) -> tuple[tuple[int, int], ...]:
    """What a prompt shares with others, and a text of its own behind it."""
    number, length = shared
    if number is None or length is None or not cells[number]:
        return ()
    text, common = whole(cells[number]), min(whole(cells[length]), prompt)
    if min(text, common) < 0:
        raise ValueError
    return ((text, common), (-2 - line, prompt - common))
