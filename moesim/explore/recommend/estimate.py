"""An engine's deployments in closed form: its steps are priced once, whatever the number of engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moesim.assembly import Parts, assemble
from moesim.engines.scheduling import SchedulerLimits
from moesim.errors import DoesNotFit, SpecError
from moesim.explore.economy import apart_w, steady_gpu_w
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.space import Deployment, Engine
from moesim.inputs.model_of import seen
from moesim.inputs.scenario import Disaggregation, Scenario
from moesim.inputs.workload import Workload
from moesim.memory import Room
from moesim.metrics import LATENCIES, THROUGHPUTS
from moesim.serving.engine import front_end, scheduler_limits
from moesim.serving.priced_steps import PricedSteps, nodes_up_to
from moesim.serving.requests import shares
from moesim.serving.simulation import FrontEnd
from moesim.serving.steady import SteadyState, cache_seats, steady_state
from moesim.serving.steady_apart import apart_state
from moesim.serving.under_load import transfer_of

_NODES = 12
"""Numbers of sequences at which steps are priced: enough to rank engines by; a simulation prices every one."""
_NO_ROOM = "does not fit: no room for a request beside weights and buffers"
_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


class Estimate(NamedTuple):
    """Means of a deployment under its load."""

    deployment: Deployment
    values: dict[str, float]
    """Measure -> value."""
    limited_by: str
    """``clients``, ``rate``, or ``engine`` where seats or cache are full."""


class Excluded(NamedTuple):
    """Deployments that cannot be, and why."""

    deployments: int
    reason: str
    """A kind of reason, by which they are counted."""
    example: str


@dataclass(frozen=True)
class _Ready:
    """An engine ready to be asked for any load of the question's lengths."""

    scenario: Scenario
    parts: Parts
    room: Room
    limits: SchedulerLimits
    seats: float
    front: FrontEnd
    priced: PricedSteps

    def state(self, load: Workload) -> SteadyState:
        return steady_state(self.parts.steps, self.limits, self.seats, load, self.front, self.priced)


def estimates(question: Question, engine: Engine, asked: list[Deployment]) -> list[Estimate | Excluded]:
    """What every deployment of an engine gives, or why it cannot be."""
    name = f"{engine.model} {engine.quantization or 'as published'} on {engine.plan} of {engine.gpu}{engine.extras}"
    try:
        ready = _ready(question, engine)
    except DoesNotFit as error:
        return [Excluded(len(asked), _NO_ROOM, f"{name}: no room for {error}")]
    except SpecError as error:
        return [Excluded(len(asked), "refused by the engine", f"{name}: {error.problems[0].message}")]
    return [_estimate(question, ready, deployment) for deployment in asked]


def _ready(question: Question, engine: Engine) -> _Ready:
    scenario = seen(question.engine_scenario(engine, Deployment(engine).hardware))
    parts, load = assemble(scenario, central=True), scenario.workload
    # One request must fit; how many more there is room for, the load finds out.
    fullest = parts.fullest
    room = fullest[1]
    longest = max(sum(load.longest()), scenario.engine.max_model_len or 0)
    if room.kv_available <= 0 or room.longest_alone < longest:
        raise DoesNotFit(f"a request of {longest:,} tokens on {parts.hardware.title}", room.shortfall, room)
    limits = scheduler_limits(scenario.engine, parts.limits, fullest[0])
    seats = cache_seats(fullest, parts.limits.block_size, load)
    front = front_end(parts.steps.resident, scenario.engine, load)
    most = min(seats, limits.max_num_seqs, load.max_concurrency or float("inf"))
    return _Ready(
        scenario, parts, room, limits, seats, front, PricedSteps(parts.steps, limits, nodes_up_to(most, _NODES), load)
    )  # fmt: skip


def _estimate(question: Question, ready: _Ready, deployment: Deployment) -> Estimate | Excluded:
    load = ready.scenario.workload
    if deployment.prefill:
        return _apart(question, ready, deployment, load)
    parts = shares(load, deployment.replicas)
    used, part = sum(like_it for _, like_it in parts), parts[0][0]
    if used < deployment.replicas:
        return Excluded(
            1, "engines without a client or a request", f"{deployment.describe()} uses {used} of its engines"
        )
    state = ready.state(part)
    if load.request_rate and state.limited_by != "rate":
        return _too_slow(deployment, state.request_rate * deployment.replicas, load.request_rate)
    # Engines with one client fewer answer in the time of the fullest, at most.
    many = deployment.replicas if not load.max_concurrency else load.max_concurrency / (part.max_concurrency or 1)
    times: dict[str, float] = dict(zip(LATENCIES, (state.ttft_s, state.tpot_s, state.itl_s, state.e2el_s), strict=True))
    found = _values(question, ready, deployment, times, state.request_rate * many, state.running)
    for name, chance in _QUANTILES.items():
        found[f"{name}_ttft"] = state.ttft_quantile_s(chance, ready.limits, part, ready.front)
    if question.of_power:
        found |= _power(ready, state, deployment, found["output_throughput"])
    return Estimate(deployment, found, state.limited_by)


def _apart(question: Question, ready: _Ready, deployment: Deployment, load: Workload) -> Estimate | Excluded:
    transfer = transfer_of(Disaggregation(), ready.parts).seconds(round(load.mean_input_len))
    engines, most = (deployment.prefill, deployment.replicas), min(ready.seats, ready.limits.max_num_seqs)
    state = apart_state(ready.priced, most, load, ready.front, engines, transfer)
    if not state.keeps_up:
        return _too_slow(deployment, state.request_rate, load.request_rate or 0.0)
    whole = state.ttft_s + (load.mean_output_len - 1) * state.tpot_s
    times: dict[str, float] = dict(zip(LATENCIES, (state.ttft_s, state.tpot_s, state.tpot_s, whole), strict=True))
    found = _values(question, ready, deployment, times, state.request_rate, state.running)
    if load.max_concurrency:
        # Those that begin at once wait in front of the prefill engines.
        front, turn = ready.front, ready.front.reading_s(load.mean_input_len, 0)
        mine = -(-load.max_concurrency // deployment.prefill)
        burst = ready.priced.burst(mine, ready.limits.max_num_batched_tokens, front.request_s, turn) + transfer
        found |= {f"{name}_ttft": max(float(np.quantile(burst, max(10.0 * chance - 9.0, 0.0))), state.ttft_s)
                  for name, chance in _QUANTILES.items()}  # fmt: skip
    if question.of_power:
        step = ready.priced.cost(state.running, max(load.mean_output_len - 1.0, 1.0))
        gpus = deployment.engine.world
        watts = apart_w(ready.parts, step, (deployment.prefill * gpus, state.prefill_busy), deployment.replicas * gpus)
        found |= {"watts": watts, "joules_per_output_token": watts / found["output_throughput"]}
    return Estimate(deployment, found, "clients" if load.max_concurrency else "rate")


def _too_slow(deployment: Deployment, rate: float, asked: float) -> Excluded:
    where = f"{deployment.describe()} of {deployment.engine.gpu}"
    return Excluded(1, "cannot keep up with the request rate", f"{where} answers {rate:.3g} of {asked:g} a second")


def _values(
    question: Question, ready: _Ready, deployment: Deployment, times: dict[str, float], rate: float, running: float
) -> dict[str, float]:
    load, gpus, room = ready.scenario.workload, deployment.gpus, ready.room
    out, every = rate * load.mean_output_len, rate * (load.mean_input_len + load.mean_output_len)
    held = running * ready.seats and room.kv_available * min(running / ready.seats, 1.0)
    found = {
        # Of TTFT's statistics better is known; the others are near their means but for what simulations say.
        **{f"{statistic}_{name}": value for name, value in times.items() for statistic in ("mean", *_QUANTILES)},
        **dict(zip(THROUGHPUTS, (rate, out, every), strict=True)),
        "output_throughput_per_gpu": out / gpus,
        "gpus": float(gpus),
        "gpu_memory": room.usable - room.kv_available + held,
    }
    return found | _prices(question, deployment, out, every)


def _prices(question: Question, deployment: Deployment, out: float, every: float) -> dict[str, float]:
    hourly = question.usd_per_hour(deployment)
    if hourly is None:
        return {}
    return {
        "usd_per_hour": hourly,
        "usd_per_million_tokens": hourly / 3600.0 / every * 1e6,
        "usd_per_million_output_tokens": hourly / 3600.0 / out * 1e6,
    }


def _power(ready: _Ready, state: SteadyState, deployment: Deployment, out: float) -> dict[str, float]:
    watts = deployment.gpus * steady_gpu_w(ready.parts, state)
    return {"watts": watts, "joules_per_output_token": watts / out}
