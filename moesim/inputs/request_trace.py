"""Traces of requests and tables of lengths, read line by line: memory stays flat whatever their size.

What is published is read as it is (``traces/``): Azure's, BurstGPT's and Vidur's tables; Mooncake's and Qwen's JSON
lines, AIPerf's with a timestamp on each; compressed or not. moesim's own table has the columns ``arrival_s``,
``input_len``, ``output_len`` and, for shared prompts, ``prefix_id`` and ``prefix_len``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from moesim.errors import Problem, SpecError
from moesim.inputs.traces import json_lines, tables
from moesim.inputs.traces.lengths import read_lengths
from moesim.inputs.traces.opening import opened
from moesim.inputs.traces.row import LONGEST, Manner, Row

__all__ = [
    "TraceExtent",
    "TracedRequest",
    "check_requests",
    "read_lengths",
    "read_requests",
    "trace_extent",
    "trace_notes",
]

_MOST_PROBLEMS = 5
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


class _Survey(NamedTuple):
    """What must be known of a whole trace before its first request is."""

    begins_s: float
    in_order: bool
    silent: int
    """Requests that generated nothing."""
    with_images: int
    turns: int


def read_requests(path: str) -> Iterator[TracedRequest]:
    """The trace's requests in order.

    Raises
    ------
    SpecError
        At the first line that cannot be: not a number, negative, or earlier than the line before.
    """
    survey = _surveyed(path)
    with _opened(path) as (manner, rows):
        requests = _requests(path, manner, rows, survey)
        yield from requests if survey.in_order else sorted(requests, key=lambda item: item.arrival_s)


def _requests(path: str, manner: Manner, rows: Iterator[Row], survey: _Survey) -> Iterator[TracedRequest]:
    before = 0.0
    for row in rows:
        if manner.recorded and row.output_len == 0:
            continue
        problem = _wrong(row, manner, survey.begins_s, before)
        if problem:
            raise SpecError([Problem(problem, f"{path}{row.where}")])
        before = row.arrival_s
        yield TracedRequest(row.arrival_s - survey.begins_s, row.input_len, row.output_len, row.segments)


def check_requests(path: str) -> list[Problem]:
    """The first problems of a trace; none where it can be used."""
    problems: list[Problem] = []
    before, count = 0.0, 0
    try:
        survey = _surveyed(path)
        with _opened(path) as (manner, rows):
            for row in rows:
                if manner.recorded and row.output_len == 0:
                    continue
                count += 1
                problem = _wrong(row, manner, survey.begins_s, before)
                if problem:
                    problems.append(Problem(problem, f"{path}{row.where}"))
                    if len(problems) == _MOST_PROBLEMS:
                        break
                before = max(before, row.arrival_s)
    except SpecError as error:
        return problems + error.problems
    if not count and survey.silent:
        message = f"none of its {survey.silent:,} requests generates a token; engines take requests of one or more"
        problems.append(Problem(message, path))
    elif not count:
        problems.append(Problem("the trace holds no request; at least one line is needed", path))
    return problems


def trace_notes(path: str) -> tuple[str, ...]:
    """What was done to a trace on the way in, a sentence each."""
    survey, name = _surveyed(path), Path(path).name
    notes = []
    if survey.silent:
        which = "request that generates" if survey.silent == 1 else "requests that generate"
        notes.append(f"{name}: {survey.silent:,} {which} nothing (failed or cut off) left out")
    if not survey.in_order:
        notes.append(f"{name}: lines are not in order of arrival, and are sorted")
    if survey.turns:
        notes.append(f"{name}: turns of a session come at their timestamps, whether the turn before is answered or not")
    if survey.with_images:
        notes.append(f"{name}: requests with images ({survey.with_images:,}) are taken as text of their prompt tokens")
    return tuple(notes)


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


def _surveyed(path: str) -> _Survey:
    try:
        return _survey(path, os.stat(path).st_mtime_ns)
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror or error}", path)]) from None


@lru_cache(maxsize=8)
def _survey(path: str, changed_ns: int) -> _Survey:
    with _opened(path) as (manner, rows):
        if not manner.recorded:
            return _Survey(0.0, True, 0, 0, 0)
        begins, before, in_order = float("inf"), float("-inf"), True
        silent = images = turns = 0
        for row in rows:
            if row.output_len == 0:
                silent += 1
                continue
            in_order &= row.arrival_s >= before
            before, begins = row.arrival_s, min(begins, row.arrival_s)
            images, turns = images + row.images, turns + row.turn
    # What is no number is refused where it stands.
    return _Survey(begins if abs(begins) < float("inf") else 0.0, in_order, silent, images, turns)


def _wrong(row: Row, manner: Manner, begins_s: float, before: float) -> str:
    arrival = row.arrival_s - begins_s
    if not 0 <= abs(arrival) <= _LATEST_S:
        return f"arrival {arrival:g} is not a time in seconds"
    if arrival < 0:
        return f"arrival {arrival:g} s is negative; arrivals count from 0"
    if not manner.recorded and arrival < before:
        return f"arrival {arrival:g} s is earlier than the line before ({before:g} s); sort the trace by arrival"
    for name, length in ((manner.prompt, row.input_len), (manner.output, row.output_len)):
        if not 1 <= length <= LONGEST:
            return f"{name} is {length}; whole numbers from 1 to {LONGEST:,} are accepted"
    return ""


@contextmanager
def _opened(path: str) -> Iterator[tuple[Manner, Iterator[Row]]]:
    """A trace's rows, unchecked but for being numbers, and how to take them."""
    with opened(path) as (file, is_json):
        yield (json_lines if is_json else tables).read(path, file)
