"""All amounts of one way at once, priced by central values alone; what does not change is priced once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from moesim.assembly import Parts, assemble, offloaded_of, with_drafts
from moesim.cost.cost import Cost
from moesim.errors import SpecError
from moesim.inputs.model_of import model_of
from moesim.inputs.offload import Offload
from moesim.inputs.scenario import Scenario
from moesim.inputs.system_file import load_system
from moesim.metrics import throughputs, time_per_token
from moesim.offload.plan import OffloadPlan, Site, filled, placed, stacked
from moesim.offload.steps import OffloadedSteps
from moesim.ops.load import Load
from moesim.serving.static import StaticBatch, static_batch

METRICS = {
    "tpot": "s", "ttft": "s", "gpu_memory": "B", "main_memory": "B", "disk": "B", "output_throughput": "tok/s",
}  # fmt: skip
"""What every configuration has, with the unit a constraint is written in; quality metrics have none."""
_SAMPLES = 2
_OF_STEPS = ("sequences", "query", "past")
_Times = tuple[float, float | None, float]
"""(mean time to first token, time a token, output tokens a second)."""


@dataclass(frozen=True)
class QuickSteps(OffloadedSteps):
    """Steps of several plans at once, which a load has as points; seconds alone, without intervals or a tree.

    What runs on the GPU is priced once for all plans, and shared among ways.
    """

    shared: dict[Any, Any] = field(default_factory=dict, compare=False)

    def cost(self, name: str, load: Load, sampled: Any, encoder: bool = False) -> Cost:
        points, shape = self.plan.points, load.shape
        if points > 1:
            sampled, load = _first_point(sampled, shape, points), _load_of_one(load, shape, points)
        key = (name, encoder, self.plan.policy.skipped_share, self.plan.plain)
        if self.plan.plain:
            if key not in self.shared:
                self.shared[key] = super().cost(name, load, sampled, encoder)
            return self.shared[key]
        if key not in self.shared:
            self.shared[key] = (self.kinds(load, encoder), self.beside(load, sampled, encoder))
        kinds, beside = self.shared[key]
        seconds = self.seconds(name, load, encoder, kinds, beside)
        return Cost(name, np.broadcast_to(seconds, (points, int(np.prod(shape)) // points)).reshape(shape), {})


@dataclass(frozen=True)
class Figures:
    """What a configuration gives. SI units."""

    ttft: float
    tpot: float | None
    """None where a single token comes out."""
    output_throughput: float
    gpu_memory: float
    main_memory: float
    disk: float
    shortfalls: dict[str, float]


class Pricer:
    """Prices configurations; what a system and its formats share is worked out once.

    Parameters
    ----------
    scenario : Scenario
        Model, hardware, host, workload and routing; of its own ``offload`` only bandwidths and a remote GPU are kept.
    refusals : list of str
        Takes why what the model or the GPU does not allow is not priced.
    """

    def __init__(self, scenario: Scenario, refusals: list[str]) -> None:
        self.scenario, self.refusals = scenario, refusals
        self.bases: dict[tuple[str, str, str, int], tuple[Parts, Site, dict[Any, Any]] | None] = {}

    def figures(self, ways: Sequence[dict[str, Any]], gpus: int) -> list[Figures]:
        """What settings of an ``offload`` that differ in their amount alone give on so many GPUs; none if refused."""
        first = ways[0]
        key = (first["system"], first["experts_format"], first["attention_format"], gpus)
        if key not in self.bases:
            self.bases[key] = _base(self.scenario, *key, self.refusals)
        base = self.bases[key]
        if base is None:
            return []
        parts, site, shared = base
        machine = _machine(self.scenario)
        plans = [placed(site, filled(Offload(**settings, **machine), site.system)) for settings in ways]
        times: dict[int, _Times] = {}
        for together in _together(plans):
            times |= dict(zip(together, self._times(parts, [plans[i] for i in together], shared), strict=False))
        # With everything on the GPU it is always the same.
        resident = next((i for i, plan in enumerate(plans) if plan.everything_resident), 0)
        return [
            Figures(*times.get(i, times[resident]), p.tiers.gpu, p.tiers.dram, p.tiers.disk, p.tiers.shortfalls)
            for i, p in enumerate(plans)
        ]

    def _times(self, parts: Parts, plans: list[OffloadPlan], shared: dict[Any, Any]) -> Iterator[_Times]:
        offloaded, load = offloaded_of(parts.steps), self.scenario.workload
        assert offloaded is not None
        plan = stacked(plans) if len(plans) > 1 else plans[0]
        requests = replace(offloaded.requests, policy=plan.policy) if offloaded.requests else None
        steps = with_drafts(QuickSteps(offloaded.resident, plan, requests, shared), parts.limits)
        batch = static_batch(
            steps, np.full(len(plans), load.size), np.full(len(plans), load.input_len),
            np.full(len(plans), load.output_len), parts.limits.max_num_batched_tokens, samples=_SAMPLES, alike=False,
        )  # fmt: skip
        return _latencies(batch)


def _together(plans: list[OffloadPlan]) -> Iterator[list[int]]:
    """Which plans to price, and which of them as one of arrays: those that hold experts, some of them off the GPU."""
    resident = [i for i, plan in enumerate(plans) if plan.everything_resident]
    off = [i for i in range(len(plans)) if i not in resident]
    if plans[0].by_layer:
        yield from ([i] for i in off)
    elif off:
        yield off
    if resident:
        yield resident[:1]


def _load_of_one(load: Load, shape: tuple[int, ...], points: int) -> Load:
    """The steps of the first of equal points."""
    groups = tuple(
        group._replace(**{name: _first_point(getattr(group, name), shape, points) for name in _OF_STEPS})
        for group in load.groups
    )
    rest = {f.name: _first_point(getattr(load, f.name), shape, points) for f in fields(load) if f.name != "groups"}
    return Load(groups, **rest)


def _first_point(x: Any, shape: tuple[int, ...], points: int) -> Any:
    """Numbers of a load's steps, which come point by point, of the first point alone."""
    return np.broadcast_to(x, shape).reshape(points, -1)[0] if np.size(x) > 1 else x


def changes_of(settings: dict[str, Any], gpus: int) -> dict[str, Any]:
    """A configuration as changes of a scenario: its offload, and how its system runs on several GPUs."""
    several = load_system(settings["system"]).runtime.several_gpus
    sizes = {"engine.tensor_parallel_size": 1, "engine.pipeline_parallel_size": 1}
    sizes[f"engine.{'pipeline' if several == 'layers' else 'tensor'}_parallel_size"] = gpus
    return {"offload": settings, **sizes}


def _latencies(batch: StaticBatch) -> Iterator[_Times]:
    """Of each point."""
    ends, firsts = (np.broadcast_to(x, batch.batch.shape).tolist() for x in (batch.end_s, batch.ttft_s))
    for size, output_len, end, ttft in zip(batch.batch.tolist(), batch.output_len.tolist(), ends, firsts, strict=True):
        tpot = time_per_token(end, ttft, output_len) if output_len > 1 else None
        yield ttft, tpot, throughputs(size, 0, size * output_len, end)["output_throughput"]


def _machine(scenario: Scenario) -> dict[str, Any]:
    """What a scenario's own ``offload`` says of the machine rather than of a system."""
    offload = scenario.offload
    if offload is None:
        return {}
    names = ("host_bandwidth", *(("backing", "remote_bandwidth") if offload.backing == "remote_gpu" else ()))
    return {name: value for name in names if (value := getattr(offload, name)) is not None}


def _base(
    scenario: Scenario, system: str, experts: str, attention: str, gpus: int, refusals: list[str]
) -> tuple[Parts, Site, dict[Any, Any]] | None:
    """The parts that all configurations of a system and its formats share; None where they cannot run here."""
    offload = {"system": system, "experts_format": experts, "attention_format": attention, **_machine(scenario)}
    model = model_of(scenario)
    if load_system(system).policy.unit == "layer" or model.moe is None:
        offload |= {"n_gpu_layers": 0}
    try:
        parts = assemble(scenario.with_(**changes_of(offload, gpus)))
    except SpecError as error:
        refusals.append(error.problems[0].message)
        return None
    plan = parts.offload
    assert plan is not None
    return parts, Site(plan.system, plan.rank, plan.hardware, plan.host, parts.limits, plan.work, plan.split), {}
