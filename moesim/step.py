"""One engine step: all layers, the head, and the host, as one cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, overlapped, reduced, summed
from moesim.cost.machine import Machine
from moesim.layer import EXCHANGES, Load, head_operations, hop_operations, layer_operations
from moesim.ops import Elementwise, Gemm, Host
from moesim.rank import Rank
from moesim.spec.engine_file import load_engine
from moesim.spec.model import Layers, MoeFfn

CAPTURED_BY_DEFAULT = 512
"""Tokens of the largest step vLLM runs as a CUDA graph, if max_num_seqs allows (config/vllm.py)."""


@lru_cache(maxsize=16)
def capture_sizes(largest: int) -> np.ndarray[Any, Any]:
    """Step sizes vLLM captures as CUDA graphs, up to ``largest`` tokens (config/vllm.py)."""
    return np.array([n for n in (1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)) if n <= largest])


def padded_tokens(tokens: Any, largest: int) -> Any:
    """Rows a step is padded to: the next captured size, up to the largest one; 0 is no graph at all."""
    if not largest:
        return tokens
    sizes = capture_sizes(largest)
    index = np.searchsorted(sizes, tokens)
    return np.where(index < len(sizes), sizes[np.minimum(index, len(sizes) - 1)], tokens)


@dataclass(frozen=True)
class StepModel:
    """Prices steps of a model on one rank of a machine, or on a pipeline of them."""

    rank: Rank
    machine: Machine
    captured_tokens: int = CAPTURED_BY_DEFAULT
    """The largest step that runs as a CUDA graph; 0 is none."""
    ahead: bool = True
    """Asynchronous scheduling."""

    def load(self, groups: tuple[Any, ...], source_len: Any = 0) -> Load:
        tokens = sum(g.sequences * g.query for g in groups)
        return Load(groups, padded_tokens(tokens, self.captured_tokens), self.in_graph(tokens), source_len)

    def in_graph(self, tokens: Any) -> Any:
        """Whether a CUDA graph runs steps of so many tokens."""
        return np.asarray(tokens) <= self.captured_tokens

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
        return summed(name, [*parts, self.host_cost(parts, load)])

    def stage_costs(self, load: Load, sampled: Any) -> list[Cost]:
        """The same for each stage of a pipeline, with its hop to the next."""
        found = []
        for rank in self.rank.stages():
            parts = self.gpu_costs(rank, load, sampled)
            if not rank.last:
                parts += [self.machine.price(name, op) for name, op in hop_operations(rank, load)]
            found.append(summed(f"stage {rank.stage}", parts))
        return found

    def host_cost(self, parts: list[Cost], load: Load) -> Cost:
        """What the host adds to a step whose GPU parts are ``parts``."""
        kernels = sum(part.count * len(part.children) for part in parts)
        gpu_s = sum(part.total for part in parts)
        return self.machine.price("host", Host(load.sequences, kernels, load.graph, gpu_s, self.ahead))

    def gpu_costs(self, rank: Rank, load: Load, sampled: Any, encoder: bool = False) -> list[Cost]:
        """What the GPU of a rank does in a step: its layers by kind, then embedding and head."""
        parts = [self._layers(rank, layers, load) for layers in rank.model.layers if layers.encoder == encoder]
        if encoder:
            return parts + self._cross_caches(load)
        head = [self.machine.price(n, op) for n, op in head_operations(rank, load, sampled)]
        return [*parts, summed("embedding and head", head)] if head else parts

    def _layers(self, rank: Rank, layers: Layers, load: Load) -> Cost:
        name = layer_name(layers)
        split = self._overlaps(load) if rank.plan.overlap and isinstance(layers.ffn, MoeFfn) else np.asarray(False)
        if split.all():
            return summed(name, self._overlapped(rank, layers, load), layers.count)
        whole = self._operations(rank, layers, load)
        if not split.any():
            return summed(name, whole, layers.count)
        halves = self._overlapped(rank, layers, load)
        parts = [reduced(cost, lambda x: x * ~split) for cost in whole] + [
            reduced(cost, lambda x: x * split) for cost in halves
        ]
        return summed(name, parts, layers.count)

    def _operations(self, rank: Rank, layers: Layers, load: Load) -> list[Cost]:
        priced: dict[int, Cost] = {}
        operations: list[Cost] = []
        # A list: every operation stays alive, so no id is given twice.
        for name, op in list(layer_operations(rank, layers, load)):
            if id(op) not in priced:
                priced[id(op)] = self.machine.price(name, op)
            operations.append(replace(priced[id(op)], name=name))
        return operations

    def _overlaps(self, load: Load) -> Any:
        """Which steps vLLM splits in two: those with enough tokens (config/parallel.py, dbo_*_token_threshold)."""
        decode = all(np.all(np.asarray(g.query) == 1) for g in load.groups)
        exchange = load_engine().exchange
        least = exchange.dbo_decode_tokens if decode else exchange.dbo_prefill_tokens
        return np.asarray(sum(g.sequences * g.query for g in load.groups)) >= least.value

    def _overlapped(self, rank: Rank, layers: Layers, load: Load) -> list[Cost]:
        """Two half batches; one exchanges tokens while the other computes on the SMs that are left."""
        half = replace(
            load,
            groups=tuple(g._replace(sequences=g.sequences * 0.5) for g in load.groups),
            padded_tokens=np.ceil(np.asarray(load.padded_tokens) / 2).astype(np.int64),
        )
        operations = [replace(cost, count=2) for cost in self._operations(rank, layers, half)]
        moving = [cost for cost in operations if cost.name in EXCHANGES]
        computing = [cost for cost in operations if cost.name not in EXCHANGES]
        hidden = overlapped("hidden by overlap", summed("", moving), summed("", computing))
        if rank.plan.backend == "deepep_high_throughput":
            lent = load_engine().exchange.deepep_sms.value / self.machine.gpu.sm_count
            hidden = replace(hidden, seconds=hidden.seconds * (1 - lent))
        return [*operations, hidden]

    def _cross_caches(self, load: Load) -> list[Cost]:
        """Keys and values of the source for every decoder layer that attends across."""
        result = []
        for layers in self.rank.model.layers:
            spec = layers.attention
            if not spec.cross:
                continue
            width = 2 * self.rank.kv_heads(spec) * spec.head_dim
            gemm = Gemm(load.padded_tokens, width, self.rank.model.hidden_size, self.rank.linear)
            write = Elementwise(load.padded_tokens, 2.0 * 2.0 * load.padded_tokens * width)
            parts = [self.machine.price("cross_kv_proj", gemm), self.machine.price("cross_kv_write", write)]
            result.append(summed(f"{layer_name(layers)}: source cache", parts, layers.count))
        return result


def layer_name(layers: Layers) -> str:
    """What a kind of layer is called in a cost tree."""
    kind = "MoE" if isinstance(layers.ffn, MoeFfn) else "dense"
    spec = layers.attention
    reach = f", window {spec.window}" if spec.window else ""
    return f"{'encoder' if layers.encoder else 'decoder'} layer ({kind}{reach})"
