"""What is left of the GPU for sequences under load, once weights are where the plan puts them."""

from __future__ import annotations

from moesim.engines.engine import Limits
from moesim.memory import Room, kv_bytes_per_token, longest_context, sequence_kv_bytes
from moesim.offload.plan import OffloadPlan


def room_beside(plan: OffloadPlan, limits: Limits, batch: int, context: int) -> Room:
    """Memory of the GPU, or of several that share the layers, as a scheduler sees it.

    Layers on the CPU keep their cache in main memory: of a token's cache each holds its share, and the fuller of them
    says how many tokens there are.
    """
    tiers, rank = plan.tiers, plan.rank
    weights = tiers.trunk + tiers.experts + tiers.buffers
    free = tiers.gpu_budget - weights - tiers.context - tiers.activations
    shares = ((plan.kv_share, free), (1.0 - plan.kv_share, tiers.dram_budget - tiers.dram))
    available = min(bytes_ / share for share, bytes_ in shares if share > 0)
    per_token, one = kv_bytes_per_token(rank), float(sequence_kv_bytes(rank, context, limits.block_size))
    return Room(
        tiers.gpu_total, tiers.gpu_budget, weights, tiers.activations, 0.0, 0.0, tiers.context, available, per_token,
        kv_blocks=max(int(available // (limits.block_size * per_token)), 0) if per_token else 0,
        kv_needed=batch * one,
        largest_batch=min(max(int(available // max(one, 1e-9)), 0), limits.max_num_seqs),
        longest_context=longest_context(rank, available / batch, limits.block_size),
        longest_alone=longest_context(rank, available, limits.block_size),
    )  # fmt: skip
