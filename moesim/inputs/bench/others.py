"""What else people bring as a result of serving, and what it is."""

from __future__ import annotations

from typing import Any

_SERVING = "a result of vllm bench serve, sglang bench_serving, GuideLLM, AIPerf or InferenceX is needed"
_KNOWN: tuple[tuple[tuple[str, ...], str], ...] = (
    (("avg_latency", "latencies"), "is a result of vllm bench latency: one batch timed whole, nothing served"),
    (("elapsed_time", "requests_per_second"), "is a result of vllm bench throughput: offline, without latencies"),
    (("last_gen_throughput", "total_latency"), "is a result of sglang's bench_offline_throughput: without latencies"),
    (("prefill_latency", "batch_size"), "is a result of sglang's bench_one_batch: one batch, nothing served"),
    (("avg_cold_startup_time",), "is a result of vllm bench startup: how long an engine takes to start"),
    (("nvbandwidth",), "is a result of nvbandwidth; moesim calibrate --from reads it"),
    (("timestamp", "input_length"), "is a trace of requests, not what became of them; trace_file reads it"),
    (("request", "responses"), "holds single requests of GenAI-Perf"),
    (("metadata", "metrics", "error"), "holds single requests of AIPerf; its summary is profile_export_aiperf.json"),
    (("experiments", "version"), "holds single requests of Perf Analyzer; its summary ends in _genai_perf.json"),
    (("architectures",), "is a model's config.json"),
    (("results", "n-shot"), "holds accuracies of lm-eval, no times"),
)  # fmt: skip


def what_it_is(data: dict[str, Any]) -> str:
    """A sentence on a record that is no result of serving."""
    for names, sentence in _KNOWN:
        if all(name in data for name in names):
            return f"{sentence}; {_SERVING}"
    if any(str(name).endswith("_avg") for name in _inner(data, "metrics")):
        return "is AIPerf's summary of several runs; each run's own profile_export_aiperf.json is read"
    keys = ", ".join(list(map(str, data))[:6]) or "nothing"
    return f"is no result of serving: it holds {keys}; {_SERVING}"


def _inner(data: dict[str, Any], name: str) -> dict[str, Any]:
    found = data.get(name)
    return found if isinstance(found, dict) else {}
