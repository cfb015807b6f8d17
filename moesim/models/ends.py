"""What stands before, after and between a model's layers: embedding, head and sampling, hops between stages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from moesim.models.frame import BF16, Frame, Named
from moesim.ops import Collective, Elementwise, Gemm, Sort


def hop_operations(at: Frame) -> Iterator[Named]:
    """Hidden states and residual to the next pipeline stage: each TP rank sends a slice, the receivers gather them."""
    rank = at.rank
    whole = 2 * BF16 * at.tokens * at.hidden
    between = rank.plan.members("pp")[rank.stage : rank.stage + 2]
    yield "send_recv", Collective(whole / rank.tp, 2, "send_recv", between)
    if rank.tp > 1:
        yield "gather_hidden", at.collective(("tp",), "all_gather", whole)


def end_operations(at: Frame) -> Iterator[Named]:
    """Embedding in and norm out, where this stage holds them."""
    if at.rank.first:
        yield "embedding", Elementwise(at.tokens, 2 * BF16 * at.tokens * at.hidden)
        yield from at.reduce
    if at.rank.last:
        yield "final_norm", at.norm


def sampling_operations(at: Frame, sampled: Any) -> Iterator[Named]:
    """Head and sampling for ``sampled`` sequences, on the last stage."""
    rank, vocabulary = at.rank, at.rank.model.vocab_size
    if not rank.last:
        return
    sampled = max(sampled, 1) if isinstance(sampled, int) else np.maximum(sampled, 1)
    yield "lm_head", Gemm(sampled, -(-vocabulary // rank.tp), at.hidden, rank.model.head_weights)
    if rank.tp > 1:
        yield "gather_logits", at.collective(("tp",), "all_gather", BF16 * sampled * vocabulary)
    yield "sampling", Elementwise(sampled, 4 * 4.0 * sampled * vocabulary, 4)
    if rank.sampling != "greedy" and rank.engine.file.sampler.sorts:
        yield "sampling_sort", Sort(sampled, vocabulary)
