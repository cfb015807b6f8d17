"""The answer put together: finalists in order, why each lost, what money buys, what to relax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moesim.explore.constraints import value_text
from moesim.explore.plans import deciding_term
from moesim.explore.recommend.chances import chances
from moesim.explore.recommend.estimate import Estimate
from moesim.explore.recommend.line import Line, where
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.result import Exclusions, Finalist, Recommendation
from moesim.explore.recommend.simulate import Simulated, broken
from moesim.explore.recommend.standing import Standing
from moesim.outcome import OnGpu

_FASTER = 0.999
"""Of a latency, below which a dearer deployment is on the front."""
_CAUSES = 3
_ROOM = 1e-3
"""Added to a limit that is suggested, so that its rounded figure is kept."""
_WHOLE = 1e4
"""Whole numbers below are written without rounding."""


def answered(line: Line, standing: Standing) -> Recommendation:
    """What the runs say."""
    question = standing.question
    refused = [run for run in standing.runs.values() if run.problem]
    for run in refused:
        line.exclude("refused when simulated", 1, f"{where(run.deployment)}: {run.problem}")
    runs = sorted((r for r in standing.runs.values() if not r.problem), key=lambda run: _order(run, standing))
    sure = chances(question, runs)
    shares = zip(runs, sure.best, sure.kept, strict=True)
    finalists = tuple(_finalist(question, run, runs[0], best, kept) for run, best, kept in shares)
    exclusions = tuple(Exclusions(reason, many, line.examples[reason]) for reason, many in line.why.most_common())
    advice = () if finalists and finalists[0].keeps else _advice(question, runs, exclusions)
    priced = len(standing.priced) - len(refused)
    return Recommendation(
        question, line.considered, priced, exclusions, finalists, _front(standing), sure.worth, advice
    )  # fmt: skip


def _order(run: Simulated, standing: Standing) -> Any:
    """Those that keep every limit first, best first; then those nearest to."""
    limits, objective = standing.question.limits, standing.question.objective
    over = sum(limit.excess(m.value if (m := run.values.get(limit.metric)) else None) for limit in limits)
    kept = not broken(run.values, limits)
    return (
        not kept,
        over,
        standing.sign * run.values[objective].value,
        run.values["mean_e2el"].value,
        repr(run.deployment),
    )


def _finalist(question: Question, run: Simulated, first: Simulated, chance: float, kept: float) -> Finalist:
    assert run.scenario is not None and run.prediction is not None
    lost = broken(run.values, question.limits)
    reason = "" if run is first and not lost else "; ".join(lost) or _lost(question, run, first)
    return Finalist(
        run.deployment, run.scenario, run.engines_like_it, run.prediction, run.values, lost, chance, kept, reason
    )


def _lost(question: Question, run: Simulated, first: Simulated) -> str:
    """What the first does better, and the operation that costs most more."""
    measure = question.objective
    mine, theirs = run.values[measure].value, first.values[measure].value
    if abs(mine - theirs) > 1e-6 * abs(theirs):
        more = f"{measure} {mine / theirs - 1:+.1%}" if theirs else f"{measure} {mine:.4g}"
    else:
        more = f"as good, e2el {run.values['mean_e2el'].value / first.values['mean_e2el'].value - 1:+.1%}"
    if isinstance(run.prediction, OnGpu) and isinstance(first.prediction, OnGpu):
        same = run.deployment.gpus == first.deployment.gpus
        if same and run.prediction.cost.seconds > first.prediction.cost.seconds:
            more += f": {deciding_term(run.prediction, first.prediction)}"
    return more


def _front(standing: Standing) -> tuple[Estimate, ...]:
    """Nothing that keeps the limits is both cheaper (or smaller) and faster."""
    price = "usd_per_hour" if standing.question.prices else "gpus"
    corrected = [
        Estimate(one.deployment, {name: standing.value(one, name) for name in one.values}, one.limited_by)
        for one in standing.keeping()
    ]
    corrected.sort(key=lambda one: (one.values.get(price, float("inf")), one.values["mean_e2el"]))
    found: list[Estimate] = []
    for one in corrected:
        if not found or one.values["mean_e2el"] < _FASTER * found[-1].values["mean_e2el"]:
            found.append(one)
    return tuple(found)


def _advice(question: Question, runs: Sequence[Simulated], exclusions: Sequence[Exclusions]) -> tuple[str, ...]:
    """The least that each limit alone would have to give way, of what was simulated; else why nothing was."""
    if not runs:
        return tuple(f"{one.count:,} {one.reason}; {one.example}" for one in exclusions[:_CAUSES])
    found = []
    for limit in question.limits:
        others = tuple(other for other in question.limits if other is not limit)
        known = [r.values for r in runs if not broken(r.values, others) and limit.metric in r.values]
        values = [of[limit.metric].value for of in known]
        if values and not any(limit.keeps(value) for value in values):
            near = min(values) if limit.upper else max(values)
            # A whole number, of GPUs above all, is written as it is.
            room = 0.0 if near == round(near) < _WHOLE else _ROOM
            enough = value_text(near * (1.0 + room if limit.upper else 1.0 - room), limit.unit)
            found.append(f"relax {limit} to {limit.metric} {limit.sign[0]}= {enough}")
    if not found:
        lost = "; ".join(broken(runs[0].values, question.limits))
        found.append(f"no single limit is enough; nearest is {where(runs[0].deployment)}: {lost}")
    return tuple(found)
