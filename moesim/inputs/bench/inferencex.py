"""InferenceX's aggregate of a run (agg_*.json): seconds, nominal lengths, GPUs.

Its lengths are drawn evenly from 0.8 to 1 times the nominal ones, ten requests a client (utils/bench_serving of
github.com/SemiAnalysisAI/InferenceX).
"""

from __future__ import annotations

from typing import Any

from moesim.inputs.bench.result import STATISTICS, Record, Result, load_of, measured_row, positive, refused

_NAMES = ("ttft", "tpot", "itl", "e2el")
_REQUESTS_A_CLIENT = 10
_LENGTHS = {"kind": "uniform", "low": 0.8, "high": 1.0}


def reads(data: dict[str, Any]) -> bool:
    return "conc" in data and ("tput_per_gpu" in data or "mean_ttft" in data)


def result(record: Record) -> Result:
    """A run. Raises SpecError."""
    data = record.data
    if not positive(data.get("isl")) or not positive(data.get("osl")):
        raise refused(record, "does not say its lengths ('isl' and 'osl'), as older aggregates do not")
    times = {
        f"{ours}_{name}_ms": number * 1e3
        for theirs, ours in STATISTICS.items()
        for name in _NAMES
        if (number := positive(data.get(f"{theirs}_{name}")))
    }
    clients = positive(data["conc"])
    count = _REQUESTS_A_CLIENT * (clients or 0.0)
    row, _ = measured_row(record, count, 0.0, positive(data["isl"]), positive(data["osl"]), times)
    doubts = []
    framework = str(data.get("framework") or "")
    if framework and "vllm" not in framework.lower():
        doubts.append(f"{record.name}: measured under {framework}.")
    if (data.get("spec_decoding") or data.get("mtp")) not in {None, "", "none", "off", False}:
        doubts.append(f"{record.name}: several tokens a step were drafted (speculative decoding).")
    return Result("InferenceX", row | load_of(record, clients, None), doubts, _LENGTHS)


def apart(data: dict[str, Any]) -> bool:
    """Whether prefill and decode ran on engines of their own."""
    return reads(data) and str(data.get("disagg", False)).lower() == "true"


def gpus(data: dict[str, Any]) -> int | None:
    """GPUs of the engine, where it is one."""
    value = positive(data.get("tp"))
    whole = reads(data) and not apart(data) and str(data.get("is_multinode", False)).lower() != "true"
    return round(value * (positive(data.get("pp")) or 1.0)) if whole and value else None
