"""One configuration after the other, priced by central values alone; what does not change is priced once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
from moesim.offload.plan import filled, placed
from moesim.offload.steps import OffloadedSteps
from moesim.ops.load import Load
from moesim.serving.static import static_batch

METRICS = {
    "tpot": "s", "ttft": "s", "gpu_memory": "B", "main_memory": "B", "disk": "B", "output_throughput": "tok/s",
}  # fmt: skip
"""What every configuration has, with the unit a constraint is written in; quality metrics have none."""
_SAMPLES = 2


@dataclass(frozen=True)
class QuickSteps(OffloadedSteps):
    """The same steps without intervals or a tree: seconds alone, GPU prices shared among configurations."""

    shared: dict[Any, Any] = field(default_factory=dict, compare=False)

    def cost(self, name: str, load: Load, sampled: Any, encoder: bool = False) -> Cost:
        key = (name, encoder, self.plan.policy.skipped_share, self.plan.plain)
        if self.plan.plain:
            if key not in self.shared:
                self.shared[key] = super().cost(name, load, sampled, encoder)
            return self.shared[key]
        if key not in self.shared:
            self.shared[key] = (self.kinds(load, encoder), self.beside(load, sampled, encoder))
        kinds, beside = self.shared[key]
        return Cost(name, self.seconds(name, load, encoder, kinds, beside), {})


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
    """Prices one configuration after the other; what a system and its formats share is worked out once.

    Parameters
    ----------
    scenario : Scenario
        Model, hardware, host, workload and routing; of its own ``offload`` only bandwidths and a remote GPU are kept.
    refusals : list of str
        Takes why what the model or the GPU does not allow is not priced.
    """

    def __init__(self, scenario: Scenario, refusals: list[str]) -> None:
        self.scenario, self.refusals = scenario, refusals
        self.bases: dict[tuple[str, str, str, int], tuple[Parts, dict[Any, Any]] | None] = {}

    def figures(self, settings: dict[str, Any], gpus: int) -> Figures | None:
        """What the settings of an ``offload`` give on so many GPUs."""
        key = (settings["system"], settings["experts_format"], settings["attention_format"], gpus)
        if key not in self.bases:
            self.bases[key] = _base(self.scenario, *key, self.refusals)
        base = self.bases[key]
        if base is None:
            return None
        parts, shared = base
        offloaded, load = offloaded_of(parts.steps), self.scenario.workload
        assert parts.offload is not None and offloaded is not None
        before = parts.offload
        policy = filled(Offload(**settings, **_machine(self.scenario)), before.system)
        plan = placed(
            before.system, policy, before.rank, before.hardware, before.host, parts.limits, before.work, before.split
        )
        requests = replace(offloaded.requests, policy=policy) if offloaded.requests else None
        steps = with_drafts(QuickSteps(offloaded.resident, plan, requests, shared), parts.limits)
        batch = static_batch(
            steps, load.size, load.input_len, load.output_len, parts.limits.max_num_batched_tokens, samples=_SAMPLES
        )
        tiers = plan.tiers
        return Figures(*_latencies(batch), tiers.gpu, tiers.dram, tiers.disk, tiers.shortfalls)


def changes_of(settings: dict[str, Any], gpus: int) -> dict[str, Any]:
    """A configuration as changes of a scenario: its offload, and how its system runs on several GPUs."""
    several = load_system(settings["system"]).runtime.several_gpus
    sizes = {"engine.tensor_parallel_size": 1, "engine.pipeline_parallel_size": 1}
    sizes[f"engine.{'pipeline' if several == 'layers' else 'tensor'}_parallel_size"] = gpus
    return {"offload": settings, **sizes}


def _latencies(batch: Any) -> tuple[float, float | None, float]:
    """(mean time to first token, time a token, output tokens a second)."""
    output_len, end = batch.output_len.item(), np.asarray(batch.end_s).item()
    ttft, outputs = np.asarray(batch.ttft_s).item(), batch.batch.item() * output_len
    tpot = time_per_token(end, ttft, output_len) if output_len > 1 else None
    return ttft, tpot, throughputs(batch.batch.item(), 0, outputs, end)["output_throughput"]


def _machine(scenario: Scenario) -> dict[str, Any]:
    """What a scenario's own ``offload`` says of the machine rather than of a system."""
    offload = scenario.offload
    if offload is None:
        return {}
    names = ("host_bandwidth", *(("backing", "remote_bandwidth") if offload.backing == "remote_gpu" else ()))
    return {name: value for name in names if (value := getattr(offload, name)) is not None}


def _base(
    scenario: Scenario, system: str, experts: str, attention: str, gpus: int, refusals: list[str]
) -> tuple[Parts, dict[Any, Any]] | None:
    """The parts that all configurations of a system and its formats share; None where they cannot run here."""
    offload = {"system": system, "experts_format": experts, "attention_format": attention, **_machine(scenario)}
    model = model_of(scenario)
    if load_system(system).policy.unit == "layer" or model.moe is None:
        offload |= {"n_gpu_layers": 0}
    try:
        return assemble(scenario.with_(**changes_of(offload, gpus))), {}
    except SpecError as error:
        refusals.append(error.problems[0].message)
        return None
