"""GuideLLM's report (benchmarks.json or .yaml): a benchmark for each rate or concurrency.

Its inter-token latency is vLLM bench's time per output token, (last - first token) / (tokens - 1) of each request; what
it calls time per output token counts the first token too, and is left out.
"""

from __future__ import annotations

from typing import Any

from moesim.inputs.bench.result import EVENLY, STATISTICS, Record, Result, load_of, measured_row, positive, refused

_TIMES = {"time_to_first_token_ms": ("ttft", 1.0), "inter_token_latency_ms": ("tpot", 1.0),
          "request_latency": ("e2el", 1e3)}  # fmt: skip


def reads(data: dict[str, Any]) -> bool:
    return isinstance(data.get("metrics"), dict) and bool(set(data["metrics"]) & set(_TIMES))


def benchmarks(data: dict[str, Any]) -> list[Any] | None:
    """The benchmarks of a whole report; None of anything else."""
    found = data.get("benchmarks")
    return found if isinstance(found, list) else None


def result(record: Record) -> Result:
    """One benchmark of a report. Raises SpecError."""
    data, metrics = record.data, record.data["metrics"]
    totals = _inner(metrics, "request_totals") or _inner(data, "run_stats", "requests_made")
    totals = totals or _inner(data, "scheduler_metrics", "requests_made")
    completed, failed = (positive(totals.get(name)) or 0.0 for name in ("successful", "errored"))
    times: dict[str, float] = {}
    for theirs, (ours, to_ms) in _TIMES.items():
        spread = _inner(metrics, theirs, "successful")
        for name, value in {**_inner(spread, "percentiles"), **spread}.items():
            if name in STATISTICS and (number := positive(value)):
                times.setdefault(f"{STATISTICS[name]}_{ours}_ms", number * to_ms)
    prompt, answer = (positive(_inner(metrics, name, "successful").get("mean"))
                      for name in ("prompt_token_count", "output_token_count"))  # fmt: skip
    row, doubts = measured_row(record, completed, failed, prompt, answer, times)
    if cut := positive(totals.get("incomplete")):
        doubts.append(f"{record.name}: {cut:,.0f} requests were under way when the run ended, and are not counted.")
    return Result("GuideLLM", row | _load(record, completed), doubts)


def _load(record: Record, completed: float) -> dict[str, Any]:
    strategy = _inner(record.data, "config", "strategy") or _inner(record.data, "args", "strategy")
    kind = str(strategy.get("type_") or strategy.get("type") or "")
    rate = positive(strategy.get("rate"))
    if kind == "synchronous":
        return load_of(record, 1.0, None)
    if kind == "concurrent":
        return load_of(record, positive(strategy.get("streams")), None)
    if kind == "throughput":
        return load_of(record, positive(strategy.get("max_concurrency")), None, at_once=completed)
    if kind in {"constant", "poisson", "async"}:
        burstiness = 1.0 if kind == "poisson" else EVENLY
        return load_of(record, positive(strategy.get("max_concurrency")), rate, burstiness)
    known = "synchronous, concurrent, throughput, constant and poisson"
    raise refused(record, f"requests came by the strategy '{kind or 'none named'}'; read are {known}")


def _inner(data: Any, *names: str) -> dict[str, Any]:
    """The map inside others; empty where one of them is not there."""
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}
