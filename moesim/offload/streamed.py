"""Whole layers that stream to the GPU or run on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.host import HostMachine
from moesim.layer import Load
from moesim.memory import kv_bytes_per_token
from moesim.offload import memory
from moesim.offload.plan import OffloadPlan
from moesim.offload.sections import Sections
from moesim.ops.host import Copy
from moesim.rank import Rank
from moesim.spec.model import Layers, MoeFfn

_TENSORS_AROUND = 7
"""Attention's four matrices, two norms, the router."""


HEAD = -1
"""Stands where a kind of layer would, for what comes after the last layer."""


def copies_of(plan: OffloadPlan, kind: int) -> Copy:
    """How a layer of a kind, or the head, comes over the link."""
    return Copy(1, head_stream(plan)) if kind == HEAD else layer_copies(plan.rank, plan.rank.model.layers[kind])


def layer_copies(rank: Rank, layers: Layers) -> Copy:
    """One copy for every tensor of a layer."""
    ffn = layers.ffn
    tensors = _TENSORS_AROUND + (3 * ffn.num_experts if isinstance(ffn, MoeFfn) else 3)
    return Copy(tensors, memory.layer_bytes(rank, layers) / tensors)


def head_stream(plan: OffloadPlan) -> float:
    """Head and what comes after the last layer, where those are off the GPU. [B]"""
    total = memory.weight_bytes(plan.rank)
    sizes = sum(memory.layer_bytes(plan.rank, plan.rank.model.layers[i]) for i in plan.rank.model.order)
    return max(total - sizes - plan.tiers.trunk, 0.0)


def cpu_layer(around: HostMachine, plan: OffloadPlan, layers: Layers, load: Load, kind: Sections) -> tuple[Any, Any]:
    """A whole layer on the CPU: (weights it touches and its cache through memory, or its arithmetic; disk). [s]"""
    rank, ffn, tokens = plan.rank, layers.ffn, np.asarray(load.tokens)
    hidden = rank.model.hidden_size
    weights = memory.layer_bytes(rank, layers)
    per_token = layers.attention.parameters(hidden)
    if isinstance(ffn, MoeFfn):
        each = memory.expert_bytes(rank, ffn)
        weights = weights - (ffn.num_experts - kind.distinct) * each
        per_token += ffn.num_experts_per_tok * ffn.expert_parameters(hidden) + ffn.shared_parameters(hidden)
    else:
        per_token += ffn.parameters(hidden)
    context = sum(g.sequences * (g.past + g.query) for g in load.groups)
    cache = context * kv_bytes_per_token(rank) / rank.model.num_hidden_layers
    busy = around.cpu_seconds(weights + cache, 2.0 * tokens * per_token)
    return busy, plan.disk_share * around.disk_seconds(weights) if plan.disk_share else 0.0 * busy
