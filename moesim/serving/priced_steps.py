"""Steps of some numbers of decodes, alone and with a prompt, priced at once: what the closed form is made of."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from moesim.cost.cost import Cost, reduced, summed
from moesim.engines.scheduling import SchedulerLimits
from moesim.inputs.workload import Lognormal, Uniform, Workload
from moesim.ops.load import Group, Load
from moesim.steps.pipeline import decode_cycle
from moesim.steps.step import Steps

Array = np.ndarray[Any, Any]

_NODES, _SIDE_BY_SIDE = 24, 4
_LENGTHS = 6
"""Prompts of different length that a mean is taken over: what a step takes jumps where it leaves the CUDA graphs."""


def nodes_up_to(most: float, count: int = _NODES) -> Array:
    """Numbers of sequences that decode at once, at which steps are priced."""
    return np.unique(np.rint(np.geomspace(1, max(most, 1), count))).astype(np.int64)


def _numbers_up_to(most: float) -> Array:
    """Of whole prompts in a step: one, as many as fit, and some between."""
    return np.unique(np.rint(np.geomspace(1, max(int(most), 1), _SIDE_BY_SIDE))).astype(np.int64)


class _Mixed(NamedTuple):
    """A step with prompt tokens among it: of one stage, or on its way through several."""

    cost: Cost
    slowest: Any
    """What the slowest stage needs for it: the engine's time. [s]"""


class PricedSteps:
    """Steps of a replica at ``nodes`` numbers of sequences that decode at once.

    Of a pipeline a decode step is from a sequence's token to its next, its sequences in as many micro-batches as there
    are stages; a prompt passes them all, and holds the others up by what it adds to the slowest.
    """

    def __init__(self, steps: Steps, limits: SchedulerLimits, nodes: Array, load: Workload):
        prompt, output = load.mean_input_len, load.mean_output_len
        plan = steps.rank.plan
        self._nodes = nodes
        new, past = (
            np.maximum(np.rint(share * prompt * relative_lengths(load)), least).astype(np.int64)[:, None]
            for share, least in ((1.0 - load.cached_share, 1), (load.cached_share, 0))
        )
        self._new = float(new.mean())
        together = np.minimum(plan.micro_batches or plan.pp, nodes)
        each = -(-nodes // together)  # sequences of a micro-batch
        budget = np.maximum(limits.max_num_batched_tokens - each * (1 + len(steps.rank.kept)), 1)
        if limits.long_prefill_token_threshold:
            budget = np.minimum(budget, limits.long_prefill_token_threshold)
        chunks = -(-new // budget)
        size = np.ceil(new / chunks).astype(np.int64)
        before = (past + (chunks - 1) / 2 * size).astype(np.int64)
        context = np.full(len(nodes), int(prompt + output / 2))
        decodes = steps.load((steps.rank.decoding(each, context),))
        self._decode = decode_cycle(steps, decodes, each, together)
        # A row a length of prompt, and then steps of several whole prompts; all are priced as one array.
        self._side_by_side = _numbers_up_to(budget[0] / self._new)
        many, rows = self._side_by_side, chunks.size
        decoding, contexts, prompts, query, cached = (
            np.concatenate([np.broadcast_to(x, chunks.shape).ravel(), np.broadcast_to(y, many.shape)]).astype(np.int64)
            for x, y in ((each, 1), (context, context[0]), (1, many), (size, round(self._new)), (before, past.mean()))
        )
        mixed_load = steps.load((Group(prompts, query, cached), steps.rank.decoding(decoding, contexts)))
        if load.images is not None:
            # A chunk encodes as many images as its share of the prompt holds.
            mixed_load = replace(mixed_load, images=prompts * query / self._new * load.images.per_request)
        mixed = _mixed_step(steps, mixed_load, decoding + prompts)
        self._mixed, self._rows = mixed.cost, rows
        self._alone = np.broadcast_to(self._decode.seconds, nodes.shape)
        all_through, all_slowest = (np.broadcast_to(x, decoding.shape) for x in (mixed.cost.seconds, mixed.slowest))
        self._full = all_slowest[rows:]
        through, slowest = (x[:rows].reshape(chunks.shape) for x in (all_through, all_slowest))
        # An engine of one stage decodes in the same time; the slowest stage of several has its part of a cycle.
        busy = self._alone / together
        self._own = (chunks * through).mean(0)
        self._extra = (chunks * np.maximum(slowest - busy, 0.0)).mean(0)
        self._chunks = float(chunks.mean())

    @property
    def most(self) -> int:
        """Sequences at once, up to which steps are priced."""
        return int(self._nodes[-1])

    def at(self, running: float) -> tuple[float, float]:
        """(a step that only decodes, what a prompt adds). [s]"""
        return self._between(self._alone, running), self._between(self._extra, running)

    def at_random(self, rate: float, tokens: float, together: float, most: float) -> tuple[float, float]:
        """(mean sequences that decode at once, share of the time none does) where ``rate`` prompts a second come at
        random.

        Processor sharing whose speed depends on how many share it: there are n with a probability in proportion to the
        product of ``rate tokens step(i) / i`` over i up to n, whatever the law of lengths. ``together`` is how many
        prompts replicas in lockstep take in a step, over one's own.
        """
        n = np.arange(1, int(most) + 1)
        busy = np.minimum(rate * together * np.interp(n, self._nodes, self._extra), 0.99)
        step = np.interp(n, self._nodes, self._alone) / (1.0 - busy)
        weight = np.concatenate([[0.0], np.cumsum(np.log(rate * tokens * step / n))])
        chance = np.exp(weight - weight.max())
        chance /= chance.sum()
        return float(np.arange(len(chance)) @ chance), float(chance[0])

    def own(self, running: float) -> float:
        """The steps that compute a prompt beside the decodes. [s]"""
        return self._between(self._own, running)

    def burst(self, prompts: int, budget: int, request_s: float, turn_s: float) -> Array:
        """Times to first token of ``prompts`` that come at once: read one by one, computed a step full at a time. [s]

        Those whose prompts are done decode beside the others.
        """
        together = min(max(budget / self._new, 1.0), prompts)
        before = np.arange(prompts)
        decodes = np.interp(before, self._nodes, self._alone) * (before > 0)
        if together >= 2.0:
            # A step's prompts read weights once, and so do the decodes beside them.
            step = float(np.interp(together, self._side_by_side, self._full))
            each = (step + np.maximum(decodes - self._alone[0], 0.0)) / together
        else:
            each = np.interp(np.maximum(before, 1.0), self._nodes, self._extra) + decodes / together
        read = request_s + turn_s * (before + 1.0)
        passed = np.cumsum(each)
        ends = passed + np.maximum.accumulate(np.maximum(read + each - passed, 0.0))
        # A token comes when its step ends; where more than one step is needed, the first takes the first prompt alone.
        rest_of_step = (together - 1.0) / 2.0 * float(each.mean())
        return ends + rest_of_step + (0.0 if together >= prompts else self.own(1))

    def in_a_row(self, running: float) -> float:
        """What each of a row of prompts adds: beside decodes, or less where a step takes several of them whole. [s]"""
        extra, most = self._between(self._extra, running), float(self._side_by_side[-1])
        return min(extra, float(self._full[-1]) / most) if most >= 2.0 else extra

    def joined(self, others: float, running: float) -> float:
        """What a prompt waits longer where ``others`` share its step: whole ones read weights once. [s]"""
        most = float(self._side_by_side[-1])
        if most < 2.0:
            return others * self._between(self._extra, running)
        whole = float(np.interp(others + 1.0, self._side_by_side, self._full)) * max((others + 1.0) / most, 1.0)
        return max(whole - float(self._full[0]), 0.0)

    def _between(self, values: Array, running: float) -> float:
        return float(np.interp(running, self._nodes, values))

    def cost(self, running: float, tokens: float) -> Cost:
        """Both kinds of step at the nearest priced size, as often as they come; an answer takes ``tokens`` steps.

        ``running`` is the mean while there is any.
        """
        place = int(np.argmin(np.abs(self._nodes - running)))
        mixed = min(self._chunks * running / tokens, 1.0 - 1e-6)

        def one(x: Any, share: float) -> float:
            x = np.asarray(x, float)
            if x.size == 1:
                return share * float(x.reshape(-1)[0])
            own = x[: self._rows] if x.size > len(self._nodes) else x
            return share * float(own.reshape(-1, len(self._nodes)).mean(0)[place])

        kinds = ((self._decode, 1.0 - mixed), (self._mixed, mixed))
        return summed("step", [reduced(cost, lambda x, share=share: one(x, share)) for cost, share in kinds])


def _mixed_step(steps: Steps, load: Load, sampled: Any) -> _Mixed:
    if steps.rank.plan.pp == 1:
        cost = steps.cost("prefill", load, sampled)
        return _Mixed(cost, cost.seconds)
    stages = steps.stage_costs(load, sampled)
    cost = summed("prefill", [*stages, steps.schedule_cost(stages, load)])
    return _Mixed(cost, np.max([np.broadcast_to(stage.seconds, np.shape(cost.seconds)) for stage in stages], axis=0))


def relative_lengths(load: Workload) -> Array:
    """Prompt lengths over their mean, each standing for as many prompts as every other."""
    law, middles = load.lengths, (np.arange(_LENGTHS) + 0.5) / _LENGTHS
    if isinstance(law, Uniform):
        lengths = law.low + (law.high - law.low) * middles
    elif isinstance(law, Lognormal):
        lengths = np.exp(law.sigma * np.array([NormalDist().inv_cdf(x) for x in middles]))
    else:
        return np.ones(1)
    text = 1.0 - load.picture_len / load.mean_input_len
    return 1.0 + text * (lengths / lengths.mean() - 1.0)
