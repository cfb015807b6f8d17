"""Files of benchmark clients -> one record a result: one object, several that follow each other, a list, a report."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.files import yaml
from moesim.inputs.bench import aiperf, guidellm
from moesim.inputs.bench.result import Record


def records(path: Path) -> list[Record]:
    """Every result of a file. Raises SpecError."""
    report = path.suffix in {".yaml", ".yml"}
    found = [(str(path), yaml.read(path).data)] if report else _values(path, _text(path))
    several: list[tuple[str, Any]] = []
    for where, value in found:
        listed = value if isinstance(value, list) else guidellm.benchmarks(value) if isinstance(value, dict) else None
        several += [(where, value)] if listed is None else ((f"{where} entry {i}", v) for i, v in enumerate(listed, 1))
    if not several:
        raise SpecError([Problem("holds no result: it is empty", str(path))])
    for where, value in several:
        if not isinstance(value, dict):
            message = f"is no result of a benchmark: {json.dumps(value)[:40]} is no JSON object"
            raise SpecError([Problem(message, where)])
    many = len(several) > 1
    return [
        Record(where, f"{path.stem}#{i}" if many else path.stem, value) for i, (where, value) in enumerate(several, 1)
    ]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError([Problem("is not UTF-8 text; JSON of a benchmark client is read", str(path))]) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SpecError([Problem(f"cannot be decompressed: {error}", str(path))]) from None
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror or error}", str(path))]) from None


def _values(path: Path, text: str) -> list[tuple[str, Any]]:
    """(where, value) of every JSON value in a text, whatever stands between them."""
    summary = aiperf.table(text)
    if summary is not None:
        return [(str(path), summary)]
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        if text[at].isspace() or text[at] == ",":
            at += 1
            continue
        line = text.count("\n", 0, at) + 1
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise SpecError([Problem(_no_json(text), f"{path}:{line}")]) from None
        found.append((f"{path}:{line}", value))
    return found if len(found) > 1 else [(str(path), value) for _, value in found]


def _no_json(text: str) -> str:
    if "Serving Benchmark Result" in text:
        return "is not JSON but what vllm bench serve prints; the file of --save-result is read"
    if text.lstrip()[:1] not in {"{", "["} and "," in text.partition("\n")[0]:
        return "is not JSON but a table; of tables, only AIPerf's summary (profile_export_aiperf.csv) is read"
    return "is not JSON, as benchmark clients save it"
