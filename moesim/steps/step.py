"""One engine step: all layers, the ends, and the host, as one cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from moesim.cost.cost import Cost, reduced, summed
from moesim.cost.machine import Machine
from moesim.models.ends import end_operations, hop_operations, sampling_operations
from moesim.models.frame import Frame
from moesim.models.model import Layers
from moesim.models.rank import Rank
from moesim.ops import Host
from moesim.ops.load import Group, Load
from moesim.steps.overlap import FORMULA, Beside, half, hidden_seconds, splits
from moesim.steps.pipelined import FORMULA as IN_PARTS
from moesim.steps.pipelined import added_seconds

if TYPE_CHECKING:
    from moesim.steps.images import ImageEncoder


class Steps(Protocol):
    """What prices steps: a model on its GPUs, or one whose weights are partly elsewhere."""

    @property
    def rank(self) -> Rank: ...

    @property
    def machine(self) -> Machine: ...

    @property
    def resident(self) -> Steps:
        """The same model with everything on its GPUs."""
        ...

    def load(self, groups: tuple[Group, ...], source_len: Any = 0) -> Load:
        """What a step of these groups computes."""
        ...

    def cost(self, name: str, load: Load, sampled: Any, encoder: bool = False) -> Cost:
        """A whole step on one pipeline stage: the GPU's time and the host's."""
        ...

    def stage_costs(self, load: Load, sampled: Any) -> list[Cost]:
        """The GPU's time of each stage of a pipeline, with its hop to the next and its launches."""
        ...

    def schedule_cost(self, stages: list[Cost], load: Load) -> Cost:
        """What scheduling a step adds to the stages of a pipeline."""
        ...


@dataclass(frozen=True)
class StepModel:
    """Prices steps of a model on one rank of a machine, or on a pipeline of them."""

    rank: Rank
    machine: Machine
    captured_tokens: int
    """The largest step that runs as a CUDA graph; 0 is none."""
    ahead: bool
    """Asynchronous scheduling."""
    images: ImageEncoder | None = None
    """What prices images, where requests have any."""

    @property
    def resident(self) -> StepModel:
        return self

    def load(self, groups: tuple[Group, ...], source_len: Any = 0) -> Load:
        tokens = one_number(sum(g.tokens for g in groups))
        if isinstance(tokens, float):
            # A mean over sequences times their number.
            tokens = round(tokens)
        padded, captured = self.rank.engine.padded_tokens(tokens, self.captured_tokens), tokens <= self.captured_tokens
        prompts = [g.sequences for g in groups if not g.generates]
        if prompts and not self.rank.graphs_prompts:
            without = one_number(sum(prompts) == 0)
            padded, captured = one_number(np.where(without, padded, tokens)), captured & without
        return Load(groups, padded, captured, source_len)

    def cost(self, name: str, load: Load, sampled: Any, encoder: bool = False) -> Cost:
        """A whole step: the GPU's time and the host's.

        Parameters
        ----------
        name : str
        load : Load
        sampled : int or ndarray
            Sequences that get a token out of this step.
        encoder : bool
            Run the encoder's layers instead of the decoder's, and no head.
        """
        parts = self.gpu_costs(self.rank, load, sampled, encoder)
        parts.append(self.host_cost(parts, load))
        if self.images is not None and np.any(load.images):
            parts.append(self.images.cost(load.images))
        return summed(name, parts)

    def stage_costs(self, load: Load, sampled: Any) -> list[Cost]:
        """Each stage of a pipeline, its hop to the next, and what it waits for its own launches outside graphs."""
        found = []
        for rank in self.rank.stages():
            parts = self.gpu_costs(rank, load, sampled)
            if not rank.last:
                parts += [self.machine.price(name, op) for name, op in hop_operations(Frame(rank, load))]
            if not np.all(load.graph):
                gpu_s = sum(part.total for part in parts)
                launches = Host(load.sequences, kernels_of(parts), load.graph, gpu_s, schedules=False)
                parts.append(self.machine.price("launches", launches))
            found.append(summed(f"stage {rank.stage}", parts))
        return found

    def schedule_cost(self, stages: list[Cost], load: Load) -> Cost:
        """What the GPUs wait for the host as it composes a step; without stages, all the time that takes it."""
        gpu_s = sum(stage.seconds for stage in stages)
        return self.machine.price("host", Host(load.sequences, 0, True, gpu_s, self.ahead, ranks=self.rank.tp))

    def host_cost(self, parts: list[Cost], load: Load) -> Cost:
        """What the host adds to a step on one stage whose GPU parts are ``parts``."""
        gpu_s = sum(part.total for part in parts)
        return self.machine.price(
            "host", Host(load.sequences, kernels_of(parts), load.graph, gpu_s, self.ahead, ranks=self.rank.tp)
        )

    def gpu_costs(self, rank: Rank, load: Load, sampled: Any, encoder: bool = False) -> list[Cost]:
        """What the GPU of a rank does in a step: its layers by kind, then what stands around them."""
        at, split = Frame(rank, load), splits(rank, load)
        parts = [self._layers(layers, at, split) for layers in rank.model.layers if layers.encoder == encoder]
        if encoder:
            return parts + self.source_caches(load)
        return [*parts, *self.ends(at, sampled)]

    def ends(self, at: Frame, sampled: Any) -> list[Cost]:
        """Embedding, head and sampling, as far as a stage holds them."""
        operations = [*end_operations(at), *sampling_operations(at, one_number(sampled))]
        priced = [self.machine.price(name, op) for name, op in operations]
        return [summed("embedding and head", priced)] if priced else []

    def operation_costs(self, layers: Layers, at: Frame) -> list[Cost]:
        """Every operation of a layer, in order; what is the same object is priced once."""
        priced: dict[int, Cost] = {}
        found: list[Cost] = []
        # All are kept while they are told apart by identity: one that is gone may lend its place to the next.
        operations = list(layers.operations(at))
        for name, op in operations:
            cost = priced.get(id(op))
            if cost is None:
                cost = priced[id(op)] = self.machine.price(name, op)
            found.append(cost if cost.name == name else replace(cost, name=name))
        return found

    def _layers(self, layers: Layers, at: Frame, split: Any) -> Cost:
        split = np.asarray(split) if layers.routed is not None else np.asarray(False)
        if split.all():
            return summed(layers.title, self._overlapped(layers, at), layers.count)
        whole = self._side_by_side(layers, at)
        if not split.any():
            return summed(layers.title, whole, layers.count)
        parts = [reduced(cost, lambda x: x * ~split) for cost in whole] + [
            reduced(cost, lambda x: x * split) for cost in self._overlapped(layers, at)
        ]
        return summed(layers.title, parts, layers.count)

    def _side_by_side(self, layers: Layers, at: Frame) -> list[Cost]:
        """Every operation of a layer, and what the shared expert's stream hides of it."""
        costs, beside = self.operation_costs(layers, at), Beside(layers, at)
        for cost in costs:
            beside.take(cost.name, cost.op, cost.seconds)
        costs += self._in_parts(layers, at)
        hidden = beside.hidden_seconds(self.machine.gpu)
        if not np.any(hidden):
            return costs
        text = "-min(shared - its bytes / HBM, routed)"
        hidden = hidden.item() if np.ndim(hidden) == 0 else hidden
        saved = Cost("shared expert beside routed", -hidden, {}, bound="overlap", formula=text, source="both above")
        return [*costs, saved]

    def _in_parts(self, layers: Layers, at: Frame) -> list[Cost]:
        """What cutting the exchange into parts adds or hides."""
        added = added_seconds(layers, at, self.machine.seconds)
        if not np.any(added):
            return []
        return [Cost("exchange in parts", added, {}, bound="overlap", formula=IN_PARTS, source="both above")]

    def _overlapped(self, layers: Layers, at: Frame) -> list[Cost]:
        """Two half batches, and what their overlap hides."""
        part = Frame(at.rank, half(at.load))
        operations = [replace(c, count=2) for c in self._side_by_side(layers, part)]
        exchanges = exchanges_of(layers)
        moving = sum((cost.total for cost in operations if cost.name in exchanges), 0.0)
        computing = sum((cost.total for cost in operations if cost.name not in exchanges), 0.0)
        hidden = hidden_seconds(at.rank, self.machine.gpu.sm_count, moving, computing)
        saved = Cost("hidden by overlap", -hidden, {}, bound="overlap", formula=FORMULA, source="both above")
        return [*operations, saved]

    def source_caches(self, load: Load) -> list[Cost]:
        """Keys and values of the source for every decoder layer that attends across."""
        result, at = [], Frame(self.rank, load)
        for layers in self.rank.model.layers:
            parts = [
                self.machine.price(name, op) for block in layers.blocks for name, op in block.source_operations(at)
            ]
            if parts and not layers.encoder:
                result.append(summed(f"{layers.title}: source cache", parts, layers.count))
        return result


def exchanges_of(layers: Layers) -> frozenset[str]:
    """Names of a layer's operations that move tokens between ranks."""
    return frozenset().union(*(block.exchanges for block in layers.blocks))


def kernels_of(parts: list[Cost]) -> int:
    """Kernels that a step's parts launch."""
    return sum(
        part.count * sum(c.count * launches_of(c.op) for c in part.children if c.bound != "overlap") for part in parts
    )


def launches_of(op: Any) -> int:
    """Kernels of an operation; one where it does not say."""
    return getattr(op, "launches", 1)


def one_number(x: Any) -> Any:
    """A load that is the same for every step, as the number it is."""
    if isinstance(x, (np.ndarray, np.generic)) and x.size and (x.size == 1 or (x == np.ravel(x)[0]).all()):
        return np.ravel(x)[0].item()
    return x
