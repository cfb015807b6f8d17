"""A measured engine as a scenario: the one place that says what a point of the log is to a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from moesim.bench.engine.plan import LENGTHS
from moesim.bench.engine.settings import NONE, EngineSettings
from moesim.engines.settings import EngineSettings as Scenario
from moesim.inputs.routing import routing_named

_SWITCHES = {"on": True, "off": False}


def scenario_data(
    point: Mapping[str, Any],
    model: str,
    hardware: str,
    vllm: str,
    memory: Mapping[str, Any] | None = None,
    draft: str | None = None,
) -> dict[str, Any]:
    """The scenario of a measured point, as a file tells it.

    Parameters
    ----------
    point : mapping
        Columns of ``engine_batch``, ``engine_load`` or ``engine_memory``.
    model : str
        What a scenario calls the model.
    vllm : str
        The engine's version.
    memory : mapping, optional
        What the engine said of itself when it started; what was asked for stands in.
    draft : str, optional
        What a scenario calls the model that drafts; by default as the point does.
    """
    said = memory or {}
    engine: dict[str, Any] = {
        "version": vllm or None,
        "tensor_parallel_size": point["tensor_parallel_size"],
        "max_model_len": point["max_model_len"],
        "max_num_seqs": point["max_num_seqs"],
        "max_num_batched_tokens": said.get("max_num_batched_tokens", point["max_num_batched_tokens"]),
        "gpu_memory_utilization": point["gpu_memory_utilization"],
        "enable_prefix_caching": False,
        "enforce_eager": point["mode"] == "eager",
        "max_cudagraph_capture_size": min(max(EngineSettings(Path()).capture_sizes), point["max_num_seqs"]),
        "front_end": "none",
    }
    if point["mode"] == "graph":
        engine["cudagraph_mode"] = "full_decode_only"
    ahead = said.get("async_scheduling", _SWITCHES.get(point["async_scheduling"]))
    if ahead is not None:
        engine["async_scheduling"] = ahead
    if point["shared_experts_stream"] == "off":
        engine["disable_shared_experts_stream"] = True
    if (backend := backend_of(point)) != "auto":
        engine["moe_backend"] = backend
    if point["kv_cache_dtype"] in {"bfloat16", "fp8"}:
        engine["kv_cache_dtype"] = point["kv_cache_dtype"]
    if "block_size" in said:
        engine["block_size"] = said["block_size"]
    if point["hf_overrides"] != NONE:
        pairs = (pair.partition("=") for pair in point["hf_overrides"].split(","))
        engine["hf_overrides"] = {name: _number(value) for name, _, value in pairs}
    if point["draft_model"] != NONE:
        engine["speculative_config"] = {
            "method": "draft_model", "model": draft or point["draft_model"],
            "num_speculative_tokens": point["num_speculative_tokens"], "acceptance_rate": point["acceptance_rate"],
            "acceptance_source": "forced",
        }  # fmt: skip
    return {
        "model": model, "hardware": hardware, "engine": engine, "routing": _routing(point["routing"]),
        "workload": workload_of(point),
    }  # fmt: skip


def backend_of(point: Mapping[str, Any]) -> str:
    """The experts' kernel that was asked for, by a scenario's name; auto where scenarios have none for it."""
    name = point["moe_backend"].replace("deep_gemm", "deepgemm")
    return name if name in get_args(Scenario.model_fields["moe_backend"].annotation) else "auto"


def workload_of(point: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of the engine; of a start alone, one request of the longest length."""
    if "input_len" not in point:
        return {"input_len": point["max_model_len"] - 1, "output_len": 1, "max_concurrency": 1, "num_prompts": 1}
    load = {"input_len": point["input_len"], "output_len": point["output_len"]}
    if "batch" in point:
        return load | {"max_concurrency": point["batch"], "num_prompts": point["batch"]}
    lengths = {"kind": "uniform", "low": LENGTHS[0], "high": LENGTHS[1]}
    return load | {"request_rate": point["request_rate"], "num_prompts": point["requests"], "lengths": lengths}


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return text


def _routing(text: str) -> dict[str, Any]:
    """A random router's own choices are nobody's law: even ones are taken, and the interval reaches further."""
    return {"kind": "uniform", "known": False} if text == "natural" else routing_named(text).model_dump()
