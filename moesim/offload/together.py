"""How long all lanes of a step take together: layer by layer, or all at once where no layer leaves work to the next."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.offload.lanes import Rules, carries_over, schedule
from moesim.offload.works import Alike, in_order

_MOST_STEPS, _SAMPLED_STEPS = 48, 9


def lanes_seconds(alike: list[Alike], rules: Rules) -> tuple[Any, Any]:
    """(seconds of each step, their variance from token to token). Many steps are sampled, with straight lines between.

    Misses are drawn: the mean is the mean over draws, and the variance is theirs. [s, s2]
    """
    steps = max((np.shape(group.work.before_s)[0] for group in alike if np.ndim(group.work.before_s)), default=1)
    if steps <= _MOST_STEPS:
        return _seconds(alike, rules)
    # The first prefill step may find the cache cold, the last one may be shorter than the others.
    at = np.unique(np.append(np.linspace(1, steps - 2, _SAMPLED_STEPS).round().astype(int), (0, steps - 1)))
    some = _seconds([Alike(g.kind, g.places, g.work.mapped(lambda x: _at(x, at))) for g in alike], rules)
    every = np.arange(steps)
    mean, variance = (np.interp(every, at, np.broadcast_to(x, at.shape)) for x in some)
    return mean, variance


def _seconds(alike: list[Alike], rules: Rules) -> tuple[Any, Any]:
    if any(carries_over(group.work, rules) for group in alike):
        together = schedule(in_order(alike), rules)
        return np.mean(together, axis=-1), np.var(together, axis=-1)
    mean: Any = 0.0
    variance: Any = 0.0
    for group in alike:
        each = np.asarray(schedule([group.work], rules))
        mean = mean + group.over_layers(each)
        # Layers miss independently of each other.
        variance = variance + (each.var(-1).sum(0) if each.ndim == 3 else 0.0)
    return mean, variance


def _at(x: Any, steps: Any) -> Any:
    """The same at some steps; what is equal for all of them stays."""
    return x[..., steps, :] if np.ndim(x) > 1 and np.shape(x)[-2] > 1 else x
