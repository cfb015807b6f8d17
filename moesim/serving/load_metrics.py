"""A run under load as vLLM bench's metrics with 90 % intervals, and as a cost tree of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, reduced, relative_interval, summed
from moesim.ops.attention import Group
from moesim.pipeline import whole_step
from moesim.serving.measures import Distribution
from moesim.serving.pricing import Composition
from moesim.serving.report import LoadReport
from moesim.serving.steady import SteadyState
from moesim.spec.workload import Workload
from moesim.step import StepModel

Interval = tuple[float, float, float]

LATENCIES = ("ttft", "tpot", "itl", "e2el")
STATISTICS = ("mean", "median", "std", "p90", "p99")


THROUGHPUTS = ("request_throughput", "output_throughput", "total_token_throughput")
LOAD_METRICS = (*(f"{s}_{name}_ms" for name in LATENCIES for s in STATISTICS), *THROUGHPUTS)
"""Every metric of a run under load."""


def load_cost(steps: Mapping[str, StepModel], report: LoadReport) -> Cost:
    """The run's steps as a tree: those that only decode, and those with prompt tokens among them. [s]

    Parameters
    ----------
    steps : mapping
        What prices either kind: ``decode``, ``prefill``.
    """
    parts = []
    for name, sample, seconds in (
        ("decode", report.decode_steps, report.decode_s),
        ("prefill", report.mixed_steps, report.mixed_s),
    ):
        if not sample.items or seconds <= 0:
            continue
        priced = [_priced(steps[name], name, group) for group in _alike(sample.items)]
        whole = priced[0] if len(priced) == 1 else _merged(name, priced)
        scale = seconds / float(whole.seconds)
        parts.append(reduced(whole, lambda x, scale=scale: np.asarray(x, float).item() * scale))
    return summed("run", parts)


def _alike(compositions: Sequence[Composition]) -> list[list[Composition]]:
    """Groups of steps with equally many prompt chunks, and all or none with decodes: one formula each."""
    groups: dict[tuple[int, bool], list[Composition]] = {}
    for item in compositions:
        groups.setdefault((len(item.prefills), item.decodes > 0), []).append(item)
    return list(groups.values())


def _priced(steps: StepModel, name: str, alike: Sequence[Composition]) -> Cost:
    """The summed cost of steps that differ in numbers alone."""
    one = np.ones(len(alike), np.int64)
    chunks = [
        Group(one, *(np.array([item.prefills[i][j] for item in alike]) for j in (0, 1)))
        for i in range(len(alike[0].prefills))
    ]
    decodes = np.array([item.decodes for item in alike])
    if decodes[0]:
        chunks.append(Group(decodes, one, np.array([item.context for item in alike])))
    sampled = np.array([item.sampled for item in alike])
    cost = whole_step(steps, name, steps.load(tuple(chunks)), sampled)
    return reduced(cost, lambda x: np.broadcast_to(np.asarray(x, float), one.shape).sum())


def _merged(name: str, costs: Sequence[Cost]) -> Cost:
    """One tree of several: operations of the same name and place add up."""
    first = costs[0]
    if not first.children:
        return _added(name, costs, [])
    names = dict.fromkeys(child.name for cost in costs for child in cost.children)
    children = [_merged(n, same) for n in names if (same := _named(costs, n))]
    return _added(name, costs, children)


def _named(costs: Sequence[Cost], name: str) -> list[Cost]:
    return [child for cost in costs for child in cost.children if child.name == name]


def _added(name: str, costs: Sequence[Cost], children: list[Cost]) -> Cost:
    seconds: Any = sum(cost.seconds for cost in costs)
    spread: dict[str, tuple[Any, Any]] = {}
    for cost in costs:
        for family, (down, up) in cost.spread.items():
            before = spread.get(family, (0.0, 0.0))
            spread[family] = (before[0] + down, before[1] + up)
    most = max(costs, key=lambda cost: float(cost.seconds))
    notes = tuple(dict.fromkeys(note for cost in costs for note in cost.notes))
    variance: Any = sum(cost.variance for cost in costs)
    return Cost(
        name, seconds, spread, most.bound, most.formula, most.source, most.tag, most.count, most.op, children, notes,
        variance,
    )  # fmt: skip


def load_metrics(report: LoadReport, cost: Cost, served: tuple[float, float]) -> dict[str, Interval]:
    """(value, low, high) by vLLM bench's names; milliseconds, seconds, tokens per second.

    Parameters
    ----------
    cost : Cost
        The run's tree: kernels' errors, as shares of its time, widen every latency alike.
    served : (float, float)
        90 % half-widths of ln(measured/predicted) beyond that, seen on served dense runs: of the time to first token
        (who waits for whom), and of the time per token.
    """
    kinds = {part.name: relative_interval(part) for part in cost.children}
    whole = relative_interval(cost)
    first, whole = _widened(kinds.get("prefill", whole), served[0]), _widened(whole, served[1])
    found: dict[str, Interval] = {}
    for name, relative in zip(LATENCIES, (first, whole, whole, whole), strict=True):
        distribution: Distribution = getattr(report, name)
        for statistic in STATISTICS:
            value = 1e3 * _statistic(distribution, statistic)
            found[f"{statistic}_{name}_ms"] = (value, value * relative[0], value * relative[1])
    seconds = report.duration_s
    amounts = (report.answered, report.output_tokens, report.input_tokens + report.output_tokens)
    for name, amount in zip(THROUGHPUTS, amounts, strict=True):
        rate = report.copies * amount / seconds
        # Where arrivals set the pace, only what happens after the last of them is in doubt.
        paced = report.e2el.mean / seconds if report.arrivals_set_pace else 1.0
        slow, fast = (1.0 + (factor - 1.0) * paced for factor in (whole[1], whole[0]))
        found[name] = (rate, rate / slow, rate / max(fast, 1e-9))
    return found


STEADY_METRICS = ("mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "mean_e2el_ms", *THROUGHPUTS)


def steady_metrics(state: SteadyState, load: Workload, served: tuple[float, float]) -> dict[str, Interval]:
    """The steady state's means under the same names, with the same intervals."""
    kinds = {part.name: relative_interval(part) for part in state.cost.children}
    first = _widened(kinds["prefill"], served[0])
    token = _widened(kinds["decode"], served[1])
    rates = (1.0, load.mean_output_len, load.mean_input_len + load.mean_output_len)
    times = (state.ttft_s, state.tpot_s, state.tpot_s, state.e2el_s)
    found = {
        name: (1e3 * value, 1e3 * value * relative[0], 1e3 * value * relative[1])
        for name, value, relative in zip(STEADY_METRICS, times, (first, token, token, token), strict=False)
    }
    for name, tokens in zip(STEADY_METRICS[4:], rates, strict=True):
        rate = state.request_rate * tokens
        found[name] = (rate, rate / token[1], rate / max(token[0], 1e-9))
    return found


def _widened(relative: tuple[Any, Any], half_width: float) -> tuple[float, float]:
    """Factors of an interval with an independent relative error added, in logarithms."""
    down, up = np.log(max(float(relative[0]), 1e-3)), np.log(float(relative[1]))
    return float(np.exp(-np.hypot(down, half_width))), float(np.exp(np.hypot(up, half_width)))


def _statistic(distribution: Distribution, name: str) -> float:
    if name in {"mean", "std"}:
        return getattr(distribution, name)
    return distribution.quantile({"median": 0.5, "p90": 0.9, "p99": 0.99}[name])
