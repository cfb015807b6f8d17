"""Dual-batch overlap: two half batches; one exchanges tokens while the other computes, and each slows the other.

One arithmetic for a step's tree and for the table of served runs, taken when a layer's token part and its context part
are together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from moesim.cost.gpu import GpuNumbers
from moesim.models.frame import Frame
from moesim.models.model import Layers
from moesim.models.rank import Rank
from moesim.ops.load import Load

FORMULA = "-min(computation x a, communication x b) x (1/a + 1/b - 1), slowed a and b times beside each other"


def splits(rank: Rank, load: Load) -> Any:
    """Which steps the engine splits in two: those with enough tokens (vLLM config/parallel.py, dbo_*_threshold)."""
    if not rank.plan.overlap:
        return False
    exchange = rank.engine.file.exchange
    least = exchange.dbo_decode_tokens if load.only_generates else exchange.dbo_prefill_tokens
    return load.tokens >= least.value


def half(load: Load) -> Load:
    """One of the two halves of a step."""
    groups = tuple(g._replace(sequences=g.sequences * 0.5) for g in load.groups)
    return replace(load, groups=groups, padded_tokens=-(-load.padded_tokens // 2))


def hidden_seconds(rank: Rank, sm_count: int, moving_s: Any, computing_s: Any) -> Any:
    """What both halves' exchanges hide behind the other's computation. [s]

    Both go on side by side, each slower than alone, until one is done; the rest of the other runs alone.
    """
    exchange = rank.engine.file.exchange
    moving, computing = exchange.moving_beside.value, exchange.computing_beside.value
    if rank.plan.backend == "deepep_high_throughput":
        # Its kernels borrow SMs from what computes, and have them to themselves.
        moving, computing = 1.0, sm_count / (sm_count - exchange.deepep_sms.value)
    together = np.minimum(moving * moving_s, computing * computing_s)
    return together * max(1.0 / moving + 1.0 / computing - 1.0, 0.0)


class Beside:
    """The shared expert on a stream of its own: what of it hides behind the routed experts of a layer."""

    def __init__(self, layers: Layers, at: Frame):
        stream = at.rank.engine.file.shared_expert_stream if at.rank.shared_beside else None
        self._names = frozenset[str]().union(*(block.beside_experts for block in layers.blocks)) if stream else ()
        self._runs = bool(self._names) and at.tokens <= stream.value if stream else False
        self._shared: Any = 0.0
        self._bytes: Any = 0.0
        self._routed: Any = 0.0

    def take(self, name: str, op: Any, seconds: Any) -> None:
        """Note an operation of the layer."""
        if name in self._names:
            self._shared, self._bytes = self._shared + seconds, self._bytes + op.hbm_bytes
        elif name == "experts":
            self._routed = self._routed + seconds

    def hidden_seconds(self, gpu: GpuNumbers) -> Any:
        """No more than the routed experts take, nor what both draw from memory. [s]"""
        free = np.maximum(self._shared - self._bytes / gpu.hbm_bytes_per_s, 0.0)
        return np.where(self._runs, np.minimum(free, self._routed), 0.0)
