"""A run under load as vLLM bench's metrics with 90 % intervals, and as a cost tree of its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, add_spread, reduced, relative_interval, summed
from moesim.inputs.workload import Workload
from moesim.metrics import LATENCIES, STATISTICS, STEADY_METRICS, Interval, ended, milliseconds, rate, throughputs
from moesim.ops.load import Group
from moesim.serving.measures import Distribution
from moesim.serving.report import LoadReport
from moesim.serving.steady import SteadyState
from moesim.steps.pipeline import whole_step
from moesim.steps.step import Steps
from moesim.steps.table import Composition


def load_cost(steps: Mapping[str, Steps], report: LoadReport) -> Cost:
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
    """Groups of steps with equally many prompt chunks, and all or none with decodes and drafts: one formula each."""
    groups: dict[tuple[int, bool, bool, bool], list[Composition]] = {}
    for item in compositions:
        kind = (len(item.prefills), item.decodes > 0, item.checked > 0, item.images > 0)
        groups.setdefault(kind, []).append(item)
    return list(groups.values())


def _priced(steps: Steps, name: str, alike: Sequence[Composition]) -> Cost:
    """The summed cost of steps that differ in numbers alone."""
    one = np.ones(len(alike), np.int64)
    chunks = [
        Group(one, np.array([item.prefills[i][0] for item in alike]), np.array([item.prefills[i][1] for item in alike]))
        for i in range(len(alike[0].prefills))
    ]
    decodes = np.array([item.decodes for item in alike])
    if decodes[0]:
        past = np.array([item.context for item in alike])
        query = 1 + np.array([item.checked for item in alike]) / decodes
        chunks.append(Group.verify(decodes, query, past) if alike[0].checked else Group.decode(decodes, past))
    sampled = np.array([item.sampled for item in alike])
    load = replace(steps.load(tuple(chunks)), images=np.array([item.images for item in alike]))
    cost = whole_step(steps, name, load, sampled)
    return reduced(cost, lambda x: np.broadcast_to(np.asarray(x, float), one.shape).sum())


def _merged(name: str, costs: Sequence[Cost]) -> Cost:
    """One tree of several: operations of the same name and place add up."""
    first = costs[0]
    if not first.children:
        return _added(name, costs, [])
    # Of children that are called alike in one tree (kinds of layers), the first goes with the first of the others.
    same: dict[tuple[str, int], list[Cost]] = {}
    for cost in costs:
        seen: Counter[str] = Counter()
        for child in cost.children:
            same.setdefault((child.name, seen[child.name]), []).append(child)
            seen[child.name] += 1
    return _added(name, costs, [_merged(key[0], alike) for key, alike in same.items()])


def _added(name: str, costs: Sequence[Cost], children: list[Cost]) -> Cost:
    seconds: Any = sum(cost.seconds for cost in costs)
    spread: dict[str, tuple[Any, Any]] = {}
    for cost in costs:
        add_spread(spread, cost.spread)
    most = max(costs, key=lambda cost: float(cost.seconds))
    reasons = tuple(dict.fromkeys(reason for cost in costs for reason in cost.reasons))
    remarks = tuple(dict.fromkeys(remark for cost in costs for remark in cost.remarks))
    variance: Any = sum(cost.variance for cost in costs)
    return Cost(
        name, seconds, spread, most.bound, most.formula, most.source, most.tag, most.count, most.op, children, reasons,
        remarks, variance,
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
    # An answer of one token ends with its first.
    end = first if report.output_tokens == report.answered else whole
    found: dict[str, Interval] = {}
    for name, relative in zip(LATENCIES, (first, whole, whole, end), strict=True):
        distribution: Distribution = getattr(report, name)
        for statistic in STATISTICS:
            found[f"{statistic}_{name}_ms"] = milliseconds(_statistic(distribution, statistic), relative)
    for statistic in STATISTICS:
        # How answers spread is no time that begins or ends.
        if statistic != "std":
            end_name = f"{statistic}_e2el_ms"
            found[end_name] = ended(found[f"{statistic}_ttft_ms"], found[end_name])
    rates = throughputs(report.answered, report.input_tokens, report.output_tokens, report.duration_s)
    # Where arrivals set the pace, only a part of the duration is in doubt.
    return found | {name: rate(value, whole, report.engine_share) for name, value in rates.items()}


def steady_metrics(state: SteadyState, load: Workload, served: tuple[float, float]) -> dict[str, Interval]:
    """The steady state's means under the same names, with the same intervals."""
    kinds = {part.name: relative_interval(part) for part in state.cost.children}
    first = _widened(kinds["prefill"], served[0])
    token = _widened(kinds["decode"], served[1])
    end = first if load.mean_output_len == 1 else token
    times = (state.ttft_s, state.tpot_s, state.itl_s, state.e2el_s)
    found = {
        name: milliseconds(value, relative)
        for name, value, relative in zip(STEADY_METRICS, times, (first, token, token, end), strict=False)
    }
    found["mean_e2el_ms"] = ended(found["mean_ttft_ms"], found["mean_e2el_ms"])
    rates = throughputs(1.0, load.mean_input_len, load.mean_output_len, 1.0 / state.request_rate)
    # Where arrivals set the pace, an engine of another speed answers as many.
    share = 0.0 if state.limited_by == "rate" else 1.0
    return found | {name: rate(value, token, share) for name, value in rates.items()}


def _widened(relative: tuple[Any, Any], half_width: float) -> tuple[float, float]:
    """Factors of an interval with an independent relative error added, in logarithms."""
    down, up = np.log(max(float(relative[0]), 1e-3)), np.log(float(relative[1]))
    return float(np.exp(-np.hypot(down, half_width))), float(np.exp(np.hypot(up, half_width)))


def _statistic(distribution: Distribution, name: str) -> float:
    if name in {"mean", "std"}:
        return getattr(distribution, name)
    return distribution.quantile({"median": 0.5, "p90": 0.9, "p99": 0.99}[name])
