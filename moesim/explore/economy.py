"""What a prediction costs: watts, joules a token, dollars for a million tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moesim.assembly import Parts, assemble
from moesim.cost.cost import Cost
from moesim.cost.power import Utilisation, idle_w, interval_w, power_fit, power_w, utilisation
from moesim.errors import Problem, SpecError
from moesim.hardware.hardware import Hardware
from moesim.inputs.model_of import seen
from moesim.inputs.prices_file import Price, prices_of
from moesim.inputs.scenario import Scenario
from moesim.metrics import Metric
from moesim.outcome import Prediction, Served, Steady
from moesim.serving.engine import scheduler_limits
from moesim.serving.steady import SteadyState, mean_step
from moesim.serving.under_load import gpus_of, memory_side, sides

_HOUR_S, _MILLION = 3600.0, 1e6


@dataclass(frozen=True)
class Economy:
    """Of a run, all GPUs together where nothing else is said. Hosts, cooling and networks are left out."""

    gpus: int
    used: Utilisation
    busy: float
    """Share of the time in which GPUs work."""
    gpu_w: Metric
    """Watts of one GPU."""
    fitted: bool
    """On the GPU that power was fitted on; else its shares of the limit are assumed."""
    joules_per_output_token: Metric
    prices: tuple[Price, ...]
    """Of this GPU, cheapest first; empty where no table says."""
    input_share: float
    """Of the GPUs' time, spent on prompts."""
    seconds_per_input_token: float
    """GPU time of all GPUs, spent on a prompt's token. [s]"""
    seconds_per_output_token: float
    seconds_per_token: float
    """Input and output alike. [s]"""

    def usd_per_million(self, usd_per_gpu_hour: float) -> tuple[float, float, float]:
        """(dollars for a million input tokens, for a million output tokens, for a million of either together)."""
        rate = usd_per_gpu_hour / _HOUR_S * _MILLION
        each = (self.seconds_per_input_token, self.seconds_per_output_token)
        return rate * each[0], rate * each[1], rate * self.seconds_per_token


@dataclass(frozen=True)
class _Work:
    """What GPUs of one kind do in one phase."""

    share: float
    """Of the time, each of them works at it."""
    used: Utilisation


@dataclass(frozen=True)
class _Pool:
    """GPUs that do the same."""

    gpus: int
    hardware: Hardware
    work: tuple[_Work, ...]

    @property
    def busy(self) -> float:
        return min(sum(work.share for work in self.work), 1.0)

    def mean(self, name: str) -> float:
        """Utilisation over the time they work."""
        whole = sum(work.share for work in self.work)
        return sum(work.share * getattr(work.used, name) for work in self.work) / whole if whole else 0.0

    def watts(self, parked: float) -> tuple[float, float, float]:
        """Of one of them, given up a share of the time; (value, low, high). [W]"""
        idle = idle_w(self.hardware)
        more = sum(work.share * (power_w(self.hardware, work.used) - idle) for work in self.work)
        value = max((1.0 - parked) * idle + more, 0.0)
        return value, *interval_w(self.hardware, value)


def check_economy(scenario: Scenario) -> None:
    """Raise SpecError where power is not known."""
    if scenario.offload is not None:
        raise SpecError(
            [Problem("no power is known of copies and of experts on a CPU; leave the offload out", "economy")]
        )


def economy(prediction: Prediction, prices: Path | None = None) -> Economy:
    """Power, energy and price of what a prediction describes. Raises SpecError for a table that cannot be read, and for
    weights off the GPU, whose copies and processors no power was fitted of."""
    check_economy(prediction.scenario)
    pools = _pools(prediction)
    gpus = sum(pool.gpus for pool in pools)
    parked = 0.0
    if isinstance(prediction, Served) and prediction.report.duration_s:
        # GPUs that are given up draw nothing here.
        parked = min(prediction.report.parked_s / prediction.report.duration_s, 1.0)

    def mean(values: Iterable[float]) -> float:
        return sum(pool.gpus * value for pool, value in zip(pools, values, strict=True)) / gpus

    each = [pool.watts(parked) for pool in pools]
    watts, low, high = (mean(one[i] for one in each) for i in range(3))
    out, all_tokens = prediction.metrics["output_throughput"], prediction.metrics["total_token_throughput"]
    assert out is not None and all_tokens is not None
    energy = Metric(gpus * watts / out.value, gpus * low / out.high, gpus * high / max(out.low, 1e-12))
    busy = mean(pool.busy for pool in pools)
    at_work = [pool.gpus * pool.busy for pool in pools]
    used = Utilisation(*(
        sum(w * pool.mean(name) for w, pool in zip(at_work, pools, strict=True)) / max(sum(at_work), 1e-12)
        for name in ("tensor", "hbm", "link")
    ))  # fmt: skip
    kinds = {pool.hardware.name for pool in pools}
    # Idle time belongs to both alike.
    share, input_rate = _input_share(prediction, pools), max(all_tokens.value - out.value, 1e-12)
    return Economy(
        gpus, used, busy, Metric(watts, low, high), kinds == {power_fit().gpu}, energy,
        tuple(prices_of(kinds.pop(), prices)) if len(kinds) == 1 else (), share, gpus * share / input_rate,
        gpus * (1 - share) / out.value, gpus / all_tokens.value,
    )  # fmt: skip


def apart_w(parts: Parts, step: Cost, prefill: tuple[int, float], decode_gpus: int) -> float:
    """What engines apart draw in a steady state: GPUs that compute prompts and their busy share, GPUs that decode. [W]

    Parameters
    ----------
    step : Cost
        A mean step, with a part for each phase.
    """
    kinds = {part.name: utilisation(part, parts.steps.machine) for part in step.children}
    gpus, busy = prefill
    return (
        gpus * _Pool(1, parts.hardware, (_Work(busy, kinds["prefill"]),)).watts(0.0)[0]
        + decode_gpus * (_Pool(1, parts.hardware, (_Work(1.0, kinds["decode"]),)).watts(0.0)[0])
    )


def steady_gpu_w(parts: Parts, state: SteadyState) -> float:
    """What one GPU of an engine draws in a steady state, means alone; its stages work in turn. [W]"""
    plan = parts.rank.plan
    whole = max(float(state.cost.seconds), 1e-30)
    turns = {"decode": min(max(state.running, 1.0) / plan.pp, 1.0)}
    work = tuple(
        _Work((1.0 - state.idle_share) * float(part.seconds) / whole * turns.get(part.name, 1.0),
              utilisation(part, parts.steps.machine))
        for part in state.cost.children
    )  # fmt: skip
    return _Pool(1, parts.hardware, work).watts(0.0)[0]


def _pools(prediction: Prediction) -> list[_Pool]:
    scenario, apart = prediction.scenario, prediction.scenario.disaggregation
    if apart is None or not isinstance(prediction, Served):
        parts = assemble(memory_side(scenario))
        shares, cost = _shares(prediction, parts), prediction.cost
        if isinstance(prediction, Steady):
            load, settings = seen(scenario).workload, scheduler_limits(scenario.engine, parts.limits, parts.rank)
            cost = mean_step(parts.steps, settings, load, prediction.state)
        phases = {part.name: part for part in cost.children}
        work = tuple(_Work(shares[name], utilisation(part, parts.steps.machine)) for name, part in phases.items())
        return [_Pool(gpus_of(scenario), parts.hardware, work)]
    pools, report, phases = [], prediction.report, {part.name: part for part in prediction.cost.children}
    seconds = {"prefill": (report.mixed_s, apart.prefill_replicas), "decode": (report.decode_s, apart.decode_replicas)}
    for name, side in sides(scenario).items():
        parts, (spent, engines) = assemble(side), seconds[name]
        share = spent / (engines * parts.rank.plan.pp * report.duration_s) if report.duration_s else 0.0
        work = (_Work(share, utilisation(phases[name], parts.steps.machine)),) if name in phases else ()
        pools.append(_Pool(engines * parts.rank.plan.world, parts.hardware, work))
    return pools


def _shares(prediction: Prediction, parts: Parts) -> dict[str, float]:
    """Of the time, each GPU works at each phase: stages of a pipeline work in turn, engines have idle time."""
    plan, phases = parts.rank.plan, {part.name: float(part.seconds) for part in prediction.cost.children}
    whole = max(sum(phases.values()), 1e-30)
    if isinstance(prediction, Served):
        report = prediction.report
        engines = plan.dp if parts.rank.model.moe is None else 1
        lasted = max(report.duration_s, 1e-30) * engines * plan.pp
        return {"prefill": report.mixed_s / lasted, "decode": report.decode_s / lasted}
    working = 1.0 - prediction.state.idle_share if isinstance(prediction, Steady) else 1.0
    shares = {name: working * seconds / whole for name, seconds in phases.items()}
    if "decode" in shares:
        # A prompt's steps are the slowest stage's; a token's pass all stages.
        shares["decode"] *= min(float(plan.in_flight(prediction.scenario.workload.size)) / plan.pp, 1.0)
    return shares


def _input_share(prediction: Prediction, pools: list[_Pool]) -> float:
    """Of the GPUs' time, spent on steps with prompts among them."""
    if len(pools) > 1:
        return pools[0].gpus / sum(pool.gpus for pool in pools)
    phases = {part.name: float(part.seconds) for part in prediction.cost.children}
    return phases.get("prefill", 0.0) / max(sum(phases.values()), 1e-30)
