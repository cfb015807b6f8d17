"""Seconds of one engine step from what it computes, fast enough to price every step of a long run.

The same cost model as ``StepModel``, in tables: all operations whose time depends on the number of tokens alone are
priced once for every size; attention, which also depends on contexts, is priced step by step from its own formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from moesim.cost.cost import leaf_seconds
from moesim.layer import Load, attention_operations
from moesim.ops import Attention, Host, MlaModule
from moesim.ops.attention import Group
from moesim.rank import Rank
from moesim.spec.model import Layers
from moesim.step import StepModel

Array = np.ndarray[Any, Any]

_EXACT_UP_TO = 512
_NODES_PER_OCTAVE = 24
_JUMP = 0.005
"""A share of the time by which a kernel's change of tiles shows between two sizes."""


class Composition(NamedTuple):
    """What a step computes on one data-parallel replica."""

    prefills: tuple[tuple[int, int], ...]
    """(new tokens, tokens before them) of each prompt chunk."""
    decodes: int
    context: Any
    """Mean tokens before the new one, over the decodes."""
    sampled: int
    """Sequences that get an output token."""

    @property
    def tokens(self) -> int:
        return self.decodes + sum(new for new, _ in self.prefills)

    def groups(self) -> tuple[Group, ...]:
        """The same as attention sees it."""
        groups = tuple(Group(1, new, past) for new, past in self.prefills)
        return (*groups, Group(self.decodes, 1, self.context)) if self.decodes else groups


class StepTime(NamedTuple):
    """Of a step: what it takes, and how long after it the next one may enter the first stage. [s]"""

    through: Any
    slowest: Any


class StepPrices:
    """Prices steps of a model on its GPUs.

    Parameters
    ----------
    steps : StepModel
    max_num_batched_tokens, max_num_seqs : int
        The largest step that will be asked for.
    """

    def __init__(self, steps: StepModel, max_num_batched_tokens: int, max_num_seqs: int):
        self.steps = steps
        self._dense = _by_tokens(steps, max(max_num_batched_tokens, max_num_seqs, 1))
        self._head = _by_sampled(steps, max_num_seqs)
        self._attention = [_attention_layers(rank) for rank in steps.rank.stages()]
        self._kernels = self._count_kernels()

    def _count_kernels(self) -> int:
        load = self.steps.load((Group(1, 1, 1),))
        stages = self.steps.stage_costs(load, 1)
        return sum(part.count * len(part.children) for stage in stages for part in stage.children)

    def seconds(self, replicas: Sequence[Composition]) -> StepTime:
        """A step of all data-parallel replicas, which run in lockstep: the slowest part of each counts.

        A single replica's ``context`` may be an array: as many steps, alike but for it.
        """
        tokens = max(part.tokens for part in replicas)
        sampled = max(part.sampled for part in replicas)
        stages = [
            dense[tokens] + head[sampled] + max(self._attended(stage, part.groups()) for part in replicas)
            for stage, (dense, head) in enumerate(zip(self._dense, self._head, strict=True))
        ]
        return self._with_host(stages, max(part.decodes + len(part.prefills) for part in replicas), tokens)

    def _with_host(self, stages: list[Any], sequences: int, tokens: int) -> StepTime:
        through = sum(stages)
        slowest = stages[0] if len(stages) == 1 else np.maximum.reduce(stages)
        host = self.steps.machine.host_seconds(
            Host(sequences, self._kernels, self.steps.in_graph(tokens), through, self.steps.ahead)
        )
        return StepTime(through + host, slowest + host if len(stages) == 1 else np.maximum(slowest, host))

    def _attended(self, stage: int, groups: tuple[Group, ...]) -> Any:
        total: Any = 0.0
        load = self.steps.load(groups)
        for count, rank, layers in self._attention[stage]:
            for op in _attention_operations(rank, layers, load):
                total = total + count * self.steps.machine.attention_seconds(op)
        return total


@lru_cache(maxsize=64)
def _by_tokens(steps: StepModel, most: int) -> list[Array]:
    """Each stage's seconds for steps of 0 to ``most`` tokens, one of them sampled, attention left out."""
    nodes = _nodes(most)
    found = _at(steps, nodes)
    middles = ((nodes[1:] + nodes[:-1]) // 2)[np.diff(nodes) > 1]
    if len(middles):
        # Kernels change their tiles at some sizes: between two nodes around a jump every size is priced.
        between = np.stack([np.interp(middles, nodes, of) for of in found])
        there = _at(steps, middles)
        jumps = middles[(np.abs(between - there) > _JUMP * there).any(0)]
        after = np.searchsorted(nodes, jumps)
        inside = [np.arange(int(nodes[i - 1]) + 1, int(nodes[i])) for i in after]
        more = np.unique(np.concatenate([middles, *inside]))
        nodes, found = np.concatenate([nodes, more]), np.concatenate([found, _at(steps, more)], axis=1)
        order = np.argsort(nodes)
        nodes, found = nodes[order], found[:, order]
    return [np.interp(np.arange(most + 1), nodes, of) for of in found]


def _at(steps: StepModel, tokens: Array) -> Array:
    """Shape (stages, sizes)."""
    return np.stack(_without_attention(steps, tokens, np.ones_like(tokens)))


@lru_cache(maxsize=64)
def _by_sampled(steps: StepModel, most: int) -> list[Array]:
    """What sampling 0 to ``most`` sequences takes more than one."""
    nodes = _nodes(most)
    found = _without_attention(steps, np.ones_like(nodes), nodes)
    return [np.interp(np.arange(most + 1), nodes, of - of[0]) for of in found]


def _without_attention(steps: StepModel, tokens: Array, sampled: Array) -> list[Array]:
    """Each stage's seconds for steps of ``tokens`` tokens, attention left out."""
    load = steps.load((Group(tokens, 1, np.zeros_like(tokens)),))
    found = []
    for stage in steps.stage_costs(load, sampled):
        whole = np.broadcast_to(stage.seconds, tokens.shape).astype(float)
        for leaf, seconds in leaf_seconds(stage):
            if isinstance(leaf.op, (Attention, MlaModule)):
                whole = whole - seconds
        found.append(whole)
    return found


def _nodes(most: int) -> Array:
    """Sizes priced exactly: all small ones, then a few an octave."""
    small = np.arange(1, min(most, _EXACT_UP_TO) + 1)
    if most <= _EXACT_UP_TO:
        return small
    octaves = np.log2(most / _EXACT_UP_TO)
    large = np.unique(np.rint(np.geomspace(_EXACT_UP_TO, most, int(np.ceil(octaves * _NODES_PER_OCTAVE)) + 1)))
    return np.concatenate([small, large[1:]]).astype(np.int64)


def _attention_layers(rank: Rank) -> list[tuple[int, Rank, Layers]]:
    """(how many layers, on which rank, what they are) for every kind with attention of its own."""
    kinds: dict[Any, list[Any]] = {}
    for layers in rank.model.layers:
        if not layers.encoder:
            kinds.setdefault(layers.attention, []).append(layers)
    return [(sum(of.count for of in group), rank, group[0]) for group in kinds.values()]


def _attention_operations(rank: Rank, layers: Layers, load: Load) -> list[Any]:
    operations = attention_operations(rank, layers.attention, load)
    return [op for _, op in operations if isinstance(op, (Attention, MlaModule))]
