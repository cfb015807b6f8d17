"""Rows of a measured engine -> run sets that `moesim validate` reads like any other."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moesim import paths
from moesim.bench.engine.settings import NONE, EngineSettings
from moesim.bench.environment import vllm_of
from moesim.bench.log import MEMORY
from moesim.calibrate.engine_scenario import backend_of, scenario_data
from moesim.calibrate.tidy import log_rows
from moesim.errors import CalibrationError
from moesim.files import yaml
from moesim.files.writing import write_whole
from moesim.inputs.run_file import METRICS, load_runs
from moesim.units import bytes_text

_PER_ROW = {"batch", "input_len", "output_len", "repetition", "request_rate", "requests", "table"}
_SHORT = {
    "tensor_parallel_size": "tp", "kv_cache_dtype": "kv", "max_model_len": "len", "max_num_seqs": "seqs",
    "max_num_batched_tokens": "tokens", "gpu_memory_utilization": "mem", "moe_backend": "moe",
    "async_scheduling": "async", "shared_experts_stream": "shared", "draft_model": "draft",
    "num_speculative_tokens": "drafts", "acceptance_rate": "kept",
}  # fmt: skip
"""Setting -> how a file name says it, where it is not the usual one."""
_MEMORY = {
    "weights": "weights_bytes", "activations": "peak_activation_bytes", "cuda_graphs": "cuda_graph_estimate_bytes",
}  # fmt: skip


def write_runs(log: Path, hardware: str, folder: Path) -> list[Path]:
    """A run set for every engine and kind of load in a log, written into ``folder``.

    Raises
    ------
    CalibrationError
        The log holds no measured batch or load.
    """
    sessions, rows = log_rows(log)
    groups: dict[str, list[dict[str, Any]]] = {}
    memory: dict[str, dict[str, Any]] = {}
    edges: dict[str, dict[str, float]] = {}
    for row in rows:
        point = row["point"]
        engine = _engine(point)
        if point["table"] == "engine_memory":
            _note_edge(edges.setdefault(_but_for_memory(point), {}), row)
        if point["table"] == "engine_memory" and "memory" in row:
            memory[engine] = row["memory"]
        elif point["table"] in {"engine_batch", "engine_load"} and "failed" not in row:
            groups.setdefault(f"{point['table']}{engine}", []).append(row)
    if not groups:
        raise CalibrationError(f"'{log}' holds no measured run of an engine")
    written: list[Path] = []
    for found in groups.values():
        point = found[0]["point"]
        target = folder / f"{_name(point, hardware)}.yaml"
        lines = _table(found)
        model = _model(point["model"], folder)
        about = _about(point, found, model, hardware, memory.get(_engine(point), {}), sessions[-1], folder)
        if "memory" in about:
            about["memory"] |= edges.get(_but_for_memory(point), {})
        write_whole(target.with_suffix(".csv"), "\n".join(lines) + "\n")
        write_whole(target, f"# Written by `moesim bench-engine`; do not edit.\n{yaml.text(about)}")
        load_runs(target)
        written += [target, target.with_suffix(".csv")]
    return written


def _engine(point: Mapping[str, Any], *but_for: str) -> str:
    """An engine's settings, as what tells it from others."""
    return json.dumps({k: v for k, v in sorted(point.items()) if k not in _PER_ROW and k not in but_for})


def _but_for_memory(point: Mapping[str, Any]) -> str:
    """An engine's settings without the share of memory it was given."""
    return _engine(point, "gpu_memory_utilization")


def _note_edge(edge: dict[str, float], row: Mapping[str, Any]) -> None:
    """A start, or a failure for want of memory; whatever else kept it from starting says nothing about memory."""
    share = row["point"]["gpu_memory_utilization"]
    if "memory" in row:
        edge["starts_at"] = min(edge.get("starts_at", 1.0), share)
    elif row.get("cause") == MEMORY:
        edge["fails_at"] = max(edge.get("fails_at", 0.0), share)


def next_share(edge: Mapping[str, float]) -> float:
    """Halfway between the largest share of memory that failed and the smallest that started."""
    return round((edge.get("fails_at", 0.0) + edge.get("starts_at", 1.0)) / 2, 3)


def edge_of(log: Path, settings: EngineSettings) -> dict[str, float]:
    """What a log knows of the share of memory from which an engine starts."""
    edge: dict[str, float] = {}
    wanted = _but_for_memory(settings.columns())
    for row in log_rows(log)[1]:
        if row["point"]["table"] == "engine_memory" and _but_for_memory(row["point"]) == wanted:
            _note_edge(edge, row)
    return edge


def _model(name: str, folder: Path) -> str:
    """What a scenario calls it: a name of the catalogue, or the config.json kept beside the runs."""
    return name if (paths.MODELS / name / "config.json").is_file() else str(folder / "models" / name)


def _name(point: Mapping[str, Any], hardware: str) -> str:
    usual = EngineSettings(Path()).columns()
    words = [hardware, "vllm", point["model"].lower(), point["mode"]]
    words += [str(point[k]) for k in ("routing", "hf_overrides") if point[k] != usual[k]]
    words += [f"{short}{point[k]}" for k, short in _SHORT.items() if point[k] != usual[k]]
    words += ["poisson"] * (point["table"] == "engine_load")
    return "-".join(words).replace("=", "").replace(",", "-").replace("/", "-")


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line a configuration: medians over its repetitions, milliseconds."""
    by_setting: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        p = row["point"]
        if p["table"] == "engine_batch":
            setting = (("input_len", p["input_len"]), ("output_len", p["output_len"]),
                       ("max_concurrency", p["batch"]), ("num_prompts", p["batch"]))  # fmt: skip
        else:
            setting = (("input_len", p["input_len"]), ("output_len", p["output_len"]),
                       ("request_rate", p["request_rate"]), ("num_prompts", p["requests"]))  # fmt: skip
        by_setting.setdefault(setting, []).append(row)
    measured = [m for m in METRICS if any(_in_seconds(m) in row for row in rows)]
    lines = [",".join([*(name for name, _ in next(iter(by_setting))), *measured])]
    for setting, same in by_setting.items():
        cells = [str(value) for _, value in setting]
        for metric in measured:
            values = [1e3 * row[_in_seconds(metric)] for row in same if row.get(_in_seconds(metric), 0) > 0]
            cells.append(f"{statistics.median(values):.6g}" if values else "")
        lines.append(",".join(cells))
    return lines


def _in_seconds(metric: str) -> str:
    return metric.removesuffix("_ms") + "_s"


def _about(
    point: Mapping[str, Any], rows: Sequence[dict[str, Any]], model: str, hardware: str, memory: Mapping[str, Any],
    environment: Mapping[str, Any], folder: Path,
) -> dict[str, Any]:  # fmt: skip
    versions = environment["versions"]
    said = {f: bytes_text(memory[name]) for f, name in _MEMORY.items() if memory.get(name)}
    draft = _model(point["draft_model"], folder) if point["draft_model"] != NONE else None
    vllm = vllm_of(versions)
    about: dict[str, Any] = {
        "title": f"{point['model']} on {environment.get('gpu', environment['cpu'])}, vLLM {vllm}, {point['mode']}",
        "role": "validation",
        "source": f"moesim bench-engine, vLLM {vllm}, driver {environment.get('driver', 'none')}, in one process",
        "statistic": "mean",
        "scenario": scenario_data(point, model, hardware, vllm, memory, draft),
    }
    if "weights" in said and memory.get("kv_blocks"):
        about["memory"] = {**said, "kv_blocks": memory["kv_blocks"]}
    about["doubts"] = _doubts(point, rows)
    return about


def _doubts(point: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
    found = ["weights are random: how tokens are routed, and what depends on values, is not a trained model's"]
    if point["routing"] == "natural":
        found.append("a random router does not route evenly; uniform routing is assumed")
    else:
        found.append(
            "routing was simulated: the router's own top-k kernel did not run, and models with a router of their own "
            "(gpt-oss) ignore it"
        )
    if point["moe_backend"] != "auto" and backend_of(point) == "auto":
        found.append(f"moe_backend {point['moe_backend']} has no constants; the version's own choice is predicted")
    preempted = sum(row.get("preemptions", 0) > 0 for row in rows)
    if preempted:
        found.append(f"{preempted} of {len(rows)} measurements preempted requests for want of cache")
    return found
