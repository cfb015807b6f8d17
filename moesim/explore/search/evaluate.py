"""One configuration after the other, priced by central values alone; what does not change is priced once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def figures(
    scenario: Scenario, configurations: Iterable[dict[str, Any]], refusals: list[str]
) -> Iterator[tuple[dict[str, Any], Figures]]:
    """Price every configuration that the model and the GPU allow; why others are not goes to ``refusals``.

    Parameters
    ----------
    scenario : Scenario
        Model, hardware, host, workload and routing; of its own ``offload`` only bandwidths and a
        remote GPU are kept.
    configurations : iterable of dict
        Settings of ``offload``.
    """
    bases: dict[tuple[str, str, str], tuple[Parts, dict[Any, Any]] | None] = {}
    load = scenario.workload
    for settings in configurations:
        key = (settings["system"], settings["experts_format"], settings["attention_format"])
        if key not in bases:
            bases[key] = _base(scenario, key, refusals)
        base = bases[key]
        if base is None:
            continue
        parts, shared = base
        offloaded = offloaded_of(parts.steps)
        assert parts.offload is not None and offloaded is not None
        before = parts.offload
        policy = filled(Offload(**settings, **_machine(scenario)), before.system)
        plan = placed(before.system, policy, before.rank, before.hardware, before.host, parts.limits, before.work)
        requests = replace(offloaded.requests, policy=policy) if offloaded.requests else None
        steps = with_drafts(QuickSteps(offloaded.resident, plan, requests, shared), parts.limits)
        batch = static_batch(
            steps, load.size, load.input_len, load.output_len, parts.limits.max_num_batched_tokens, samples=_SAMPLES
        )
        tiers = plan.tiers
        yield settings, Figures(*_latencies(batch), tiers.gpu, tiers.dram, tiers.disk, tiers.shortfalls)


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


def _base(scenario: Scenario, key: tuple[str, str, str], refusals: list[str]) -> tuple[Parts, dict[Any, Any]] | None:
    """The parts that all configurations of a system and its formats share; None where they cannot run here."""
    system, experts, attention = key
    offload = {"system": system, "experts_format": experts, "attention_format": attention, **_machine(scenario)}
    model = model_of(scenario)
    if load_system(system).policy.unit == "layer" or model.moe is None:
        offload |= {"n_gpu_layers": 0}
    try:
        return assemble(scenario.with_(offload=offload)), {}
    except SpecError as error:
        refusals.append(error.problems[0].message)
        return None
