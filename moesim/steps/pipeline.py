"""Steps through pipeline stages: how long one takes, and when each of a row of them leaves (docs/model/pipeline.md).

A batch passes the stages one after the other; other micro-batches fill the stages meanwhile. A stage that is slower
than the rest makes all wait, and so does a pipeline with fewer micro-batches than stages.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.cost import Cost, summed
from moesim.ops.load import Load
from moesim.steps.step import Steps

Array = np.ndarray[Any, Any]


def decode_cycle(steps: Steps, load: Load, sampled: Any, in_flight: Any) -> Cost:
    """From one token of a sequence to its next, ``load`` being one of ``in_flight`` equal micro-batches.

    The larger of a micro-batch's way through all stages and the time the slowest stage needs for all of them.
    """
    if steps.rank.plan.pp == 1:
        return steps.cost("decode", load, sampled)
    stages = steps.stage_costs(load, sampled)
    host = steps.schedule_cost(stages, load)
    through = sum(stage.seconds for stage in stages) + host.seconds
    # Steps that the host composes ahead still take its time, one after the other.
    each = [*stages, steps.schedule_cost([], load)]
    slowest = _slowest(each, np.shape(through))
    idle = np.maximum(in_flight * np.maximum.reduce(np.broadcast_arrays(*(one.seconds for one in each))) - through, 0.0)
    formula = "max(in flight x slowest stage - sum of stages, 0)"
    return summed("decode", [*stages, host, waiting("waiting for other micro-batches", idle, slowest, formula)])


def prefill_row(
    steps: Steps, load: Load, finished: Any, point: Array, weight: Array, encoder: bool = False
) -> tuple[Cost, Array]:
    """A row of prefill steps for each point: (what each step takes, when each has left the last stage).

    Parameters
    ----------
    point, weight : ndarray, shape (steps,)
        Which row a step belongs to, and how many equal steps it stands for.

    Returns
    -------
    Cost
        Of each step where one stage runs it; in a pipeline of its slowest stage, beside which the others work.
    ndarray, shape (steps,)
        Since the row began. [s]
    """
    if steps.rank.plan.pp == 1:
        cost = steps.cost("prefill", load, finished, encoder=encoder)
        return cost, _row_ends([cost.seconds], point, weight)
    stages = steps.stage_costs(load, finished)
    host = steps.schedule_cost(stages, load)
    ends = _row_ends([part.seconds for part in (host, *stages)], point, weight)
    return summed("prefill", [_slowest(stages, np.shape(ends))]), ends


def _row_ends(stages_s: list[Any], point: Array, weight: Array) -> Array:
    """When each step leaves the last of several stages, each stage taking steps in order, one at a time. [s]

    A step enters a stage when it has left the one before and the step before it has left this one. Of ``weight`` equal
    steps the first and the last say when the others come.
    """
    first = np.flatnonzero(np.diff(point, prepend=-1))
    if len(stages_s) == 1:
        each = np.broadcast_to(np.asarray(stages_s[0], float), point.shape) * weight
        passed = np.cumsum(each)
        return passed - (passed[first] - each[first])[point]
    ends, begun = np.zeros(len(point)), np.zeros(len(point))
    for seconds in stages_s:
        each = np.broadcast_to(np.asarray(seconds, float), point.shape)
        for start, stop in zip(first, [*first[1:], len(point)], strict=True):
            row = slice(start, stop)
            one, all_of_them = each[row], each[row] * weight[row]
            passed = np.cumsum(all_of_them)
            earliest = np.maximum(begun[row] + all_of_them, ends[row] + one)
            ends[row] = passed + np.maximum.accumulate(np.maximum(earliest - passed, 0.0))
            begun[row] = np.maximum(begun[row], np.concatenate([[0.0], ends[row][:-1]])) + one
    return ends


def whole_step(steps: Steps, name: str, load: Load, sampled: Any) -> Cost:
    """A step's way through all stages, and the host's part."""
    if steps.rank.plan.pp == 1:
        return steps.cost(name, load, sampled)
    stages = steps.stage_costs(load, sampled)
    return summed(name, [*stages, steps.schedule_cost(stages, load)])


def waiting(name: str, seconds: Any, cause: Cost, formula: str) -> Cost:
    """Time without work of its own, as uncertain as what causes it."""
    share = seconds / np.maximum(cause.seconds, 1e-30)
    spread = {family: (down * share, up * share) for family, (down, up) in cause.spread.items()}
    return Cost(name, seconds, spread, bound="pipeline", formula=formula, source=cause.name)


def _slowest(stages: list[Cost], shape: tuple[int, ...]) -> Cost:
    """That which takes longest over steps of ``shape``."""
    return max(stages, key=lambda stage: float(np.broadcast_to(stage.seconds, shape).sum()))
