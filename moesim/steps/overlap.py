"""Dual-batch overlap: two half batches; one exchanges tokens while the other computes on the SMs that are left.

One arithmetic for a step's tree and for the table of served runs: what is hidden is the shorter of what moves and what
computes, taken when a layer's token part and its context part are together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from moesim.models.rank import Rank
from moesim.ops.load import Load

FORMULA = "-min(computation, communication)"


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
    """What both halves' exchanges hide behind the other's computation. [s]"""
    saved = np.minimum(moving_s, computing_s)
    if rank.plan.backend == "deepep_high_throughput":
        # Its kernels borrow SMs from what computes.
        saved = saved * (1.0 - rank.engine.file.exchange.deepep_sms.value / sm_count)
    return saved
