"""Whole layers that stream to the GPU or run on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.host import HostMachine
from moesim.memory import kv_bytes_per_token
from moesim.models.model import Layers
from moesim.offload import memory
from moesim.offload.plan import OffloadPlan
from moesim.offload.sections import Sections
from moesim.ops.host import Copy
from moesim.ops.load import Load

_TENSORS_AROUND = 7
"""Attention's four matrices, two norms, the router."""


HEAD = -1
"""Stands where a kind of layer would, for what comes after the last layer."""


def copies_of(plan: OffloadPlan, kind: int, distinct: Any) -> Copy:
    """How a layer of a kind, or the head, comes over the link in a step that calls ``distinct`` of its experts."""
    if kind == HEAD:
        return Copy(1, head_stream(plan))
    layers = plan.rank.model.layers[kind]
    bytes_ = memory.bytes_off_gpu(plan.rank, plan.system, layers)
    tensors = _TENSORS_AROUND + sum(block.tensors for block in layers.blocks)
    ffn = layers.routed
    if plan.policy.streamed == "called" and ffn is not None:
        wide = bytes_ / memory.layer_bytes(plan.rank, layers)
        bytes_ = bytes_ - wide * (ffn.num_experts - distinct) * memory.expert_bytes(plan.rank, ffn)
        tensors = tensors - (ffn.num_experts - distinct) * ffn.tensors / ffn.num_experts
    return Copy(tensors, bytes_ / tensors)


def head_stream(plan: OffloadPlan) -> float:
    """Head and what comes after the last layer, where those are off the GPU. [B]"""
    total = memory.weight_bytes(plan.rank)
    sizes = sum(layers.count * memory.layer_bytes(plan.rank, layers) for layers in plan.rank.model.layers)
    return max(total - sizes - plan.tiers.trunk, 0.0)


def cpu_layer(around: HostMachine, plan: OffloadPlan, layers: Layers, load: Load, kind: Sections) -> tuple[Any, Any]:
    """A whole layer on the CPU: (weights it touches and its cache through memory, or its arithmetic; disk). [s]"""
    rank, ffn, tokens = plan.rank, layers.routed, np.asarray(load.tokens)
    weights = memory.layer_bytes(rank, layers)
    per_token = sum(block.parameters_per_token(rank.model.hidden_size) for block in layers.blocks)
    if ffn is not None:
        weights = weights - (ffn.num_experts - kind.distinct) * memory.expert_bytes(rank, ffn)
    context = sum(g.sequences * (g.past + g.query) for g in load.groups)
    cache = context * kv_bytes_per_token(rank) / rank.model.num_hidden_layers
    # Whole, however many GPUs have slices of other layers.
    busy = around.cpu_seconds(rank.tp * (weights + cache), 2.0 * tokens * per_token)
    return busy, plan.disk_share * around.disk_seconds(weights)
