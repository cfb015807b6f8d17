"""Prefill and decode on engines of their own: what each kind is, and whether the two go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from moesim.engines.settings import EngineSettings
from moesim.files.validation import said, shown
from moesim.hardware.hardware import Hardware
from moesim.inputs.plan_checks import Finding
from moesim.inputs.scenario import ALIASES, Disaggregation, Scenario
from moesim.models.plan import Plan

SIDES = ("prefill", "decode")
_NAMES = {name: dotted.partition(".")[2] for name, dotted in ALIASES.items() if dotted.startswith("engine.")}
_SHARED = ("hf_overrides", "kv_cache_dtype")
"""What both kinds must have alike: the model, and the form of the cache that one sends and the other reads."""


def side_of(scenario: Scenario, side: str) -> Scenario:
    """The scenario as ``prefill`` or ``decode`` engines that stand apart see it. Raises ValidationError."""
    told = getattr(scenario.disaggregation, side)
    given = {_NAMES.get(name, name): value for name, value in told.items()}
    settings = EngineSettings.model_validate({**scenario.engine.model_dump(), **given})
    return scenario.model_copy(update={"disaggregation": None, "engine": settings})


def apart_findings(
    scenario: Scenario, apart: Disaggregation, hardware: Hardware | None,
    engine_findings: Callable[[Scenario], list[Finding]],
) -> Iterator[Finding]:  # fmt: skip
    """Every reason both kinds of engines cannot run.

    Parameters
    ----------
    engine_findings : callable
        What is wrong with the engine of a scenario, engines apart left out.
    """
    where = ("disaggregation",)
    if scenario.workload.arrivals == "batch":
        yield where, "a static batch runs on one engine; give max_concurrency, request_rate or trace_file"
    world, own, sides = 0, set(engine_findings(scenario)), list[EngineSettings]()
    for name in SIDES:
        yield from _twice(getattr(apart, name), name)
        try:
            side = side_of(scenario, name)
        except ValidationError as error:
            yield from (((*where, name, str(item["loc"][0])), _unread(item)) for item in error.errors())
            continue
        sides.append(side.engine)
        plan = Plan.of(side.engine)
        world += getattr(apart, f"{name}_replicas") * plan.world
        if plan.dp > 1:
            message = f"{name} engines are counted by {name}_replicas, not by data parallelism"
            yield (*where, name, "data_parallel_size"), message
        for at, message in engine_findings(side):
            if (at, message) not in own:
                yield (*where, name, *at[1:]), message
    if len(sides) == len(SIDES):
        yield from _unlike(*sides)
    if hardware and world > hardware.gpus:
        yield where, f"its engines take {world} GPUs, more than the {hardware.gpus} of {hardware.title}"


def _twice(given: dict[str, Any], side: str) -> Iterator[Finding]:
    """A setting under both of its names."""
    for alias, full in _NAMES.items():
        if {alias, full} <= given.keys():
            yield ("disaggregation", side, alias), f"'{alias}' and '{full}' say the same thing; keep one"


def _unread(item: Any) -> str:
    key = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        return f"'{key}' is not an engine setting"
    return f"'{key}': {said(item)} (found {shown(item['input'])})"


def _unlike(prefill: EngineSettings, decode: EngineSettings) -> Iterator[Finding]:
    for name in _SHARED:
        first, second = getattr(prefill, name), getattr(decode, name)
        if first != second:
            message = f"prefill engines have {name} {first!r} and decode engines {second!r}; one cache is of both"
            yield ("disaggregation", "decode", name), message
