"""Steps through pipeline stages: how long one takes, and how often one ends.

A batch passes the stages one after the other; other micro-batches fill the stages meanwhile. A stage that is slower
than the rest makes all wait, and so does a pipeline with fewer micro-batches than stages (formula card, section 7).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.cost import Cost, summed
from moesim.layer import Load
from moesim.step import StepModel


def decode_cycle(steps: StepModel, load: Load, sampled: Any, in_flight: Any) -> Cost:
    """From one token of a sequence to its next, ``load`` being one of ``in_flight`` equal micro-batches.

    The larger of a micro-batch's way through all stages and the time the slowest stage needs for all of them.
    """
    if steps.rank.plan.pp == 1:
        return steps.cost("decode", load, sampled)
    stages = steps.stage_costs(load, sampled)
    host = steps.host_cost(_parts(stages), load)
    through = sum(stage.seconds for stage in stages) + host.seconds
    slowest = _slowest([*stages, host])
    idle = np.maximum(in_flight * slowest.seconds - through, 0.0)
    formula = "max(in flight x slowest stage - sum of stages, 0)"
    return summed("decode", [*stages, host, waiting("waiting for other micro-batches", idle, slowest, formula)])


def prefill_steps(steps: StepModel, load: Load, finished: Any, encoder: bool = False) -> tuple[Cost, Any]:
    """(what each of a row of prefill steps adds, how long the last one then needs to leave the pipeline).

    Steps follow each other through the stages, so each adds the slowest stage's time.
    """
    if steps.rank.plan.pp == 1:
        return steps.cost("prefill", load, finished, encoder=encoder), 0.0
    stages = steps.stage_costs(load, finished)
    host = steps.host_cost(_parts(stages), load)
    slowest = _slowest(stages)
    idle = np.maximum(host.seconds - slowest.seconds, 0.0)
    drain = sum(stage.seconds for stage in stages) - slowest.seconds + np.minimum(host.seconds, slowest.seconds)
    late = waiting("waiting for the host", idle, host, "max(host - slowest stage, 0)")
    return summed("prefill", [slowest, late]), drain


def whole_step(steps: StepModel, name: str, load: Load, sampled: Any) -> Cost:
    """A step's way through all stages, and the host's part."""
    if steps.rank.plan.pp == 1:
        return steps.cost(name, load, sampled)
    stages = steps.stage_costs(load, sampled)
    return summed(name, [*stages, steps.host_cost(_parts(stages), load)])


def waiting(name: str, seconds: Any, cause: Cost, formula: str) -> Cost:
    """Time without work of its own, as uncertain as what causes it."""
    share = seconds / np.maximum(cause.seconds, 1e-30)
    spread = {family: (down * share, up * share) for family, (down, up) in cause.spread.items()}
    return Cost(name, seconds, spread, bound="pipeline", formula=formula, source=cause.name)


def _parts(stages: list[Cost]) -> list[Cost]:
    return [part for stage in stages for part in stage.children if part.children]


def _slowest(stages: list[Cost]) -> Cost:
    return max(stages, key=lambda stage: float(np.sum(stage.seconds)))
