"""How long all lanes of a step take together: layer by layer, or all at once where no layer leaves work to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, Spread
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


_FIELDS = {
    "offload/link": ("copy_s", "back_s", "stream_s"),
    "offload/disk": ("disk_s", "stream_disk_s"),
    "offload/CPU": ("cpu_s", "whole_cpu_s"),
}
"""Family of errors -> what of a layer's work is wrong together."""


def overlap_spread(alike: list[Alike], rules: Rules, together: Any, moved: list[Cost]) -> Spread:
    """What a lane's error changes of the time that overlap hides, so that a step is as uncertain as all lanes together.

    Parameters
    ----------
    together : float or ndarray
        Seconds of all lanes.
    moved : list of Cost
        What passes link, disk and CPU, with its own intervals.
    """
    found: Spread = {}
    for family, names in _FIELDS.items():
        costs = [cost for cost in moved if family in cost.spread]
        if not costs:
            continue
        alone = np.asarray(sum(cost.seconds for cost in costs))
        down, up = (np.asarray(sum(cost.spread[family][side] for cost in costs)) for side in (0, 1))
        faster, slower = 1.0 - down.max() / alone.max(), 1.0 + up.max() / alone.max()
        fast, slow = (
            np.reshape(lanes_seconds([_scaled(group, names, factor) for group in alike], rules)[0], np.shape(together))
            for factor in (faster, slower)
        )
        found[family] = (np.maximum(together - fast, 0.0) - down, np.maximum(slow - together, 0.0) - up)
    return found


def _scaled(group: Alike, names: tuple[str, ...], factor: float) -> Alike:
    work = replace(group.work, **{name: factor * getattr(group.work, name) for name in names})
    return Alike(group.kind, group.places, work)


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
