"""How likely one prediction is better than another: errors that two of them share do not tell them apart.

Every interval is made of terms (docs/intervals.md): a kernel family's formula, a machine's own speed, an engine's
version. Two predictions on one GPU err by the same term in the same direction; so do draws here, one standard normal
number a term, and what is left between predictions is what they do not share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moesim.assembly import assemble
from moesim.cost.cost import Cost, by_family
from moesim.cost.machine import VERSIONS
from moesim.hardware.catalogue import load_hardware
from moesim.outcome import Prediction, Served, Steady
from moesim.serving.under_load import memory_side

Array = np.ndarray[Any, Any]
Terms = dict[str, tuple[float, float]]
"""Term -> ln of the factors at its two ends, 90 %: where the term's time is as short, and as long, as it may be."""

DRAWS = 4000
_SEED = 20260101
_QUANTILE = 1.6448536269514722
"""Standard deviations of a 90 % interval's ends."""
_PARTS = 5
"""Of a term's draws, in each of which it counts as known."""


def terms(prediction: Prediction, metric: str) -> Terms:
    """What a metric of a prediction may err by, term by term."""
    name = metric.removesuffix("_ms").rpartition("_")[2]
    phase = {"ttft": "prefill", "tpot": "" if isinstance(prediction, Served) else "decode"}.get(name, "")
    cost = next((part for part in prediction.cost.children if part.name == phase), prediction.cost)
    gpu = load_hardware(prediction.scenario.hardware).name
    found = _of_cost(cost, gpu)
    if isinstance(prediction, (Served, Steady)):
        # What served runs showed beyond kernels' errors.
        errors = assemble(memory_side(prediction.scenario)).steps.machine.served_errors
        what, error = ("queueing", errors[0]) if name == "ttft" else ("serving", errors[1])
        found[f"{what} of {prediction.scenario.model} on {gpu}"] = (-error, error)
    if not metric.endswith("throughput"):
        return found
    share = _engine_share(prediction)
    return {term: (-share * short, -share * long) for term, (short, long) in found.items()}


def _engine_share(prediction: Prediction) -> float:
    """Of the time that a throughput is over, what depends on the engine's speed."""
    if isinstance(prediction, Served):
        return prediction.report.engine_share
    return 0.0 if isinstance(prediction, Steady) and prediction.state.limited_by == "rate" else 1.0


def _of_cost(cost: Cost, gpu: str) -> Terms:
    seconds = max(float(np.sum(cost.seconds)), 1e-30)
    found: Terms = {}
    for family, (down, up) in by_family(cost.spread).items():
        # Engines of one version run the same kernels everywhere.
        key = family if family == VERSIONS else f"{family} on {gpu}"
        below = min(float(np.sum(down)) / seconds, 0.99)
        found[key] = (float(np.log1p(-below)), float(np.log1p(float(np.sum(up)) / seconds)))
    return found


class Draws:
    """The same draws of every term for all predictions that are compared."""

    def __init__(self, count: int = DRAWS):
        self.count = count
        self._normal: dict[str, Array] = {}

    def of(self, term: str) -> Array:
        """Standard normal numbers, the same for a term wherever it is met."""
        if term not in self._normal:
            seed = [_SEED, *term.encode()]
            self._normal[term] = np.random.default_rng(seed).standard_normal(self.count)
        return self._normal[term]

    def factors(self, found: Terms) -> Array:
        """What a value is multiplied by in every draw."""
        total = np.zeros(self.count)
        for term, (short, long) in found.items():
            z = self.of(term)
            total += np.where(z > 0, long, -short) * z / _QUANTILE
        return np.exp(total)


def drawn(predictions: Sequence[Prediction], metric: str, draws: Draws) -> list[Array]:
    """A metric of each prediction in every draw."""
    return [prediction[metric] * draws.factors(terms(prediction, metric)) for prediction in predictions]


def ratio_interval(
    first: Prediction, second: Prediction, metric: str, draws: Draws | None = None
) -> tuple[float, float, float]:
    """(second over first, low, high): 90 %, shared errors cancelled."""
    draws = draws or Draws()
    one, other = drawn([first, second], metric, draws)
    low, high = np.quantile(other / one, [0.05, 0.95])
    return second[metric] / first[metric], float(low), float(high)


def better(values: Sequence[Array], higher: bool) -> Array:
    """For every draw the place of the best value; -1 where none is finite.

    Parameters
    ----------
    values : sequence of ndarray
        Infinite (or minus infinite, where higher is better) in draws that break a limit.
    """
    table = np.vstack(values)
    table = -table if higher else table
    best = np.argmin(table, axis=0)
    return np.where(np.isfinite(table[best, np.arange(table.shape[1])]), best, -1)


def worth_knowing(
    values: Sequence[Array], higher: bool, draws: Draws, found: Sequence[Terms]
) -> list[tuple[str, float]]:
    """(term, chance that the right one is chosen once that term is measured), the most telling first.

    Without more knowledge the chance is that of the most frequent best; nothing is right where nothing keeps the
    limits.
    """
    best, known = better(values, higher), sorted({term for one in found for term in one})

    def chance(order: Array) -> float:
        parts = np.array_split(best[order], _PARTS)
        return float(np.mean([np.bincount(part + 1, minlength=2)[1:].max() / len(part) for part in parts]))

    # The most frequent of fewer draws looks more frequent than it is: by as much as parts that know nothing show.
    now = float(np.bincount(best + 1, minlength=2)[1:].max()) / draws.count
    blind = chance(np.random.default_rng(_SEED).permutation(draws.count)) - now
    ranked = [(term, max(chance(np.argsort(draws.of(term))) - blind, now)) for term in known]
    return sorted(ranked, key=lambda item: -item[1])
