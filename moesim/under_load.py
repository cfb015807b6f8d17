"""A scenario's workload simulated: on one engine, or on prefill and decode engines apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.assembly import Parts, assemble, room_of
from moesim.errors import SpecError
from moesim.memory import fullest_stage, kv_bytes_per_token, require_room
from moesim.serving.disaggregated import Disaggregated, Instance, Transfer
from moesim.serving.engine import clients_of, scheduler_of, simulated, step_prices
from moesim.serving.report import LoadReport, Slo, Timeline
from moesim.serving.requests import of_replica
from moesim.spec.plan import Plan
from moesim.spec.scenario import Disaggregation, Scenario
from moesim.step import StepModel

Steps = dict[str, StepModel]
"""What prices steps that only decode (``decode``), and steps with prompt tokens (``prefill``)."""


def served(
    scenario: Scenario, parts: Parts, slo: Slo, timeline: Timeline | None, progress: Callable[[int], None] | None
) -> tuple[LoadReport, Steps]:
    """(how the run went, what priced its steps)."""
    load = scenario.workload
    report = LoadReport(slo, timeline, arrivals_set_pace=load.arrivals in {"open_loop", "trace"})
    if scenario.disaggregation is not None:
        return _apart(scenario, scenario.disaggregation, report, progress)
    if parts.rank.model.moe is None and parts.rank.plan.dp > 1:
        # Replicas of a dense model do not wait for each other: one of them, and as many alike.
        load, report.copies = of_replica(load, parts.rank.plan.dp), parts.rank.plan.dp
    fullest = fullest_stage(parts.rank, parts.hardware, parts.limits)
    report = simulated(parts.steps, scenario.engine, parts.limits, fullest, load, report, progress)
    return report, {"decode": parts.steps, "prefill": parts.steps}


def sides(scenario: Scenario, apart: Disaggregation) -> dict[str, Scenario]:
    """The scenario as each kind of engine sees it. Raises SpecError."""
    return {
        name: scenario.with_(disaggregation=None, **dict(settings))
        for name, settings in (("prefill", apart.prefill), ("decode", apart.decode))
    }


def memory_side(scenario: Scenario) -> Scenario:
    """The scenario whose memory counts: the decode engines', where those are apart."""
    apart = scenario.disaggregation
    return scenario if apart is None else sides(scenario, apart)["decode"]


def gpus_of(scenario: Scenario) -> int:
    """GPUs of all engines."""
    apart = scenario.disaggregation
    if apart is None:
        return Plan.of(scenario.engine).world
    each = {name: Plan.of(side.engine).world for name, side in sides(scenario, apart).items()}
    return apart.prefill_replicas * each["prefill"] + apart.decode_replicas * each["decode"]


def _apart(
    scenario: Scenario, apart: Disaggregation, report: LoadReport, progress: Callable[[int], None] | None
) -> tuple[LoadReport, Steps]:
    engines: dict[str, list[Instance]] = {}
    parts: dict[str, Parts] = {}
    for name, side in sides(scenario, apart).items():
        mine = parts[name] = assemble(side)
        if mine.rank.plan.dp > 1:
            raise SpecError(f"disaggregation: {name} engines are counted by {name}_replicas, not by data parallelism")
        room = room_of(side, mine)
        if not room.fits:
            require_room(room, mine.rank.model, mine.hardware, 1, ())
        prices = step_prices(mine.steps, mine.limits)
        fullest = fullest_stage(mine.rank, mine.hardware, mine.limits)
        count = apart.prefill_replicas if name == "prefill" else apart.decode_replicas
        schedulers = [scheduler_of(side.engine, mine.limits, fullest) for _ in range(count)]
        engines[name] = [Instance(scheduler, prices) for scheduler in schedulers]
    steps: Steps = {name: mine.steps for name, mine in parts.items()}
    transfer = _transfer(apart, parts["prefill"])
    clients = clients_of(scenario.workload, steps["prefill"], scenario.engine)
    return Disaggregated(engines["prefill"], engines["decode"], transfer, clients, report).run(progress), steps


def _transfer(apart: Disaggregation, prefill: Parts) -> Transfer:
    links: Any = prefill.hardware.links
    rate = apart.kv_transfer_bandwidth or (links.nic or links.gpu_to_gpu).value
    return Transfer(kv_bytes_per_token(prefill.rank), rate, apart.kv_transfer_latency)
