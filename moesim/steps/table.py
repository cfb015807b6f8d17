"""Seconds of one engine step from what it computes, fast enough to price every step of a long run.

The same operations, the same forms and the same overlap as a step's tree (``steps/step.py``). What depends on a step's
tokens alone is priced once for each number of tokens that occurs and kept; what depends on contexts is priced step by
step. Table and tree agree to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from moesim.models.blocks.block import Block
from moesim.models.ends import end_operations, hop_operations, sampling_operations
from moesim.models.frame import Frame
from moesim.models.model import Layers
from moesim.models.rank import Rank
from moesim.ops import Host
from moesim.ops.load import Group, Load
from moesim.steps.overlap import Beside, half, hidden_seconds, splits
from moesim.steps.pipelined import added_seconds
from moesim.steps.step import StepModel, exchanges_of, launches_of


class Composition(NamedTuple):
    """What a step computes on one data-parallel replica."""

    prefills: tuple[tuple[int, int], ...]
    """(new tokens, tokens before them) of each prompt chunk."""
    decodes: int
    context: Any
    """Mean tokens before the new one, over the decodes."""
    sampled: int
    """Sequences that get an output token."""
    checked: int = 0
    """Drafted tokens that are checked beside the decodes' own."""
    images: int = 0
    """Images that are encoded first."""

    @property
    def tokens(self) -> int:
        return self.decodes + self.checked + sum(new for new, _ in self.prefills)

    @property
    def sequences(self) -> int:
        return self.decodes + len(self.prefills)

    def groups(self) -> tuple[Group, ...]:
        """The same as attention sees it."""
        groups = tuple(Group(1, new, past) for new, past in self.prefills)
        if not self.decodes:
            return groups
        if not self.checked:
            return (*groups, Group.decode(self.decodes, self.context))
        each, rest = divmod(self.checked, self.decodes)
        query = 1 + each if not rest else 1.0 + self.checked / self.decodes
        return (*groups, Group.verify(self.decodes, query, self.context))


class StepTime(NamedTuple):
    """Of a step: what it takes, and how long after it the next one may enter the first stage. [s]"""

    through: Any
    slowest: Any


class StepPrices(Protocol):
    """Seconds of steps, of a model alone or with what drafts for it."""

    def time(self, replicas: Sequence[Composition]) -> StepTime: ...


class _Tokens(NamedTuple):
    """What one layer's operations take that depend on tokens alone. [s]"""

    moving: float
    computing: float
    kernels: int


class StepTable:
    """Prices steps of a model on its GPUs, in seconds."""

    def __init__(self, steps: StepModel):
        self.steps = steps
        self._by_images: dict[int, float] = {}
        self._stages = [_Stage(steps, rank) for rank in steps.rank.stages()]

    def time(self, replicas: Sequence[Composition]) -> StepTime:
        """A step of all data-parallel replicas, which run in lockstep: the slowest part of each counts.

        A single replica's ``context`` may be an array: as many steps, alike but for it.
        """
        loads = [self.steps.load(part.groups()) for part in replicas]
        sampled, sequences = (max(getattr(part, name) for part in replicas) for name in ("sampled", "sequences"))
        stages, kernels, graph = self._on_gpus(loads, sampled)
        found = self._with_host(stages, kernels, sequences, graph)
        images = max(part.images for part in replicas)
        if not images:
            return found
        encoded = self._image_seconds(images)
        return StepTime(found.through + encoded, found.slowest + encoded)

    def _image_seconds(self, images: int) -> float:
        seconds = self._by_images.get(images)
        if seconds is None:
            assert self.steps.images is not None
            seconds = self._by_images[images] = float(self.steps.images.cost(images).seconds)
        return seconds

    def launched_s(self, replicas: Sequence[tuple[Group, ...]], sampled: int) -> Any:
        """A pass that no scheduler composes, as a draft's, with what it waits for its own launches. [s]"""
        loads = [self.steps.load(groups) for groups in replicas]
        stages, kernels, graph = self._on_gpus(loads, sampled)
        host = Host(sampled, kernels[0], graph, stages[0], schedules=False)
        return stages[0] + self.steps.machine.host_seconds(host)

    def _on_gpus(self, loads: list[Load], sampled: int) -> tuple[list[Any], list[int], bool]:
        """(what each stage takes, the kernels it launches, whether in a graph)."""
        steps = self.steps
        fullest = max(loads, key=lambda load: load.tokens) if len(loads) > 1 else loads[0]
        split = all(bool(splits(steps.rank, load)) for load in loads)
        # What is routed comes from all replicas.
        tokens = sum(load.tokens for load in loads) / len(loads) if len(loads) > 1 else loads[0].tokens
        stages, kernels = [], []
        for stage in self._stages:
            found = [stage.seconds(load, fullest, tokens, sampled, split) for load in loads]
            stages.append(found[0][0] if len(found) == 1 else max(seconds for seconds, _ in found))
            kernels.append(max(count for _, count in found))
        return stages, kernels, bool(fullest.graph)

    def _with_host(self, stages: list[Any], kernels: list[int], sequences: int, graph: bool) -> StepTime:
        steps, host_seconds = self.steps, self.steps.machine.host_seconds
        if len(stages) == 1:
            through = stages[0]
            host = host_seconds(Host(sequences, kernels[0], graph, through, steps.ahead, ranks=steps.rank.tp))
            return StepTime(through + host, through + host)
        if not graph:
            stages = [
                seconds + host_seconds(Host(sequences, count, graph, seconds, schedules=False))
                for seconds, count in zip(stages, kernels, strict=True)
            ]
        through = sum(stages)
        host, composing = (
            host_seconds(Host(sequences, 0, True, gpu_s, steps.ahead, ranks=steps.rank.tp)) for gpu_s in (through, 0.0)
        )
        return StepTime(through + host, np.maximum(np.maximum.reduce(stages), composing))


class _Stage:
    """One stage's layers: what was priced of them by tokens, and what is priced by context."""

    def __init__(self, steps: StepModel, rank: Rank):
        self._steps, self._rank, self._machine = steps, rank, steps.machine
        self._layers = [layers for layers in rank.model.layers if not layers.encoder]
        self._by_tokens: dict[tuple[int, float, bool], tuple[list[_Tokens], float, int]] = {}
        self._routed = rank.model.moe is not None
        self._by_sampled: dict[int, tuple[float, int]] = {}
        self._cached = [_blocks_of_context(steps, rank, layers) for layers in self._layers]

    def seconds(self, load: Load, fullest: Load, tokens: float, sampled: int, split: bool) -> tuple[Any, int]:
        """(the GPU's time, kernels launched) of a step padded as the fullest, ``tokens`` a replica on average."""
        padded, graph = fullest.padded_tokens, bool(fullest.graph)
        tokens = tokens if self._routed else padded
        kinds, ends, kernels = self._of_tokens(padded, tokens, graph)
        head, more = self._of_sampled(sampled)
        total, kernels = ends + head, kernels + more
        contexts = _Contexts(self._machine, Frame(self._rank, load))
        halves = None
        for layers, whole, blocks in zip(self._layers, kinds, self._cached, strict=True):
            if not (split and layers.routed is not None):
                context, launched = contexts.seconds(blocks)
                total = total + layers.count * (whole.moving + whole.computing + context)
                kernels += layers.count * (whole.kernels + launched)
                continue
            if halves is None:
                halves = _Contexts(self._machine, Frame(self._rank, half(load)))
            context, launched = halves.seconds(blocks)
            part = self._of_tokens(-(-padded // 2), tokens / 2, graph)[0][self._layers.index(layers)]
            moving, computing = 2 * part.moving, 2 * (part.computing + context)
            hidden = hidden_seconds(self._rank, self._machine.gpu.sm_count, moving, computing)
            total = total + layers.count * (moving + computing - hidden)
            kernels += layers.count * 2 * (part.kernels + launched)
        return total, kernels

    def _of_tokens(self, padded: int, tokens: float, graph: bool) -> tuple[list[_Tokens], float, int]:
        """(each kind of layer, the ends and hop in seconds, operations of those) of a step padded to so many rows."""
        key = (padded, min(tokens, padded), graph)
        found = self._by_tokens.get(key)
        if found is None:
            at = Frame(self._rank, Load((Group(1, key[1], 0),), padded, graph))
            ends, hops = list(end_operations(at)), [] if self._rank.last else list(hop_operations(at))
            seconds = sum(float(self._machine.seconds(name, op)) for name, op in [*ends, *hops])
            kinds = [self._layer(layers, at) for layers in self._layers]
            found = self._by_tokens[key] = (kinds, seconds, sum(launches_of(op) for _, op in ends))
        return found

    def _layer(self, layers: Layers, at: Frame) -> _Tokens:
        exchanges, moving, computing, kernels = exchanges_of(layers), 0.0, 0.0, 0
        beside = Beside(layers, at)
        for name, op in layers.operations(at):
            if op.of_context:
                continue
            seconds = float(self._machine.seconds(name, op))
            beside.take(name, op, seconds)
            kernels += launches_of(op)
            if name in exchanges:
                moving += seconds
            else:
                computing += seconds
        computing += float(added_seconds(layers, at, self._machine.seconds))
        return _Tokens(moving, computing - float(beside.hidden_seconds(self._machine.gpu)), kernels)

    def _of_sampled(self, sampled: int) -> tuple[float, int]:
        found = self._by_sampled.get(sampled)
        if found is None:
            at = Frame(self._rank, Load((Group(1, 1, 0),), 1, True))
            operations = list(sampling_operations(at, sampled))
            seconds = sum(float(self._machine.seconds(name, op)) for name, op in operations)
            found = self._by_sampled[sampled] = (seconds, sum(launches_of(op) for _, op in operations))
        return found


class _Contexts:
    """What blocks take that depends on contexts; equal blocks of several kinds of layers are priced once."""

    def __init__(self, machine: Any, at: Frame):
        self._machine, self._at = machine, at
        self._found: dict[Block, tuple[Any, int]] = {}

    def seconds(self, blocks: tuple[Block, ...]) -> tuple[Any, int]:
        """(seconds of one layer, operations)."""
        total: Any = 0.0
        kernels = 0
        for block in blocks:
            found = self._found.get(block)
            if found is None:
                operations = list(block.context_operations(self._at))
                priced = [self._machine.seconds(name, op) for name, op in operations]
                launches = sum(launches_of(op) for _, op in operations)
                found = self._found[block] = (sum(priced), launches)
            total, kernels = total + found[0], kernels + found[1]
        return total, kernels


def _blocks_of_context(steps: StepModel, rank: Rank, layers: Layers) -> tuple[Block, ...]:
    """Blocks with operations that depend on context."""
    at = Frame(rank, steps.load((Group.decode(1, 1),)))
    return tuple(block for block in layers.blocks if any(op.of_context for _, op in at.operations(block)))
