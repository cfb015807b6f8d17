"""A scenario's workload simulated: on one engine, or on prefill and decode engines apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.assembly import Parts, assemble, room_of
from moesim.engines.settings import EngineSettings
from moesim.hardware.host import load_host
from moesim.inputs.apart import side_of
from moesim.inputs.policies import Fallback
from moesim.inputs.routing import Uniform
from moesim.inputs.scenario import Disaggregation, Scenario
from moesim.inputs.variant import Variant
from moesim.memory import kv_bytes_per_token, require_room, weight_bytes
from moesim.models.plan import Plan
from moesim.serving.disaggregated import Disaggregated, Instance, Transfer
from moesim.serving.engine import clients_of, empty_scheduler, simulated, step_table
from moesim.serving.policies import Beside, ByQueue
from moesim.serving.report import LoadReport, Slo, Timeline
from moesim.serving.requests import shares
from moesim.steps.step import Steps

Pricers = dict[str, Steps]
"""What prices steps that only decode (``decode``), and steps with prompt tokens (``prefill``)."""


def served(
    scenario: Scenario, parts: Parts, slo: Slo, timeline: Timeline | None, progress: Callable[[int], None] | None
) -> tuple[LoadReport, Pricers]:
    """(how the run went, what priced its steps)."""
    load, steps = scenario.workload, parts.steps if parts.off_gpu else parts.steps.resident
    paced = load.arrivals in {"open_loop", "trace"}
    report = LoadReport(slo, timeline, arrivals_set_pace=paced)
    if scenario.disaggregation is not None:
        return _apart(scenario, scenario.disaggregation, report, progress)
    if scenario.policies is not None and scenario.policies.fallback is not None:
        return _beside(scenario, scenario.policies.fallback, parts, report, progress)
    fullest = parts.fullest
    pricers: Pricers = {"decode": steps, "prefill": steps}
    replicas = parts.rank.plan.dp if parts.rank.model.moe is None else 1
    if replicas == 1:
        prices, sleep = _by_queue(scenario, steps), _sleep(scenario, parts)
        found = simulated(
            steps, scenario.engine, parts.limits, fullest, load, report, progress, prices=prices, sleep=sleep
        )
        if prices is not None:
            found.tokens_under = {f"top-{k}": tokens for k, tokens in sorted(prices.tokens.items(), reverse=True)}
        return found, pricers
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


def _by_queue(scenario: Scenario, steps: Steps) -> ByQueue | None:
    """Prices under fewer experts a token, where a policy has them fall with the queue."""
    policies, ffn = scenario.policies, steps.rank.model.moe
    if policies is None or not policies.top_k or ffn is None:
        return None
    variant = scenario.variant or Variant()
    fewer = []
    for rule in policies.top_k:
        changed = variant.model_copy(update={"num_experts_per_tok": rule.num_experts_per_tok})
        other = assemble(scenario.model_copy(update={"variant": changed})).steps.resident
        fewer.append((rule.above_waiting, rule.num_experts_per_tok, step_table(other)))
    return ByQueue(step_table(steps), fewer, ffn.num_experts_per_tok)


def _sleep(scenario: Scenario, parts: Parts) -> tuple[float, float] | None:
    """(idle time, time to come back): weights over the slower of link and disk, and the start. [s]"""
    parking = scenario.policies.parking if scenario.policies else None
    if parking is None:
        return None
    host = load_host(scenario.host or parts.hardware.host)
    rank, link = parts.rank, parts.hardware.links.host.value
    each = weight_bytes(rank)
    # GPUs of a node share its disk, each has a link of its own.
    there = min(rank.plan.world, parts.hardware.gpus_per_node)
    copy = max(each / link, each * there / host.disk.bandwidth.value)
    return parking.after, parking.start + copy


def _beside(
    scenario: Scenario, fallback: Fallback, parts: Parts, report: LoadReport, progress: Callable[[int], None] | None
) -> tuple[LoadReport, Pricers]:
    """The scenario's engine, and another model's for what comes while it is full."""
    other = fallback_of(scenario, fallback)
    instances = []
    for side, mine in ((scenario, parts), (other, assemble(other))):
        room = room_of(side, mine)
        if not room.fits:
            require_room(room, mine.rank.model, mine.hardware, 1, ())
        fullest = mine.fullest
        instances.append(Instance(empty_scheduler(side.engine, mine.limits, fullest), step_table(mine.steps.resident)))
    steps = parts.steps.resident
    clients = clients_of(scenario.workload, steps, scenario.engine)
    pricers: Pricers = {"decode": steps, "prefill": steps}
    return Beside(instances[0], instances[1], fallback.above_running, clients, report).run(progress), pricers


def fallback_of(scenario: Scenario, fallback: Fallback) -> Scenario:
    """The scenario as the fallback's engine sees it. Raises SpecError."""
    engine = EngineSettings.model_validate(fallback.engine)
    return scenario.model_copy(
        update={
            "model": fallback.model, "hardware": fallback.hardware or scenario.hardware, "engine": engine,
            "policies": None, "variant": None, "routing": Uniform(known=False), "placement_routing": None,
        }
    )  # fmt: skip


def sides(scenario: Scenario) -> dict[str, Scenario]:
    """The scenario as each kind of engine sees it."""
    return {name: side_of(scenario, name) for name in ("prefill", "decode")}


def memory_side(scenario: Scenario) -> Scenario:
    """The scenario whose memory counts: the decode engines', where those are apart."""
    apart = scenario.disaggregation
    return scenario if apart is None else sides(scenario)["decode"]


def gpus_of(scenario: Scenario) -> int:
    """GPUs of all engines."""
    apart, policies = scenario.disaggregation, scenario.policies
    if apart is None:
        beside = Plan.of(fallback_of(scenario, policies.fallback).engine).world if policies and policies.fallback else 0
        return Plan.of(scenario.engine).world + beside
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
        fullest = mine.fullest
        count = apart.prefill_replicas if name == "prefill" else apart.decode_replicas
        schedulers = [empty_scheduler(side.engine, mine.limits, fullest) for _ in range(count)]
        engines[name] = [Instance(scheduler, prices) for scheduler in schedulers]
    steps: Pricers = {name: mine.steps for name, mine in parts.items()}
    transfer = transfer_of(apart, parts["prefill"])
    clients = clients_of(scenario.workload, parts["prefill"].steps.resident, scenario.engine)
    return Disaggregated(engines["prefill"], engines["decode"], transfer, clients, report).run(progress), steps


def transfer_of(apart: Disaggregation, prefill: Parts) -> Transfer:
    """How a prompt's keys and values leave a prefill engine."""
    links: Any = prefill.hardware.links
    rate = apart.kv_transfer_bandwidth or (links.nic or links.gpu_to_gpu).value
    rank = prefill.rank
    states = rank.model.state_bytes_per_sequence(rank.tp, rank.kv_bytes)
    return Transfer(kv_bytes_per_token(rank), rate, apart.kv_transfer_latency, states)
