"""A scenario's workload simulated: on one engine, or on prefill and decode engines apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.assembly import Parts, assemble, room_of
from moesim.inputs.checks import side_of
from moesim.inputs.scenario import Disaggregation, Scenario
from moesim.memory import fullest_stage, kv_bytes_per_token, require_room
from moesim.models.plan import Plan
from moesim.serving.disaggregated import Disaggregated, Instance, Transfer
from moesim.serving.engine import clients_of, empty_scheduler, simulated, step_table
from moesim.serving.report import LoadReport, Slo, Timeline
from moesim.serving.requests import shares
from moesim.steps.step import Steps

Pricers = dict[str, Steps]
"""What prices steps that only decode (``decode``), and steps with prompt tokens (``prefill``)."""


def served(
    scenario: Scenario, parts: Parts, slo: Slo, timeline: Timeline | None, progress: Callable[[int], None] | None
) -> tuple[LoadReport, Pricers]:
    """(how the run went, what priced its steps)."""
    load, steps = scenario.workload, parts.steps.resident
    paced = load.arrivals in {"open_loop", "trace"}
    report = LoadReport(slo, timeline, arrivals_set_pace=paced)
    if scenario.disaggregation is not None:
        return _apart(scenario, scenario.disaggregation, report, progress)
    fullest = fullest_stage(parts.rank, parts.hardware, parts.limits)
    pricers: Pricers = {"decode": steps, "prefill": steps}
    replicas = parts.rank.plan.dp if parts.rank.model.moe is None else 1
    if replicas == 1:
        return simulated(steps, scenario.engine, parts.limits, fullest, load, report, progress), pricers
    # Replicas of a dense model do not wait for each other: each kind of share is run once.
    if load.arrivals == "trace":
        runs = [(load, 1, (i, replicas)) for i in range(replicas)]
    else:
        runs = [(part, many, (0, 1)) for part, many in shares(load, replicas)]
    for part, many, which in runs:
        one = LoadReport(slo, timeline, arrivals_set_pace=paced)
        simulated(steps, scenario.engine, parts.limits, fullest, part, one, progress, part=which)
        report.add(one, many)
    return report, pricers


def sides(scenario: Scenario) -> dict[str, Scenario]:
    """The scenario as each kind of engine sees it."""
    return {name: side_of(scenario, name) for name in ("prefill", "decode")}


def memory_side(scenario: Scenario) -> Scenario:
    """The scenario whose memory counts: the decode engines', where those are apart."""
    apart = scenario.disaggregation
    return scenario if apart is None else sides(scenario)["decode"]


def gpus_of(scenario: Scenario) -> int:
    """GPUs of all engines."""
    apart = scenario.disaggregation
    if apart is None:
        return Plan.of(scenario.engine).world
    each = {name: Plan.of(side.engine).world for name, side in sides(scenario).items()}
    return apart.prefill_replicas * each["prefill"] + apart.decode_replicas * each["decode"]


def _apart(
    scenario: Scenario, apart: Disaggregation, report: LoadReport, progress: Callable[[int], None] | None
) -> tuple[LoadReport, Pricers]:
    engines: dict[str, list[Instance]] = {}
    parts: dict[str, Parts] = {}
    for name, side in sides(scenario).items():
        mine = parts[name] = assemble(side)
        room = room_of(side, mine)
        if not room.fits:
            require_room(room, mine.rank.model, mine.hardware, 1, ())
        prices = step_table(mine.steps.resident)
        fullest = fullest_stage(mine.rank, mine.hardware, mine.limits)
        count = apart.prefill_replicas if name == "prefill" else apart.decode_replicas
        schedulers = [empty_scheduler(side.engine, mine.limits, fullest) for _ in range(count)]
        engines[name] = [Instance(scheduler, prices) for scheduler in schedulers]
    steps: Pricers = {name: mine.steps for name, mine in parts.items()}
    transfer = _transfer(apart, parts["prefill"])
    clients = clients_of(scenario.workload, parts["prefill"].steps.resident, scenario.engine)
    return Disaggregated(engines["prefill"], engines["decode"], transfer, clients, report).run(progress), steps


def _transfer(apart: Disaggregation, prefill: Parts) -> Transfer:
    links: Any = prefill.hardware.links
    rate = apart.kv_transfer_bandwidth or (links.nic or links.gpu_to_gpu).value
    rank = prefill.rank
    states = rank.model.state_bytes_per_sequence(rank.tp, rank.kv_bytes)
    return Transfer(kv_bytes_per_token(rank), rate, apart.kv_transfer_latency, states)
