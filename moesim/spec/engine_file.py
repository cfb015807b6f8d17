"""What an engine keeps for itself, from ``calibration/engines/``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from moesim import paths
from moesim.spec import yaml
from moesim.spec.quantities import Bytes, Count, Seconds, Size, Strict


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


Limits = dict[str, dict[int, Size]]
"""Compute capability (or ``default``) -> ranks -> bytes."""


class AllReduceRule(Strict):
    """Which all-reduce an engine uses for a message inside a node with NVSwitch."""

    custom_below: Limits
    symmetric_memory_up_to: Limits

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


class EngineFile(Strict):
    name: str
    reserves: Reserves
    all_reduce: AllReduceRule
    exchange: Exchange
    front_end: FrontEndTimes
    doubts: list[str] = []


@lru_cache(maxsize=4)
def load_engine(name: str = "vllm") -> EngineFile:
    """The shipped engine file."""
    return EngineFile.model_validate(yaml.read(paths.CALIBRATION / "engines" / f"{name}.yaml").data)
