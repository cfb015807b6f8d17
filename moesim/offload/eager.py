"""A layer as PyTorch runs it in eager mode: one operation after the other, one expert after the other.

The host launches operations; the GPU works through them; where the host is slower, it sets the pace. Quantised
matrices unpack their scales and their weights at every use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moesim.cost.cost import Cost, summed
from moesim.cost.host import HostMachine
from moesim.cost.machine import Machine
from moesim.ops import Elementwise, Gemm
from moesim.ops.formats import HQQ_GROUP
from moesim.ops.host import Unpack
from moesim.rank import Rank
from moesim.spec.model import Attention, DenseFfn, Layers, MoeFfn
from moesim.spec.system_file import Runtime

_SCALE_PASS_BYTES = 11.0
"""Through memory for one 8-bit scale or zero: read it, and write, shift and scale it in 16 bits (three operations)."""
_SCALES = 2
_USE_BYTES = 2.0
"""And its use in the product."""


def expert_cost(machine: Machine, host: HostMachine, rank: Rank, ffn: MoeFfn, rows: Any) -> Cost:
    """One expert on ``rows`` of its tokens, on the GPU alone."""
    hidden, width, fmt = rank.model.hidden_size, ffn.width, rank.experts
    up = Gemm(rows, width, hidden, fmt)
    parts = [machine.price("expert_up_proj", up)]
    if ffn.gated:
        parts.append(machine.price("expert_gate_proj", up))
    parts.append(machine.price("expert_down_proj", Gemm(rows, hidden, width, fmt)))
    around = Elementwise(rows, rows * 2.0 * (3 * width + 4 * hidden), 6)
    parts.append(machine.price("expert_around", around))
    parts += _unpacked(host, fmt, ffn.expert_parameters(hidden))
    return summed("expert", parts)


def attention_unpacking(host: HostMachine, rank: Rank, layers: Layers) -> list[Cost]:
    """Scales and packed weights of a layer's other matrices."""
    weights = layers.attention.parameters(rank.model.hidden_size)
    ffn = layers.ffn
    hidden = rank.model.hidden_size
    weights += ffn.parameters(hidden) if isinstance(ffn, DenseFfn) else ffn.shared_parameters(hidden)
    return list(_unpacked(host, rank.linear, weights))


def _unpacked(host: HostMachine, fmt: str, weights: float) -> Iterator[Cost]:
    runtime = host.system.runtime
    if fmt not in HQQ_GROUP:
        return
    passed = _SCALE_PASS_BYTES if runtime.unpacks_scales else 0.0
    scale_bytes = _SCALES * weights / HQQ_GROUP[fmt] * (passed + _USE_BYTES)
    yield host.unpack("unpack", Unpack(weights, scale_bytes, fmt))


def before_launches(runtime: Runtime, attention: Attention) -> float:
    """PyTorch operations of a layer up to its experts."""
    assert runtime.attention_operations and runtime.linear_operations
    matrices = 4 if attention.mla is None else 5
    return runtime.attention_operations.value + matrices * runtime.linear_operations.value


def ffn_launches(runtime: Runtime, ffn: DenseFfn | MoeFfn) -> float:
    """PyTorch operations of a dense feed-forward block, of shared experts, or of one routed expert's matrices."""
    assert runtime.linear_operations
    return (2 + ffn.gated) * runtime.linear_operations.value + 2
