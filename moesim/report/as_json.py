"""A prediction as plain data, for programs. SI units, except metrics, which carry vLLM's names."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, interval
from moesim.errors import DoesNotFit
from moesim.memory import Room
from moesim.offload.report import OffloadReport
from moesim.offload.tiers import Tiers
from moesim.prediction import Prediction
from moesim.serving.report import NO_SLO, LoadReport


def prediction_data(prediction: Prediction) -> dict[str, Any]:
    """Everything a prediction holds, the cost tree included."""
    report = prediction.report
    return {
        "fits": True,
        "scenario": prediction.scenario.model_dump(),
        "metrics": {n: None if m is None else asdict(m) for n, m in prediction.metrics.items()},
        **({} if report is None else {"bench": bench_data(prediction), "load": occupancy_data(report)}),
        "memory_bytes": memory_data(prediction.memory),
        **({} if prediction.offload is None else {"offload": offload_data(prediction.offload)}),
        "bounds": prediction.bounds,
        "tags": prediction.tags,
        "notes": list(prediction.notes),
        "cost": cost_data(prediction.cost),
    }


def memory_data(memory: Room | Tiers) -> dict[str, Any]:
    """Bytes of each part of memory; of tiers also the GPU's peak."""
    data = asdict(memory)
    return data | {"gpu": memory.gpu} if isinstance(memory, Tiers) else data


def offload_data(report: OffloadReport) -> dict[str, Any]:
    """What is where, how many experts a decode step finds, and when each lane of it is busy."""
    plan, timeline = report.plan, report.lanes()
    return {
        "system": plan.system.name,
        "host": plan.host.name,
        "policy": plan.policy.model_dump(exclude_none=True),
        "experts_on_gpu": list(plan.slots),
        "layers_on_gpu": list(plan.resident),
        "experts_asked": report.asked,
        "experts_found": report.found,
        "hit_rate": report.hit_rate,
        "link_bytes_per_s": report.link_bytes_per_s,
        "link_source": report.link_source,
        "step_s": timeline.end_s,
        "lanes": [{"lane": lane, "what": what, "start_s": a, "end_s": b} for lane, what, a, b in timeline.events],
    }


def bench_data(prediction: Prediction) -> dict[str, Any]:
    """A run under load with the field names of a vLLM bench result; no intervals."""
    report = prediction.report
    assert report is not None
    load = prediction.scenario.workload
    values = {name: None if metric is None else metric.value for name, metric in prediction.metrics.items()}
    return {
        "model_id": prediction.scenario.model,
        "num_prompts": report.copies * report.answered,
        "request_rate": load.request_rate or "inf",
        "burstiness": load.burstiness,
        "max_concurrency": load.max_concurrency,
        "duration": report.duration_s,
        "completed": report.copies * report.answered,
        "total_input_tokens": report.copies * report.input_tokens,
        "total_output_tokens": report.copies * report.output_tokens,
        "request_goodput": report.copies * report.good / report.duration_s if report.slo != NO_SLO else None,
        **values,
    }


def occupancy_data(report: LoadReport) -> dict[str, Any]:
    """How full the engine was."""
    levels = (report.kv_used, report.waiting, report.running)
    return {
        "steps": report.steps,
        "busy_s": report.busy_s,
        "decode_steps_s": report.decode_s,
        "prefill_steps_s": report.mixed_s,
        "preemptions": report.preemptions,
        "cached_prompt_tokens": report.cached_tokens,
        "waits_for_cache": report.cache_limited,
        **{
            f"{name}_{what}": value
            for name, level in zip(("kv_used_share", "waiting", "running"), levels, strict=True)
            for what, value in (("mean", level.mean), ("peak", level.peak))
        },
    }


def cost_data(cost: Cost) -> dict[str, Any]:
    """A cost tree; ``seconds`` are per occurrence, ``count`` occurrences make the parent."""
    low, high = interval(cost.seconds, cost.spread)
    data: dict[str, Any] = {
        "name": cost.name,
        "seconds": float(cost.seconds),
        "low_s": float(low),
        "high_s": float(high),
        "count": cost.count,
    }
    if cost.children:
        return data | {"children": [cost_data(child) for child in cost.children]}
    # Waiting and overlap are no work of their own.
    flop, moved = (float(np.mean(getattr(cost.op, name, 0.0))) for name in ("flop", "hbm_bytes"))
    return data | {
        "bound": cost.bound,
        "tag": cost.tag,
        "source": cost.source,
        "formula": cost.formula,
        "mean_flop": flop,
        "mean_hbm_bytes": moved,
        "notes": list(cost.notes),
    }


def does_not_fit_data(error: DoesNotFit) -> dict[str, Any]:
    memory = memory_data(error.memory) if isinstance(error.memory, (Room, Tiers)) else {}
    return {
        "fits": False,
        "message": str(error),
        "shortfall_bytes": error.shortfall_bytes,
        "would_fit": list(error.ways_out),
        "memory_bytes": memory,
    }
