"""Files of benchmark clients -> one record a result: one object, several that follow each other, a list, a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.files import yaml
from moesim.files.json import require_small
from moesim.files.reading import MIB, unpacked_text_of
from moesim.inputs.bench import aiperf, guidellm
from moesim.inputs.bench.result import Record

_WHAT = "JSON of a benchmark client"
_MOST_BYTES = 64 * MIB
_MOST_RESULTS = 10_000


def records(path: Path) -> list[Record]:
    """Every result of a file. Raises SpecError."""
    report = path.suffix in {".yaml", ".yml"}
    found = [(str(path), yaml.read(path).data)] if report else _values(path, unpacked_text_of(path, _WHAT, _MOST_BYTES))
    several: list[tuple[str, Any]] = []
    for where, value in found:
        listed = value if isinstance(value, list) else guidellm.benchmarks(value) if isinstance(value, dict) else None
        several += [(where, value)] if listed is None else ((f"{where} entry {i}", v) for i, v in enumerate(listed, 1))
    if not several:
        raise SpecError([Problem("holds no result: it is empty", str(path))])
    for where, value in several:
        if not isinstance(value, dict):
            message = "is no result of a benchmark: no JSON object is there"
            raise SpecError([Problem(message, where)])
    many = len(several) > 1
    return [
        Record(where, f"{path.stem}#{i}" if many else path.stem, value) for i, (where, value) in enumerate(several, 1)
    ]


def _values(path: Path, text: str) -> list[tuple[str, Any]]:
    """(where, value) of every JSON value in a text, whatever stands between them."""
    summary = aiperf.table(text)
    if summary is not None:
        return [(str(path), summary)]
    require_small(text, str(path))
    decoder, found, at, line = json.JSONDecoder(), [], 0, 1
    while at < len(text):
        if text[at].isspace() or text[at] == ",":
            line += text[at] == "\n"
            at += 1
            continue
        if len(found) == _MOST_RESULTS:
            raise SpecError([Problem(f"holds more than {_MOST_RESULTS:,} results", str(path))])
        begun = at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise SpecError([Problem(_no_json(text), f"{path}:{line}")]) from None
        found.append((f"{path}:{line}", value))
        line += text.count("\n", begun, at)
    return found if len(found) > 1 else [(str(path), value) for _, value in found]


def _no_json(text: str) -> str:
    if "Serving Benchmark Result" in text:
        return "is not JSON but what vllm bench serve prints; the file of --save-result is read"
    if text.lstrip()[:1] not in {"{", "["} and "," in text.partition("\n")[0]:
        return "is not JSON but a table; of tables, only AIPerf's summary (profile_export_aiperf.csv) is read"
    return "is not JSON, as benchmark clients save it"
