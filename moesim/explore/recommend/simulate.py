"""Finalists by simulation: every measure of a whole deployment, with its interval."""

from __future__ import annotations

from typing import NamedTuple

from moesim.errors import DoesNotFit, SpecError
from moesim.explore.constraints import Constraint, value_text
from moesim.explore.economy import economy
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.space import Deployment
from moesim.inputs.scenario import Scenario
from moesim.memory import Room
from moesim.metrics import LATENCIES, THROUGHPUTS, Metric
from moesim.outcome import Prediction, Served
from moesim.prediction import predict


class Simulated(NamedTuple):
    """A deployment's run, or why there is none."""

    deployment: Deployment
    scenario: Scenario | None
    engines_like_it: int
    prediction: Prediction | None
    values: dict[str, Metric]
    problem: str


def simulated(question: Question, deployment: Deployment) -> Simulated:
    """Run one of a deployment's engines under its part of the load."""
    try:
        scenario, many = question.scenario_of(deployment)
        prediction = predict(scenario)
    except (SpecError, DoesNotFit) as error:
        problem = error.problems[0].message if isinstance(error, SpecError) else str(error)
        return Simulated(deployment, None, 1, None, {}, problem)
    return Simulated(deployment, scenario, many, prediction, _values(question, deployment, prediction, many), "")


def _values(question: Question, deployment: Deployment, prediction: Prediction, many: int) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for name in LATENCIES:
        for statistic in ("mean", "median", "p90", "p99"):
            metric = prediction.metrics.get(f"{statistic}_{name}_ms")
            if metric is not None:
                found[f"{statistic}_{name}"] = _scaled(metric, 1e-3)
    load = question.scenario.workload
    # Engines with a client fewer answer no slower than the fullest, which was run.
    part = prediction.scenario.workload.max_concurrency
    share = load.max_concurrency / part if load.max_concurrency and part and many > 1 else float(many)
    for name in THROUGHPUTS:
        metric = prediction.metrics[name]
        assert metric is not None
        found[name] = _scaled(metric, share)
    measured = found["output_throughput"]
    if load.request_rate and _keeps_up(prediction):
        # Ramp and tail of a run are nobody's service: what is asked for is what is answered.
        requests = (1.0, load.mean_output_len, load.mean_input_len + load.mean_output_len)
        for name, each in zip(THROUGHPUTS, requests, strict=True):
            found[name] = _exact(load.request_rate * each)
    gpus = deployment.gpus
    found["output_throughput_per_gpu"] = _scaled(found["output_throughput"], 1.0 / gpus)
    found["gpus"] = _exact(gpus)
    about = economy(prediction)
    watts = about.gpu_w
    found["watts"] = _scaled(watts, gpus)
    energy = measured.value / found["output_throughput"].value
    found["joules_per_output_token"] = _scaled(about.joules_per_output_token, energy)
    if isinstance(prediction.memory, Room) and isinstance(prediction, Served):
        room, used = prediction.memory, prediction.report.kv_used.peak
        held = room.usable - room.kv_available + used * room.kv_available
        found["gpu_memory"] = _exact(held)
    hourly = question.usd_per_hour(deployment)
    if hourly is not None:
        found["usd_per_hour"] = _exact(hourly)
        for name, of in (("tokens", "total_token_throughput"), ("output_tokens", "output_throughput")):
            rate = found[of]
            ends = (hourly / 3600.0 / value * 1e6 for value in (rate.value, rate.high, max(rate.low, 1e-12)))
            found[f"usd_per_million_{name}"] = Metric(*ends)
    for name, value in question.quality_values(deployment.engine).items():
        if value is not None:
            found[name] = _exact(value)
    return found


def _keeps_up(prediction: Prediction) -> bool:
    """Whether requests are answered as fast as they come."""
    if not isinstance(prediction, Served):
        return False
    report = prediction.report
    return report.arrivals_set_pace and report.waiting.mean <= report.running.mean


def _exact(value: float) -> Metric:
    return Metric(value, value, value)


def _scaled(metric: Metric, factor: float) -> Metric:
    return Metric(metric.value * factor, metric.low * factor, metric.high * factor)


def broken(values: dict[str, Metric], limits: tuple[Constraint, ...]) -> tuple[str, ...]:
    """Limits that are not kept, in sentences."""
    found = []
    for limit in limits:
        metric = values.get(limit.metric)
        if metric is None:
            found.append(f"{limit.metric} is not known")
        elif not limit.keeps(metric.value):
            where = "above" if limit.upper else "below"
            value = value_text(metric.value, limit.unit)
            found.append(f"{limit.metric} is {value}, {where} {value_text(limit.limit, limit.unit)}")
    return tuple(found)
