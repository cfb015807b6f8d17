"""A prediction as plain data, for programs. SI units, except metrics, which carry vLLM's names."""

from __future__ import annotations

from dataclasses import asdict
from functools import singledispatch
from typing import Any

import numpy as np

from moesim.assembly import assemble, engine_of
from moesim.cost.cost import Cost, interval
from moesim.errors import DoesNotFit
from moesim.memory import Room
from moesim.offload.report import OffloadReport
from moesim.offload.tiers import Tiers
from moesim.outcome import Offloaded, Prediction, Served, Steady
from moesim.serving.report import NO_SLO, LoadReport


def prediction_data(prediction: Prediction) -> dict[str, Any]:
    """Everything a prediction holds, the cost tree included."""
    knowledge, scenario = prediction.knowledge, prediction.scenario
    return {
        "fits": True,
        "scenario": scenario.model_dump(),
        "engine": engine_data(prediction),
        "metrics": {n: None if m is None else asdict(m) for n, m in prediction.metrics.items()},
        **own_data(prediction),
        "memory_bytes": memory_data(prediction.memory),
        "bounds": prediction.bounds,
        "tags": knowledge.tags,
        "notes": list(knowledge.notes),
        **_techniques(prediction),
        "cost": cost_data(prediction.cost),
    }


def _techniques(prediction: Prediction) -> dict[str, Any]:
    engine, found = prediction.scenario.engine, dict[str, Any]()
    if engine.drafts is not None:
        from moesim.report.speculation_text import speculation_data

        found["speculation"] = speculation_data(prediction)
    if engine.moe_dispatch != "fused":
        from moesim.explore.slots import slots

        found["dispatch"] = [asdict(one) for one in slots(prediction)]
    if prediction.scenario.variant is not None:
        from moesim.report.quality_text import variant_quality

        found["quality"] = [
            {"experts_format": experts, "attention_format": rest, "metric": metric, "value": value}
            for (experts, rest, metric), value in variant_quality(prediction.scenario).items()
        ]
    return found


def engine_data(prediction: Prediction) -> dict[str, Any]:
    """The engine's version, and its settings with that version's defaults filled in."""
    scenario = prediction.scenario
    engine = engine_of(scenario)
    limits = assemble(scenario).limits
    return {"name": engine.file.name, "version": engine.file.version, "asked": engine.asked, **asdict(limits)}


@singledispatch
def own_data(prediction: Prediction) -> dict[str, Any]:
    """What only one kind of prediction has."""
    return {}


@own_data.register
def _(prediction: Served) -> dict[str, Any]:
    return {"bench": bench_data(prediction), "load": occupancy_data(prediction.report)}


@own_data.register
def _(prediction: Steady) -> dict[str, Any]:
    state = prediction.state
    return {
        "steady": {
            "limited_by": state.limited_by,
            "running": state.running,
            "prompt_share": state.prompt_share,
            "request_rate": state.request_rate,
        }
    }


@own_data.register
def _(prediction: Offloaded) -> dict[str, Any]:
    return {"offload": offload_data(prediction.offload)}


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


def bench_data(prediction: Served) -> dict[str, Any]:
    """A run under load with the field names of a vLLM bench result; no intervals."""
    report = prediction.report
    load = prediction.scenario.workload
    values = {name: None if metric is None else metric.value for name, metric in prediction.metrics.items()}
    return {
        "model_id": prediction.scenario.model,
        "num_prompts": report.answered,
        "request_rate": load.request_rate or "inf",
        "burstiness": load.burstiness,
        "max_concurrency": load.max_concurrency,
        "duration": report.duration_s,
        "completed": report.answered,
        "total_input_tokens": report.input_tokens,
        "total_output_tokens": report.output_tokens,
        "request_goodput": report.good / report.duration_s if report.slo != NO_SLO else None,
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
        "output_tokens_by_policy": report.tokens_under,
        "parked_s": report.parked_s,
        "wakes": report.wakes,
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
