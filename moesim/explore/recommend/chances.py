"""How sure the choice among simulated deployments is: errors that two share do not tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any, NamedTuple

import numpy as np

from moesim.explore.likelihood import Draws, Terms, better, terms, worth_knowing
from moesim.explore.recommend.measures import OF_POWER
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.simulate import Simulated

_TIE = 1e-9
"""Of a value's size: deployments of one price are told apart by their latency."""
_WORTH = 0.01
"""Least gain in the chance of choosing right, for which a measurement is named."""


class Chances(NamedTuple):
    """Of each run, in order."""

    best: tuple[float, ...]
    kept: tuple[float, ...]
    """That it keeps every limit."""
    worth: tuple[tuple[str, float], ...]
    """(error term, chance of choosing right once it is measured), the most telling first."""


def chances(question: Question, runs: Sequence[Simulated]) -> Chances:
    """Draw every error of every run."""
    if not runs:
        return Chances((), (), ())
    draws, up = Draws(), question.higher
    values, kept, seen = [], [], []
    for run in runs:
        of: dict[str, Terms] = {}
        ok = np.ones(draws.count, bool)
        for limit in question.limits:
            ok &= limit.within(_drawn(run, limit.metric, draws, of))
        worst = -np.inf if up else np.inf
        value = _drawn(run, question.objective, draws, of)
        # Of equal ones the faster is better.
        value = value * (1.0 + (-_TIE if up else _TIE) * _drawn(run, "mean_e2el", draws, of))
        values.append(np.where(ok, value, worst))
        kept.append(float(ok.mean()))
        seen += of.values()
    best = better(values, up)
    shares = tuple(float(np.mean(best == i)) for i in range(len(runs)))
    now, ranked = max(shares), worth_knowing(values, up, draws, seen)
    return Chances(shares, tuple(kept), tuple((term, chance) for term, chance in ranked if chance > now + _WORTH))


def _drawn(run: Simulated, measure: str, draws: Draws, seen: dict[str, Terms]) -> Any:
    """A measure of a run in every draw; what no error touches has one value."""
    metric = run.values.get(measure)
    if metric is None:
        return np.full(draws.count, np.nan)
    if metric.low == metric.high or run.prediction is None:
        return np.full(draws.count, metric.value)
    factors = np.ones(draws.count)
    if measure in OF_POWER:
        watts = run.values["watts"]
        power: Terms = {
            f"power on {run.deployment.engine.gpu}": (log(watts.low / watts.value), log(watts.high / watts.value))
        }
        factors = draws.factors(seen.setdefault("watts", power))
        if measure == "watts":
            return metric.value * factors
    of = _metric_of(measure)
    speed = draws.factors(seen.setdefault(of, terms(run.prediction, of)))
    return metric.value * factors * (1.0 / speed if _per_token(measure) else speed)


def _per_token(measure: str) -> bool:
    """Dollars and joules a token have a throughput's errors, reversed."""
    return measure.startswith(("usd_per_million", "joules"))


def _metric_of(measure: str) -> str:
    """The prediction's metric whose errors a measure has."""
    if _per_token(measure) or measure.endswith("per_gpu"):
        return "output_throughput"
    return measure if measure.endswith("throughput") else f"{measure}_ms"
