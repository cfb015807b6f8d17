"""An engine version's file under ``calibration/engines/``: defaults, graphs, reserves, kernels, with their sources."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field

from moesim.files.quantities import Bytes, Count, Seconds, Size, Strict


class ByGpu(Strict):
    """A default that large GPUs have higher."""

    large_gpu: int = Field(ge=1)
    other_gpu: int = Field(ge=1)


class Defaults(Strict):
    """What a setting is where a scenario leaves it out."""

    source: str
    large_gpu_from: Size
    """GPU memory from which a GPU counts as large. [B]"""
    never_large: list[str] = []
    """Compute capabilities that do not, whatever their memory."""
    max_num_batched_tokens: ByGpu
    max_num_seqs: ByGpu
    gpu_memory_utilization: float = Field(gt=0, le=1)
    block_size: int = Field(ge=1)
    async_scheduling: bool


class GraphSizes(Strict):
    """Sizes of ``by`` tokens apart, from ``start`` up to below ``below`` (or up to the largest, where that is null)."""

    start: int = Field(ge=1)
    below: int | None = None
    by: int = Field(ge=1)


class Graphs(Strict):
    """Which step sizes run as CUDA graphs. [tokens]"""

    source: str
    first: list[int]
    then: list[GraphSizes]
    largest: int = Field(ge=1)

    def sizes(self, largest: int) -> np.ndarray[Any, Any]:
        """Captured sizes up to ``largest`` tokens."""
        found = list(self.first)
        for part in self.then:
            found += range(part.start, min(part.below or largest + 1, largest + 1), part.by)
        return np.array([n for n in found if n <= largest])


class Reserves(Strict):
    """Memory that is neither weights, activations nor cache. [B]"""

    cuda_context: Bytes
    nccl_2_ranks: Bytes
    nccl_more_ranks: Bytes
    custom_all_reduce: Bytes
    cuda_graphs: Bytes
    attention_workspace: Bytes
    deepep_buffer: Bytes

    def communication_bytes(self, ranks: int, custom: bool) -> float:
        """Buffers of a group: NCCL's, and the custom all-reduce's where it has one. [B]"""
        if ranks == 1:
            return 0.0
        nccl = self.nccl_2_ranks if ranks == 2 else self.nccl_more_ranks
        return nccl.value + (self.custom_all_reduce.value if custom else 0.0)


class Sampler(Strict):
    """Bytes for each (sequence, vocabulary entry) while the largest batch is sampled."""

    source: str
    sharded: float = Field(gt=0)
    """Of a rank's own slice of the vocabulary."""
    gathered: float = Field(gt=0)
    """Of the whole vocabulary, on every rank."""


class Exchange(Strict):
    """How an engine sends tokens to experts."""

    deepep_sms: Count
    low_latency_tokens: Count
    """Tokens of a step by default under DeepEP's low-latency kernels."""
    low_latency_most_tokens: Count
    dbo_decode_tokens: Count
    dbo_prefill_tokens: Count
    """Tokens from which a step is split in two micro-batches."""


class FrontEndTimes(Strict):
    """What a request passes in the engine's own server before the scheduler sees it. [s]"""

    request: Seconds
    """Network, parsing and streaming of one request, side by side with others."""
    prompt_token: Seconds
    """Turning text into tokens, per token, one prompt at a time."""


Sizes = dict[str, dict[int, Size]]
"""Compute capability (or ``default``) -> ranks -> bytes."""


class AllReduceRule(Strict):
    """Which all-reduce an engine uses for a message inside a node with NVSwitch."""

    custom_below: Sizes
    symmetric_memory_up_to: Sizes

    def kernels(
        self, compute_capability: str, ranks: int, message_bytes: Any, custom_allowed: bool = True
    ) -> dict[str, Any]:
        """Which messages go to ``custom``, ``symmetric_memory`` and ``nccl``: a mask each, for those that get any."""
        below, up_to = (
            limits.get(compute_capability, limits["default"]).get(ranks, 0.0)
            for limits in (self.custom_below, self.symmetric_memory_up_to)
        )
        size = np.asarray(message_bytes)
        custom = (size < below) & custom_allowed
        symmetric = ~custom & (size <= up_to)
        masks = {"custom": custom, "symmetric_memory": symmetric, "nccl": ~custom & ~symmetric}
        return {name: mask for name, mask in masks.items() if mask.any()}


class ExpertKernel(Strict):
    """What runs experts of a weight format, and whose constants price it."""

    family: str
    kernel: Literal["triton", "marlin", "triton_kernels", "flashinfer_cutlass"]
    related: bool = False
    """The family is another kernel's, standing in."""
    padded: bool = False
    """Widths are padded to 128 and hidden sizes to 256 first (Marlin under mxfp4)."""
    sorts_own_rows: bool = False
    """Kernels around the products see a rank's own rows alone: they are sorted out first."""
    map_widening: float = Field(1.5, ge=1)
    """Widening of the interval under an expert map, which no fitted row ran."""


class LinearKernel(Strict):
    """What prices dense products of a weight format."""

    family: str
    related: bool = False


class Kernels(Strict):
    """Weight format -> kernel; ``experts_by_backend`` where a scenario asks for one by name."""

    source: str
    experts: dict[str, ExpertKernel]
    experts_by_backend: dict[str, dict[str, ExpertKernel]] = {}
    linear: dict[str, LinearKernel]

    def of_experts(self, weights: str, backend: str) -> ExpertKernel:
        """The kernel for a format under a backend (``auto`` is the engine's own choice)."""
        return self.experts_by_backend.get(backend, {}).get(weights) or self.experts[weights]


class EngineFile(Strict):
    """Everything that ``calibration/engines/<name>/<version>.yaml`` says."""

    name: str
    version: str
    stands_for: list[str]
    """Versions that this file describes."""
    other_versions: Literal["nearest", "refused"]
    """Whether a version no file describes is taken as the nearest one, with wider intervals, or refused."""
    scheduler: str
    """Which of the engine's schedulers composes steps."""
    defaults: Defaults
    graphs: Graphs
    reserves: Reserves
    sampler: Sampler
    kernels: Kernels
    all_reduce: AllReduceRule
    exchange: Exchange
    front_end: FrontEndTimes
    doubts: list[str] = []

    @cached_property
    def key(self) -> tuple[str, str]:
        return self.name, self.version
