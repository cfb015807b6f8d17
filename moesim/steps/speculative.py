"""Steps of an engine that speculates: the target checks drafts, then the draft proposes the next ones.

The draft's first pass runs over all rows of the step, prompts included, as its cache needs them too; each further pass
over one row of every sequence (vLLM v1/spec_decode). Heads side by side run once, over one row of every sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, summed
from moesim.cost.machine import Machine
from moesim.models.drafts import Drafting
from moesim.models.rank import Rank
from moesim.ops import Host
from moesim.ops.load import Group, Load
from moesim.steps.step import StepModel, Steps, kernels_of, one_number
from moesim.steps.table import Composition, StepTable, StepTime


@dataclass(frozen=True)
class SpeculativeSteps:
    """Prices steps of a target and what drafts for it, on one pipeline stage."""

    target: Steps
    draft: StepModel | None
    """None where the text so far drafts."""
    drafting: Drafting

    @property
    def rank(self) -> Rank:
        return self.target.rank

    @property
    def machine(self) -> Machine:
        return self.target.machine

    @property
    def resident(self) -> SpeculativeSteps:
        return replace(self, target=self.target.resident)

    def load(self, groups: tuple[Group, ...], source_len: Any = 0) -> Load:
        return self.target.load(groups, source_len)

    def cost(self, name: str, load: Load, sampled: Any, encoder: bool = False) -> Cost:
        """A whole step of the target, which has a row of logits for every draft, and the drafts that follow."""
        target = self.target.cost(name, load, one_number(sampled + load.checked), encoder)
        if encoder or self.draft is None:
            return target
        return summed(name, [*(target.children or [target]), self._drafts(self.draft, load)])

    def stage_costs(self, load: Load, sampled: Any) -> list[Cost]:
        """One stage: an engine that speculates has no other."""
        return [self.cost("stage 0", load, sampled)]

    def schedule_cost(self, stages: list[Cost], load: Load) -> Cost:
        return self.target.schedule_cost(stages, load)

    def _drafts(self, draft: StepModel, load: Load) -> Cost:
        """All passes of the draft, with what they wait for their own launches. [s]"""
        first, later = draft_groups(load.groups, self.drafting)
        parts = [_pass("first draft pass", draft, first, load.sequences)]
        if self.drafting.passes:
            parts.append(replace(_pass("draft pass", draft, later, load.sequences), count=self.drafting.passes))
        return summed("drafts", parts)


def _pass(name: str, draft: StepModel, groups: tuple[Group, ...], sampled: Any) -> Cost:
    load = draft.load(groups)
    parts = draft.gpu_costs(draft.rank, load, sampled)
    gpu_s = sum(part.total for part in parts)
    launches = Host(load.sequences, kernels_of(parts), load.graph, gpu_s, schedules=False)
    return summed(name, [*parts, draft.machine.price("launches", launches)])


def draft_groups(groups: tuple[Group, ...], drafting: Drafting) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """(what the draft's first pass computes, what each further one does) after a step of ``groups``."""
    sequences: Any = sum(g.sequences for g in groups)
    behind: Any = sum(g.sequences * (g.past + g.query) for g in groups)
    later = (Group.decode(sequences, behind / np.maximum(sequences, 1)),)
    if drafting.method == "medusa":
        return later, later
    if drafting.slots:
        groups = tuple(g._replace(query=g.query + drafting.slots) for g in groups)
    return groups, later


class SpeculativeTable:
    """Seconds of the same steps, as ``StepTable`` has them of the target alone."""

    def __init__(self, steps: SpeculativeSteps):
        assert isinstance(steps.target, StepModel)
        self.steps = steps
        self._target = StepTable(steps.target)
        self._draft = StepTable(steps.draft) if steps.draft else None

    def time(self, replicas: Sequence[Composition]) -> StepTime:
        """As ``StepTable.time``: a step and its drafts."""
        found = self._target.time([part._replace(sampled=part.sampled + part.checked) for part in replicas])
        if self._draft is None:
            return found
        drafting, sequences = self.steps.drafting, max(part.sequences for part in replicas)
        pairs = [draft_groups(part.groups(), drafting) for part in replicas]
        seconds = self._draft.launched_s([first for first, _ in pairs], sequences)
        if drafting.passes:
            later = self._draft.launched_s([later for _, later in pairs], sequences)
            seconds = seconds + drafting.passes * later
        return StepTime(found.through + seconds, found.slowest + seconds)
