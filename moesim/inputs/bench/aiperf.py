"""AIPerf's and GenAI-Perf's summary of a run (profile_export_aiperf.json, profile_export_genai_perf.json, or .csv).

Their inter-token latency is vLLM bench's time per output token: what follows the first token over the tokens that do.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from moesim.files.names import squeezed
from moesim.inputs.bench.result import EVENLY, STATISTICS, Record, Result, load_of, measured_row, positive, refused

_TIMES = {"time_to_first_token": "ttft", "inter_token_latency": "tpot", "request_latency": "e2el"}
_MS = {"s": 1e3, "sec": 1e3, "seconds": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}
_EVEN = {"constant", "fixed"}


def reads(data: dict[str, Any]) -> bool:
    metrics = _metrics(data)
    return any(isinstance(metrics.get(name), dict) and "avg" in metrics[name] for name in _TIMES)


def result(record: Record) -> Result:
    """A run's summary. Raises SpecError."""
    metrics = _metrics(record.data)
    times: dict[str, float] = {}
    for theirs, ours in _TIMES.items():
        given = metrics.get(theirs)
        spread: dict[str, Any] = given if isinstance(given, dict) else {}
        unit = str(spread.get("unit") or "ms").lower()
        if unit not in _MS:
            raise refused(record, f"gives {theirs} in '{unit}'; {', '.join(_MS)} are read")
        to_ms = _MS[unit]
        for name, value in spread.items():
            if name in STATISTICS and (number := positive(value)):
                times[f"{STATISTICS[name]}_{ours}_ms"] = number * to_ms
    completed, failed, prompt, answer = (
        _mean(metrics, name)
        for name in ("request_count", "error_request_count", "input_sequence_length", "output_sequence_length")
    )
    row, doubts = measured_row(record, completed or 0.0, failed or 0.0, prompt, answer, times)
    if record.data.get("was_cancelled") is True:
        doubts.append(f"{record.name}: the run was cancelled before its end.")
    return Result("AIPerf", row | _load(record), doubts)


def table(text: str) -> dict[str, Any] | None:
    """The same of a summary that is a table; None of any other text."""
    if not text.lstrip().lower().startswith("metric,"):
        return None
    found: dict[str, Any] = {}
    names: list[str] = []
    for cells in _rows(text):
        if cells and cells[0].strip() == "Metric":
            names = [name.strip().lower() for name in cells[1:]]
        elif cells and names:
            title, _, unit = cells[0].partition("(")
            # Thousands are set apart by commas.
            values: dict[str, Any] = dict(zip(names, (cell.replace(",", "") for cell in cells[1:]), strict=False))
            values["avg"] = values.get("avg", values.get("value"))
            found["_".join(title.lower().split())] = values | ({"unit": unit.strip(" )")} if unit else {})
        elif cells:
            return None
    return found if reads(found) else None


def _rows(text: str) -> Iterator[list[str]]:
    """Rows up to the first that is none."""
    try:
        yield from csv.reader(io.StringIO(text))
    except csv.Error:
        return


def _metrics(data: dict[str, Any]) -> dict[str, Any]:
    inner = data.get("records")
    return inner if isinstance(inner, dict) else data


def _mean(metrics: dict[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    return positive(value.get("avg") if isinstance(value, dict) else value)


def _load(record: Record) -> dict[str, Any]:
    """What the run's own settings say; where they are not there (a table), the scenario has to."""
    said = list(_settings(record.data.get("input_config")))
    first = {name: value for name, value in reversed(said)}
    concurrency, rate = positive(first.get("concurrency")), positive(first.get("requestrate"))
    pattern = str(first.get("arrivalpattern") or first.get("requestratemode") or first.get("type") or "poisson").lower()
    rate = rate or (positive(first.get("rate")) if pattern in {"poisson", "gamma", *_EVEN} else None)
    burstiness = EVENLY if pattern in _EVEN else positive(first.get("arrivalsmoothness")) or 1.0
    return load_of(record, concurrency, rate, burstiness) if concurrency or rate else {}


def _settings(data: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of all settings, however deep; not of a warm-up, which is in no figure."""
    if isinstance(data, list):
        for item in data:
            yield from _settings(item)
    elif isinstance(data, dict) and data.get("exclude_from_results") is not True:
        for name, value in data.items():
            only = value[0] if isinstance(value, list) and len(value) == 1 else value
            if isinstance(only, (dict, list)):
                yield from _settings(only)
            elif squeezed(name) != "type" or squeezed(str(only)) in {"poisson", "gamma", "constant", "concurrency"}:
                yield squeezed(name), only
