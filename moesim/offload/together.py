"""How long all lanes of a step take together: layer by layer, or all at once where no layer leaves work to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, Spread
from moesim.offload.lanes import LayerWork, Rules, carries_over, schedule
from moesim.offload.works import Alike, in_order

_STEPS_AT_ONCE = 4096
_MOST_ALIKE, _SAMPLED = 24, 9

Change = tuple[tuple[str, ...], float]
"""What of a layer's work takes so many times as long."""


def lanes_seconds(alike: list[Alike], rules: Rules) -> tuple[Any, Any]:
    """(seconds of each step, their variance from token to token).

    Misses are drawn: the mean is the mean over draws, and the variance is theirs. [s, s2]
    """
    mean, variance = _under(alike, rules, [((), 1.0)])
    return mean[0], variance


_FIELDS = {
    "offload/link": ("copy_s", "back_s", "stream_s"),
    "offload/disk": ("disk_s", "stream_disk_s"),
    "offload/CPU": ("cpu_s", "whole_cpu_s", "cache_cpu_s"),
}
"""Family of errors -> what of a layer's work is wrong together."""


def with_spread(alike: list[Alike], rules: Rules, moved: list[Cost]) -> tuple[Any, Any, Spread]:
    """(seconds of each step, their variance, what errors change of the time that overlap hides).

    A step is as uncertain as all lanes together: what a lane's error changes of their sum, less what it changes of
    what passes the lane alone.

    Parameters
    ----------
    moved : list of Cost
        What passes link, disk and CPU, with its own intervals.
    """
    ends: dict[str, tuple[Any, Any]] = {}
    changes: list[Change] = [((), 1.0)]
    for family, names in _FIELDS.items():
        costs = [cost for cost in moved if family in cost.spread]
        if not costs:
            continue
        alone = np.asarray(sum(cost.seconds for cost in costs))
        down, up = (np.asarray(sum(cost.spread[family][side] for cost in costs)) for side in (0, 1))
        ends[family] = (down, up)
        changes += [(names, 1.0 - down.max() / alone.max()), (names, 1.0 + up.max() / alone.max())]
    (together, *changed), variance = _under(alike, rules, changes)
    found = {
        family: (
            np.ravel(np.maximum(together - fast, 0.0) - np.ravel(down)),
            np.ravel(np.maximum(slow - together, 0.0) - np.ravel(up)),
        )
        for (family, (down, up)), fast, slow in zip(ends.items(), changed[::2], changed[1::2], strict=True)
    }
    return together, variance, found


def _under(alike: list[Alike], rules: Rules, changes: list[Change]) -> tuple[Any, Any]:
    """(seconds under each change, one row each; variance under the first).

    Of many steps that ask for as many experts and differ in their context alone, some are worked out.
    """
    steps = _steps(alike)
    at, context, kinds = _sampled(alike, steps)
    mean, variance = np.empty((len(changes), len(at))), np.empty(len(at))
    most = max(_STEPS_AT_ONCE // len(changes), 1)
    for start in range(0, len(at), most):
        part = at[start : start + most]
        some = alike if len(part) == steps else [_mapped(group, partial(_at, steps=part)) for group in alike]
        seconds, spread = _seconds([_changed(group, changes, len(part)) for group in some], rules)
        size = len(changes) * len(part)
        mean[:, start : start + most] = np.broadcast_to(seconds, size).reshape(len(changes), -1)
        variance[start : start + most] = np.broadcast_to(spread, size)[: len(part)]
    if len(at) == steps:
        return mean, variance
    rows = np.array([_between(row, at, context, kinds) for row in [*mean, variance]])
    return rows[:-1], rows[-1]


def _sampled(alike: list[Alike], steps: int) -> tuple[Any, Any, Any]:
    """(steps to work out; how long each step's context makes it; steps of equal kind ask for as many experts)."""
    every = np.arange(steps)
    if steps <= _MOST_ALIKE:
        return every, every, every
    context = np.broadcast_to(
        sum(np.ravel(g.work.before_s + g.work.whole_cpu_s + g.work.cache_cpu_s) for g in alike), steps
    )
    asked = [
        np.broadcast_to(g.over_layers(x), steps) for g in alike for x in (g.work.hits, g.work.fetched, g.work.on_cpu)
    ]
    kinds = np.unique(np.round(asked, 9), axis=1, return_inverse=True)[1].ravel()
    kept = np.ones(steps, bool)
    for kind in _many(kinds):
        mine = every[kinds == kind]
        mine = mine[np.argsort(context[mine], kind="stable")]
        kept[mine] = False
        kept[mine[np.unique(np.linspace(0, len(mine) - 1, _SAMPLED).round().astype(int))]] = True
    return every[kept], context, kinds


def _many(kinds: Any) -> Any:
    """Kinds of so many steps that some stand for the others."""
    return np.flatnonzero(np.bincount(kinds) > _MOST_ALIKE)


def _between(values: Any, at: Any, context: Any, kinds: Any) -> Any:
    """Values of all steps from those of some: straight lines over the context, kind by kind."""
    found = np.empty(len(kinds))
    found[at] = values
    for kind in _many(kinds):
        mine, known = kinds == kind, kinds[at] == kind
        order = np.argsort(context[at][known], kind="stable")
        found[mine] = np.interp(context[mine], context[at][known][order], values[known][order])
    return found


def _steps(alike: list[Alike]) -> int:
    values = (getattr(group.work, f.name) for group in alike for f in fields(group.work))
    return max((np.shape(x)[-2] for x in values if np.ndim(x) > 1), default=1)


def _changed(group: Alike, changes: list[Change], steps: int) -> Alike:
    """All steps under each of the changes, one after the other."""
    if len(changes) == 1:
        return group

    def under(name: str) -> Any:
        x = getattr(group.work, name)
        factors = np.repeat([factor if name in names else 1.0 for names, factor in changes], steps)[:, None]
        if np.ndim(x) > 1 and np.shape(x)[-2] > 1:
            x = np.concatenate([x] * len(changes), axis=-2)
        return x if np.all(factors == 1.0) else factors * x

    names = [f.name for f in fields(group.work) if f.name != "name"]
    return Alike(group.kind, group.places, LayerWork("", **{name: under(name) for name in names}))


def _mapped(group: Alike, change: Callable[[Any], Any]) -> Alike:
    return Alike(group.kind, group.places, group.work.mapped(change))


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
