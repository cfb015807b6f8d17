"""Traces of requests and tables of lengths, read line by line: memory stays flat whatever their size.

A CSV file has the columns ``arrival_s``, ``input_len``, ``output_len`` and, for shared prompts, ``prefix_id`` and
``prefix_len``. A JSON-lines file has ``timestamp`` (milliseconds), ``input_length``, ``output_length`` and
``hash_ids``, one for each 512 prompt tokens, as Mooncake publishes (github.com/kvcache-ai/Mooncake, FAST25 traces).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from moesim.errors import Problem, SpecError

_MOONCAKE_BLOCK = 512
_MOST_PROBLEMS = 5
_LONGEST = 10_000_000
_LATEST_S = 1e9


class TracedRequest(NamedTuple):
    """A line of a trace."""

    arrival_s: float
    input_len: int
    output_len: int
    segments: tuple[tuple[int, int], ...] = ()


class TraceExtent(NamedTuple):
    """What a whole trace holds."""

    requests: int
    last_arrival_s: float
    input_tokens: int
    output_tokens: int
    longest_input: int
    longest_output: int
    longest_total: int


def read_requests(path: str) -> Iterator[TracedRequest]:
    """The trace's requests in order.

    Raises
    ------
    SpecError
        At the first line that cannot be: not a number, negative, or earlier than the line before.
    """
    before = 0.0
    for line, item in _rows(path):
        problem = _wrong(item, before)
        if problem:
            raise SpecError([Problem(problem, f"{path}:{line}")])
        before = item.arrival_s
        yield item


def check_requests(path: str) -> list[Problem]:
    """The first problems of a trace; none where it can be used."""
    problems: list[Problem] = []
    before, count = 0.0, 0
    try:
        for line, item in _rows(path):
            count += 1
            problem = _wrong(item, before)
            if problem:
                problems.append(Problem(problem, f"{path}:{line}"))
                if len(problems) == _MOST_PROBLEMS:
                    break
            before = max(before, item.arrival_s)
    except SpecError as error:
        problems += error.problems
    if not count and not problems:
        problems.append(Problem("the trace holds no request; at least one line is needed", path))
    return problems


def trace_extent(path: str) -> TraceExtent:
    """Counts, sums and longest lengths of a trace, in one pass."""
    return _extent(path, os.stat(path).st_mtime_ns)


@lru_cache(maxsize=8)
def _extent(path: str, changed_ns: int) -> TraceExtent:
    n = tokens_in = tokens_out = most_in = most_out = most = 0
    last = 0.0
    for item in read_requests(path):
        n += 1
        last = item.arrival_s
        tokens_in += item.input_len
        tokens_out += item.output_len
        most_in, most_out = max(most_in, item.input_len), max(most_out, item.output_len)
        most = max(most, item.input_len + item.output_len)
    return TraceExtent(n, last, tokens_in, tokens_out, most_in, most_out, most)


def _wrong(item: TracedRequest, before: float) -> str:
    if not 0 <= abs(item.arrival_s) <= _LATEST_S:
        return f"arrival {item.arrival_s:g} is not a time in seconds"
    if item.arrival_s < 0:
        return f"arrival {item.arrival_s:g} s is negative; arrivals count from 0"
    if item.arrival_s < before:
        return f"arrival {item.arrival_s:g} s is earlier than the line before ({before:g} s); sort the trace by arrival"
    for name, length in (("input_len", item.input_len), ("output_len", item.output_len)):
        if not 1 <= length <= _LONGEST:
            return f"{name} is {length}; whole numbers from 1 to {_LONGEST:,} are accepted"
    return ""


def _rows(path: str) -> Iterator[tuple[int, TracedRequest]]:
    """(line number, request), unchecked but for being numbers."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from _json_rows(path, file) if Path(path).suffix == ".jsonl" else _csv_rows(path, file)
    except UnicodeDecodeError as error:
        raise SpecError([Problem(f"is not UTF-8 text: {error.reason}", path)]) from None
    except csv.Error as error:
        raise SpecError([Problem(f"is no CSV table: {error}", path)]) from None
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror or error}", path)]) from None


def _csv_rows(path: str, file: Any) -> Iterator[tuple[int, TracedRequest]]:
    lines, header = _table(file)
    if not header:
        return
    missing = [n for n in ("arrival_s", "input_len", "output_len") if n not in header]
    if missing:
        found = ", ".join(header[:8])
        raise SpecError([Problem(f"lacks the column {', '.join(missing)}; its first line names {found}", f"{path}:1")])
    place = {name: i for i, name in enumerate(header)}
    shared = "prefix_id" in place and "prefix_len" in place
    for cells in lines:
        if not cells:
            continue
        try:
            arrival, prompt, output = (
                float(cells[place["arrival_s"]]), int(cells[place["input_len"]]), int(cells[place["output_len"]])
            )  # fmt: skip
            segments: tuple[tuple[int, int], ...] = ()
            if shared and cells[place["prefix_id"]]:
                text, length = int(cells[place["prefix_id"]]), min(int(cells[place["prefix_len"]]), prompt)
                if min(text, length) < 0:
                    raise ValueError
                segments = ((text, length), (-2 - lines.line_num, prompt - length))
        except (ValueError, IndexError):
            text = ",".join(cells)[:60]
            message = f"'{text}' is not a request: seconds, then whole numbers of tokens"
            raise SpecError([Problem(message, f"{path}:{lines.line_num}")]) from None
        yield lines.line_num, TracedRequest(arrival, prompt, output, segments)


def _table(file: Any) -> tuple[Any, list[str]]:
    """A CSV reader past its header, and the header; comment lines count as lines."""
    lines = csv.reader("\n" if line.startswith("#") else line for line in file)
    header = next((cells for cells in lines if cells), [])
    return lines, [name.strip() for name in header]


def _json_rows(path: str, file: Any) -> Iterator[tuple[int, TracedRequest]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            arrival, prompt = float(data["timestamp"]) / 1e3, int(data["input_length"])
            ids = data.get("hash_ids") or []
            segments = tuple(
                (int(text), min(_MOONCAKE_BLOCK, prompt - i * _MOONCAKE_BLOCK))
                for i, text in enumerate(ids)
                if prompt > i * _MOONCAKE_BLOCK
            )
            item = TracedRequest(arrival, prompt, int(data["output_length"]), segments)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            wanted = "timestamp (ms), input_length and output_length"
            raise SpecError([Problem(f"is not a request: a JSON object with {wanted}", f"{path}:{number}")]) from None
        yield number, item


def read_lengths(path: str) -> tuple[tuple[int, int], ...]:
    """Pairs (input_len, output_len) of a CSV file. Raises SpecError."""
    try:
        changed_ns = os.stat(path).st_mtime_ns
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror or error}", path)]) from None
    return _lengths(path, changed_ns)


@lru_cache(maxsize=8)
def _lengths(path: str, changed_ns: int) -> tuple[tuple[int, int], ...]:
    pairs: list[tuple[int, int]] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines, header = _table(file)
            for cells in lines:
                if not cells:
                    continue
                row = dict(zip(header, cells, strict=False))
                try:
                    pair = int(row["input_len"]), int(row["output_len"])
                except (KeyError, ValueError):
                    message = "is not a pair of lengths: the columns input_len and output_len, whole numbers"
                    raise SpecError([Problem(message, f"{path}:{lines.line_num}")]) from None
                if not (1 <= pair[0] <= _LONGEST and 1 <= pair[1] <= _LONGEST):
                    message = f"lengths are {pair[0]} and {pair[1]}; whole numbers from 1 to {_LONGEST:,} are accepted"
                    raise SpecError([Problem(message, f"{path}:{lines.line_num}")])
                pairs.append(pair)
    except UnicodeDecodeError as error:
        raise SpecError([Problem(f"is not UTF-8 text: {error.reason}", path)]) from None
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror or error}", path)]) from None
    if not pairs:
        raise SpecError([Problem("holds no lengths; at least one line is needed", path)])
    return tuple(pairs)
