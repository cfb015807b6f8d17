"""Which engine flags matter for a deployment: one at a time changed, simulated again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from moesim.assembly import assemble
from moesim.errors import DoesNotFit, SpecError
from moesim.explore.pool import Pool
from moesim.inputs.scenario import Scenario
from moesim.prediction import predict

METRICS = ("mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "output_throughput")
_MATTERS = 0.02
"""Relative change of a metric, from which a flag matters."""


class FlagEffect(NamedTuple):
    """What one flag changes."""

    flag: str
    changes: dict[str, float]
    """Metric -> relative change; empty where the engine refuses the flag."""
    refused: str = ""

    @property
    def matters(self) -> bool:
        return any(abs(change) >= _MATTERS for change in self.changes.values())


def flag_effects(scenario: Scenario, workers: Pool) -> list[FlagEffect]:
    """Of every flag that could be set otherwise, those that matter most first."""
    changes = list(_changes(scenario))
    before, *after = workers.map(partial(_metrics, scenario), [{}, *changes])
    found = []
    for change, values in zip(changes, after, strict=True):
        if isinstance(values, str):
            found.append(FlagEffect(_words(change), {}, values))
        elif not isinstance(before, str):
            moved = {name: values[name] / before[name] - 1.0 for name in METRICS if before.get(name) and name in values}
            found.append(FlagEffect(_words(change), moved))
    return sorted(found, key=lambda one: -max((abs(x) for x in one.changes.values()), default=0.0))


def _changes(scenario: Scenario) -> Iterator[dict[str, Any]]:
    settings, parts = scenario.engine, assemble(scenario)
    tokens = parts.limits.max_num_batched_tokens
    for other in (tokens // 4, tokens * 4):
        yield {"max_num_batched_tokens": other}
    if parts.hardware.gpu.dense_fp8 is not None and settings.kv_cache_dtype == "auto":
        yield {"kv_cache_dtype": "fp8"}
    yield {"enforce_eager": not settings.enforce_eager}
    if parts.limits.async_scheduling:
        yield {"async_scheduling": False}
    if settings.enable_expert_parallel and parts.rank.plan.ep > 1:
        yield {"enable_eplb": not settings.enable_eplb}


def _metrics(scenario: Scenario, change: dict[str, Any]) -> dict[str, float] | str:
    try:
        found = predict(scenario.with_(**change) if change else scenario)
    except SpecError as error:
        return error.problems[0].message
    except DoesNotFit as error:
        return str(error)
    return {name: metric.value for name, metric in found.metrics.items() if metric is not None}


def _words(change: dict[str, Any]) -> str:
    """As vLLM writes it."""
    ((name, value),) = change.items()
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


def mattering(found: Iterable[FlagEffect]) -> list[FlagEffect]:
    return [one for one in found if one.matters]
