"""What is known of priced deployments: as simulated, or as estimated and corrected by simulations of others."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from moesim.explore.recommend.estimate import Estimate
from moesim.explore.recommend.measures import higher
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.simulate import Simulated, broken
from moesim.explore.recommend.space import Deployment
from moesim.metrics import LATENCIES, THROUGHPUTS

_NEAR = 0.3
"""Of a limit, by which an estimate may exceed it and be simulated all the same, behind those that keep it."""
_MOST_RATIO = 2.0
"""By which simulations correct others' estimates, at most, either way."""


class Standing:
    """Estimates, runs, and how they rank."""

    def __init__(self, question: Question):
        self.question = question
        self.sign = -1.0 if question.higher else 1.0
        self.priced: dict[Deployment, Estimate] = {}
        self.runs: dict[Deployment, Simulated] = {}
        self._ratios: dict[Any, float] = {}

    def bound(self, finalists: int) -> float:
        """The objective of the last that would be simulated, smaller being better; infinite while there are fewer."""
        values = sorted(self.sign * self.value(one, self.question.objective) for one in self.keeping())
        return values[finalists - 1] if len(values) >= finalists else float("inf")

    def keeping(self) -> Iterator[Estimate]:
        """What keeps every limit."""
        for deployment, one in self.priced.items():
            run = self.runs.get(deployment)
            if self._kept(run) if run is not None else not self._excess(one):
                yield one

    def value(self, one: Estimate, measure: str) -> float:
        """A measure; infinitely bad where nothing says."""
        run = self.runs.get(one.deployment)
        if run is not None and measure in run.values:
            return run.values[measure].value
        if measure in self.question.quality_metrics:
            value = self.question.quality_values(one.deployment.engine)[measure]
        else:
            value = one.values.get(measure)
        if value is None:
            return -float("inf") if higher(measure) else float("inf")
        return value * self._ratios.get(_kind(one, measure), 1.0)

    def next(self, many: int) -> list[Deployment]:
        """The most promising that were not simulated; where none keeps the limits, those nearest to."""
        left = [
            (self._excess(one), self.order(one), one) for one in self.priced.values() if one.deployment not in self.runs
        ]
        near = [item for item in left if item[0] <= _NEAR]
        if not near and not any(self._kept(run) for run in self.runs.values()):
            near = left
        return [one.deployment for _, _, one in sorted(near, key=lambda item: item[:2])[:many]]

    def order(self, one: Estimate) -> tuple[float, float, str]:
        """The objective, then the faster, then the name."""
        latency = self.value(one, "mean_e2el")
        return self.sign * self.value(one, self.question.objective), latency, repr(one.deployment)

    def learn(self) -> None:
        """What simulations give over what the closed form estimates, for every statistic: the median of a kind's."""
        seen: dict[Any, list[float]] = {}
        for run in self.runs.values():
            one = self.priced[run.deployment]
            for measure, metric in run.values.items():
                base = one.values.get(measure)
                of_the_run = measure.rpartition("_")[2] in LATENCIES or measure in THROUGHPUTS
                if base and of_the_run and metric.value:
                    seen.setdefault(_kind(one, measure), []).append(metric.value / base)
        self._ratios = {
            kind: min(max(median(ratios), 1.0 / _MOST_RATIO), _MOST_RATIO) for kind, ratios in seen.items()
        }  # fmt: skip

    def _excess(self, one: Estimate) -> float:
        """By how much of them limits are exceeded; 0 where all are kept."""
        over = [(limit, self.value(one, limit.metric)) for limit in self.question.limits]
        return sum(max(limit.excess(value), 0.0 if limit.keeps(value) else 1e-12) for limit, value in over)

    def _kept(self, run: Simulated) -> bool:
        return not run.problem and not broken(run.values, self.question.limits)


def _kind(one: Estimate, measure: str) -> tuple[str, str, str]:
    """Deployments whose statistics differ from closed forms alike: by who waits for whom."""
    engine = one.deployment.engine
    how = "lockstep" if engine.dp > 1 else "stages" if engine.pp > 1 else "one"
    return measure, "apart" if one.deployment.prefill else how, one.limited_by
