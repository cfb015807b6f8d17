"""Two scenarios side by side: what differs, by how much, how sure that is, and where the time goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from moesim.cost.cost import Cost, leaf_seconds
from moesim.explore.likelihood import Draws, drawn
from moesim.inputs.scenario import Scenario
from moesim.inputs.scenario_file import scenario_data
from moesim.metrics import Metric
from moesim.outcome import Prediction, Served
from moesim.prediction import predict
from moesim.presented import Presented
from moesim.serving.report import NO_SLO, Slo


@dataclass(frozen=True)
class MetricChange:
    """One metric of both."""

    metric: str
    first: Metric
    second: Metric
    ratio: float
    """Second over first."""
    low: float
    high: float
    """90 % interval of the ratio: errors that both share cancel."""
    chance: float
    """That the second is better."""


@dataclass(frozen=True)
class TimeChange:
    """What an operation takes of an output token, in both. [s]"""

    operation: str
    first_s: float
    second_s: float


@dataclass(frozen=True)
class Compared(Presented):
    """Two predictions and their differences."""

    _text: ClassVar[str] = "compare_text:compared_text"

    first: Prediction
    second: Prediction
    settings: tuple[tuple[str, Any, Any], ...]
    """(setting, first's, second's) of those that differ."""
    metrics: tuple[MetricChange, ...]
    times: tuple[TimeChange, ...]
    """Largest change first."""

    def to_frame(self) -> Any:
        """A row for each metric; names carry the units."""
        from moesim.explore.frames import frame

        return frame(self.rows(), {})

    def rows(self) -> list[dict[str, Any]]:
        """The same as plain data."""
        return [
            {"metric": m.metric, "first": m.first.value, "second": m.second.value, "ratio": m.ratio,
             "ratio_low": m.low, "ratio_high": m.high, "chance_second_is_better": m.chance}
            for m in self.metrics
        ]  # fmt: skip


def compare(first: Scenario, second: Scenario, slo: Slo = NO_SLO) -> Compared:
    """Predict both and set them side by side. Raises what ``predict`` raises."""
    one, other = predict(first, slo), predict(second, slo)
    draws, changes = Draws(), []
    for name in one.metrics:
        mine, theirs = one.metrics[name], other.metrics.get(name)
        if mine is None or theirs is None or not mine.value or name.startswith("std_"):
            continue
        a, b = drawn([one, other], name, draws)
        low, high = np.quantile(b / a, [0.05, 0.95])
        better = np.where(a == b, 0.5, b > a if name.endswith("throughput") else b < a)
        ratio = theirs.value / mine.value
        changes.append(MetricChange(name, mine, theirs, ratio, float(low), float(high), float(np.mean(better))))
    return Compared(one, other, _differences(first, second), tuple(changes), _times(one, other))


def _differences(first: Scenario, second: Scenario) -> tuple[tuple[str, Any, Any], ...]:
    one, other = (_flat(scenario_data(scenario)) for scenario in (first, second))
    names = [name for name in dict.fromkeys((*one, *other)) if name != "description"]
    return tuple((name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name))


def _flat(data: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def _times(first: Prediction, second: Prediction) -> tuple[TimeChange, ...]:
    mine, theirs = (_by_operation(prediction) for prediction in (first, second))
    found = [TimeChange(name, mine.get(name, 0.0), theirs.get(name, 0.0)) for name in dict.fromkeys((*mine, *theirs))]
    return tuple(sorted(found, key=lambda one: -abs(one.second_s - one.first_s)))


def _by_operation(prediction: Prediction) -> dict[str, float]:
    """Seconds an output token, by operation and phase."""
    tokens = output_tokens(prediction)
    return {name: seconds / tokens for name, seconds in operation_seconds(prediction.cost).items()}


def output_tokens(prediction: Prediction) -> float:
    """Tokens that came out over the time that the cost tree is of."""
    if isinstance(prediction, Served):
        return float(max(prediction.report.output_tokens, 1))
    load = prediction.scenario.workload
    return float(load.size * (load.output_len or 1))


def operation_seconds(cost: Cost) -> dict[str, float]:
    """Seconds of each operation in each phase of a whole batch or run."""
    seconds: dict[str, float] = {}
    for phase in cost.children:
        for leaf, value in leaf_seconds(phase):
            key = f"{leaf.name} in {phase.name}"
            seconds[key] = seconds.get(key, 0.0) + float(np.sum(value))
    return seconds
