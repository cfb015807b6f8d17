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
    slowest = np.maximum(_slowest(stages).seconds, host.seconds)
    waiting = Cost("waiting for other micro-batches", np.maximum(in_flight * slowest - through, 0.0), {},
                   bound="pipeline", formula="max(in flight x slowest stage - sum of stages, 0)", tag="fitted",
                   source="slowest stage")  # fmt: skip
    return summed("decode", [*stages, host, waiting])


def prefill_steps(steps: StepModel, load: Load, finished: Any, encoder: bool = False) -> tuple[Cost, Any]:
    """(what each of a row of prefill steps adds, how long the last one then needs to leave the pipeline).

    Steps follow each other through the stages, so each adds the slowest stage's time.
    """
    if steps.rank.plan.pp == 1:
        return steps.cost("prefill", load, finished, encoder=encoder), 0.0
    stages = steps.stage_costs(load, finished)
    host = steps.host_cost(_parts(stages), load)
    slowest = _slowest(stages)
    drain = sum(stage.seconds for stage in stages) - slowest.seconds + host.seconds
    return summed("prefill", [slowest]), drain


def _parts(stages: list[Cost]) -> list[Cost]:
    return [part for stage in stages for part in stage.children if part.children]


def _slowest(stages: list[Cost]) -> Cost:
    return max(stages, key=lambda stage: float(np.sum(stage.seconds)))
