"""What a fixed number of slots does to tokens: how many are dropped, and how many slots are computed for nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.assembly import assemble
from moesim.experts.capacity import SPARSE_BLOCK, dropped_share, waste
from moesim.experts.placement import group_loads
from moesim.inputs.model_of import seen
from moesim.outcome import Prediction


@dataclass(frozen=True)
class Slots:
    """Of one layer in one step."""

    step: str
    tokens: int
    groups: int
    """Of tokens, which share out slots among themselves."""
    slots: int | None
    """Of an expert, for each group's tokens; None where they are not bounded."""
    dropped: float
    """Share of (token, expert) pairs that find no slot."""
    waste: float
    """Rows computed over (token, expert) pairs that ask for them."""


def slots(prediction: Prediction) -> tuple[Slots, ...]:
    """A decode step's and a full prompt step's; nothing where experts take what comes."""
    scenario = seen(prediction.scenario)
    if scenario.engine.moe_dispatch not in {"static_capacity", "dropping", "block_sparse"}:
        return ()
    parts = assemble(scenario)
    rank, load = parts.rank, scenario.workload
    ffn = rank.model.moe
    if ffn is None:
        return ()
    plan, dispatch = rank.plan, rank.dispatch
    decode = int(plan.share(load.size)) * plan.dp
    prompt = min(int(load.size * load.longest()[0]), parts.limits.max_num_batched_tokens * plan.dp)
    loads = group_loads(rank.routing, ffn.num_experts, ffn.num_experts_per_tok, 1, "linear", 0)
    capacity, found = dispatch.capacity(rank.groups), []
    for step, tokens in (("decode", decode), ("prefill", prompt)):
        asked = loads.top_k * tokens
        if not dispatch.bounded:
            rows = SPARSE_BLOCK * float(np.asarray(loads.blocks(tokens, SPARSE_BLOCK)))
            found.append(Slots(step, tokens, 1, None, 0.0, rows / asked))
            continue
        dropped = dropped_share(loads, tokens, capacity)
        computed = waste(loads, tokens, capacity) if dispatch.kind == "static_capacity" else 1.0 - dropped
        held = capacity.slots(tokens, loads.top_k, loads.num_experts) // capacity.groups
        found.append(Slots(step, tokens, capacity.groups, held, dropped, computed))
    return tuple(found)
