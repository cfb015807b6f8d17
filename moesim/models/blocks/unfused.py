"""Routed experts that no fused kernel runs: in a loop, or in slots that tokens are laid into and read out of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.models.frame import BF16, Frame, Named
from moesim.ops import Elementwise, Gemm, LoopedExperts

if TYPE_CHECKING:
    from moesim.models.blocks.moe import Moe
    from moesim.models.rank import Rank


_MASK_BYTES = BF16 + 1.0
"""Of a (token, slot) pair: its weight in 16 bits, and whether it is filled."""


def looped(ffn: Moe, at: Frame, rows: Any) -> LoopedExperts:
    """Experts one after the other: whole ones over all rows, or the plan's slices over their own rows."""
    rank, plan, seen = at.rank, at.rank.plan, ffn.seen(at.hidden)
    if rank.dispatch.all_rows:
        count = -(-ffn.num_experts // (plan.ep * plan.expert_tp))
        return LoopedExperts(rows, count, seen, ffn.width, ffn.gated, ffn.experts)
    loads = rank.loads(ffn)
    touched = _number(np.maximum(loads.distinct(rows), 1e-3))
    each = _number(np.maximum(loads.rows(rows) / touched, 1.0))
    return LoopedExperts(each, touched, seen, ffn.width // plan.expert_tp, ffn.gated, ffn.experts, own_rows=True)


def slots_of(ffn: Moe, at: Frame, mine: Any) -> Any:
    """Slots of all experts for one group's tokens."""
    capacity, k = at.rank.dispatch.capacity(1), ffn.num_experts_per_tok
    loads = at.rank.loads(ffn).whole
    return ffn.num_experts * loads.per_token_count(mine, lambda n: capacity.slots(n, k, ffn.num_experts))


def into_slots(ffn: Moe, at: Frame, mine: Any) -> Iterator[Named]:
    """A group's tokens laid into their experts' slots: sorted, or through one-hot masks (GShard)."""
    if at.rank.dispatch.kind != "static_capacity":
        return
    slots, hidden = slots_of(ffn, at, mine), ffn.seen(at.hidden)
    if not at.rank.dispatch.one_hot:
        yield "fill_slots", Elementwise(mine, BF16 * hidden * (mine + 2 * slots), 4)
        return
    yield "slot_masks", Elementwise(mine, _MASK_BYTES * mine * slots, 6)
    yield "fill_slots", Gemm(slots, hidden, mine)


def out_of_slots(ffn: Moe, at: Frame, mine: Any) -> Iterator[Named]:
    """Slots back to their tokens, weighted."""
    if at.rank.dispatch.kind != "static_capacity":
        return
    hidden = ffn.seen(at.hidden)
    if at.rank.dispatch.one_hot:
        yield "read_slots", Gemm(mine, hidden, slots_of(ffn, at, mine))
    else:
        yield "read_slots", Elementwise(mine, BF16 * hidden * mine * (ffn.num_experts_per_tok + 1), 2)


def slot_bytes(ffn: Moe, rank: Rank, tokens: int) -> float:
    """Peak of a layer's tensors where experts have slots or blocks: rows inside, slots around, one-hot masks. [B]"""
    hidden, width = rank.model.hidden_size, ffn.width / rank.plan.expert_tp
    seen, rows = ffn.seen(hidden), float(rank.loads(ffn).rows(tokens * rank.plan.dp))
    # Slots hold tokens before and after the experts; what is sorted goes straight through.
    held = 2 * seen if rank.dispatch.kind == "static_capacity" else 0
    inside = BF16 * rows * (max((1 + ffn.gated) * width, seen) + width + held)
    masks = 0.0
    if rank.dispatch.one_hot:
        mine = -(-tokens * rank.plan.dp // rank.groups)
        slots = rank.dispatch.capacity(1).slots(mine, ffn.num_experts_per_tok, ffn.num_experts)
        masks = _MASK_BYTES * mine * ffn.num_experts * slots
    return inside + masks + BF16 * tokens * hidden


def _number(x: Any) -> Any:
    """What is the same for every step, as the number it is."""
    return float(x) if np.ndim(x) == 0 else x
