"""vllm bench serve (--save-result, --save-detailed, --append-result) and sglang's bench_serving."""

from __future__ import annotations

from typing import Any

from moesim.inputs.bench.result import STATISTICS, Record, Result, load_of, measured_row, positive, refused

_NAMES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2el", "e2e_latency": "e2el"}
_COUNTS = ("completed", "total_input_tokens", "total_output_tokens")
_OTHER_ENGINES = ("sglang", "trt", "tensorrt", "lmdeploy", "tgi")
_SPREAD = 1.1


def reads(data: dict[str, Any]) -> bool:
    return any(name in data for name in _COUNTS)


def result(record: Record) -> Result:
    """A serving run. Raises SpecError."""
    data = record.data
    missing = next((name for name in _COUNTS if name not in data), None)
    if missing == "total_output_tokens" and "total_token_throughput" in data:
        raise refused(record, "is a run of embeddings or pooling: no token was generated")
    if missing:
        raise refused(record, f"is no result of vllm bench serve: it lacks '{missing}'")
    completed, failed = positive(data["completed"]) or 0.0, _failed(data)
    if completed and data["total_output_tokens"] == 0:
        raise refused(record, f"its {completed:,.0f} requests were completed without a token, so nothing was measured")
    prompt, answer = (positive(data[name]) for name in _COUNTS[1:])
    each = completed or 1.0
    row, doubts = measured_row(record, completed, failed, (prompt or 0) / each, (answer or 0) / each, _times(data))
    if data.get("ramp_up_strategy"):
        start, end = data.get("ramp_up_start_rps"), data.get("ramp_up_end_rps")
        raise refused(record, f"its rate rose while it ran (from {start} to {end} a second); one rate is needed")
    rate = positive(data.get("request_rate"))
    load = load_of(
        record, positive(data.get("max_concurrency")), rate, positive(data.get("burstiness")) or 1.0, completed + failed
    )
    sglang = "mean_e2e_latency_ms" in data or str(data.get("backend")).startswith("sglang")
    return Result(
        "sglang bench_serving" if sglang else "vllm bench serve",
        row | load | _shared(data, row["input_len"]),
        [*doubts, *_doubts(record)],
    )


def _failed(data: dict[str, Any]) -> float:
    """Requests without an answer: as counted, else what was sent and not completed."""
    if "failed" in data:
        counted = positive(data["failed"]) or 0.0
        return counted if counted or positive(data.get("completed")) else positive(data.get("num_prompts")) or 0.0
    return max((positive(data.get("num_prompts")) or 0.0) - (positive(data.get("completed")) or 0.0), 0.0)


def _times(data: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for theirs, ours in STATISTICS.items():
        for metric, name in _NAMES.items():
            value = positive(data.get(f"{theirs}_{metric}_ms"))
            if value:
                found.setdefault(f"{ours}_{name}_ms", value)
    return found


def _shared(data: dict[str, Any], prompt: int) -> dict[str, float]:
    """What all prompts begin with, where the client was told so."""
    prefix = positive(data.get("random_prefix_len"))
    return {"cached_share": round(prefix / prompt, 4)} if prefix and prefix < prompt else {}


_SPECULATED = (
    "spec_decode_acceptance_length", "spec_decode_acceptance_rate", "spec_decode_num_drafts", "accept_length",
)  # fmt: skip
"""What clients save of a server that speculates."""


def _doubts(record: Record) -> list[str]:
    doubts, data = [], record.data
    backend = str(data.get("backend") or "")
    if backend.startswith(_OTHER_ENGINES):
        doubts.append(f"{record.name}: measured with the backend {backend}.")
    if any(data.get(name) for name in _SPECULATED):
        doubts.append(f"{record.name}: measured with speculative decoding, which the scenario does not have.")
    for name, what in (("input_lens", "prompts"), ("output_lens", "answers")):
        given = data.get(name)
        lengths = [n for n in map(positive, given) if n] if isinstance(given, list) else []
        if lengths and max(lengths) > _SPREAD * min(lengths):
            doubts.append(f"{record.name}: {what} of {min(lengths):g} to {max(lengths):g} tokens, taken at their mean.")
    return doubts
