"""One engine step: all layers, the head, and the host, as one cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, summed
from moesim.cost.machine import Machine
from moesim.layer import Load, head_operations, layer_operations
from moesim.ops import Elementwise, Gemm, Host
from moesim.rank import Rank
from moesim.spec.model import Layers, MoeFfn

_CAPTURE_SIZES = np.array([1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)])
"""Batch sizes vLLM captures as CUDA graphs (config/vllm.py, default up to 512 tokens)."""


def padded_tokens(tokens: Any, eager: bool) -> Any:
    """Rows a step is padded to: the next captured size, up to the largest one."""
    if eager:
        return tokens
    index = np.searchsorted(_CAPTURE_SIZES, tokens)
    return np.where(index < len(_CAPTURE_SIZES), _CAPTURE_SIZES[np.minimum(index, len(_CAPTURE_SIZES) - 1)], tokens)


@dataclass(frozen=True)
class StepModel:
    """Prices steps of a model on one rank of a machine."""

    rank: Rank
    machine: Machine
    eager: bool = False

    def load(self, groups: tuple[Any, ...], source_len: Any = 0) -> Load:
        tokens = sum(g.sequences * g.query for g in groups)
        padded = padded_tokens(tokens, self.eager)
        graph = np.asarray(tokens) <= (0 if self.eager else _CAPTURE_SIZES[-1])
        return Load(groups, padded, graph, source_len)

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
        parts = self.gpu_costs(load, sampled, encoder)
        kernels = sum(part.count * len(part.children) for part in parts)
        gpu_s = sum(part.total for part in parts)
        host = self.machine.price("host", Host(load.sequences, kernels, load.graph, gpu_s))
        return summed(name, [*parts, host])

    def gpu_costs(self, load: Load, sampled: Any, encoder: bool = False) -> list[Cost]:
        """What the GPU does in a step: the layers by kind, then the head."""
        parts = [self._layers(layers, load) for layers in self.rank.model.layers if layers.encoder == encoder]
        if encoder:
            return parts + self._cross_caches(load)
        head = [self.machine.price(n, op) for n, op in head_operations(self.rank, load, sampled)]
        return [*parts, summed("embedding and head", head)]

    def _layers(self, layers: Layers, load: Load) -> Cost:
        priced: dict[int, Cost] = {}
        operations: list[Cost] = []
        # A list: every operation stays alive, so no id is given twice.
        for name, op in list(layer_operations(self.rank, layers, load)):
            if id(op) not in priced:
                priced[id(op)] = self.machine.price(name, op)
            operations.append(replace(priced[id(op)], name=name))
        return summed(_layer_name(layers), operations, layers.count)

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
            result.append(summed(f"{_layer_name(layers)}: source cache", parts, layers.count))
        return result


def _layer_name(layers: Layers) -> str:
    kind = "MoE" if isinstance(layers.ffn, MoeFfn) else "dense"
    spec = layers.attention
    reach = f", window {spec.window}" if spec.window else ""
    return f"{'encoder' if layers.encoder else 'decoder'} layer ({kind}{reach})"
