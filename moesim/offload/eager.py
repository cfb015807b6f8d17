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
from moesim.inputs.system_file import Runtime
from moesim.models.blocks.moe import Moe
from moesim.models.model import Layers
from moesim.models.rank import Rank
from moesim.ops import Elementwise, Gemm
from moesim.ops.formats import group_of, kind
from moesim.ops.host import Unpack

_SCALE_PASS_BYTES = 11.0
"""Through memory for one 8-bit scale or zero: read it, and write, shift and scale it in 16 bits (three operations)."""
_SCALES = 2
_USE_BYTES = 2.0
"""And its use in the product."""


def expert_cost(machine: Machine, host: HostMachine, rank: Rank, ffn: Moe, rows: Any) -> Cost:
    """One expert on ``rows`` of its tokens, on the GPU alone."""
    hidden, width, fmt = rank.model.hidden_size, ffn.width, ffn.experts
    up = Gemm(rows, width, hidden, fmt)
    parts = [machine.price("expert_up_proj", up)]
    if ffn.gated:
        parts.append(machine.price("expert_gate_proj", up))
    parts.append(machine.price("expert_down_proj", Gemm(rows, hidden, width, fmt)))
    around = Elementwise(rows, rows * 2.0 * (3 * width + 4 * hidden), 6)
    parts.append(machine.price("expert_around", around))
    parts += _unpacked(host, fmt, ffn.expert_parameters(hidden))
    return summed("expert", parts)


def unpacking(host: HostMachine, rank: Rank, layers: Layers) -> list[Cost]:
    """Scales and packed weights of all matrices of a layer that are not routed experts."""
    hidden = rank.model.hidden_size
    formats: dict[str, int] = {}
    for block in layers.blocks:
        formats[block.weights] = formats.get(block.weights, 0) + block.linear_parameters(hidden)
    return [cost for fmt, weights in formats.items() for cost in _unpacked(host, fmt, weights)]


def _unpacked(host: HostMachine, fmt: str, weights: float) -> Iterator[Cost]:
    runtime = host.system.runtime
    if not kind(fmt).startswith("hqq"):
        return
    passed = _SCALE_PASS_BYTES if runtime.unpacks_scales else 0.0
    scale_bytes = _SCALES * weights / group_of(fmt) * (passed + _USE_BYTES)
    yield host.unpack("unpack", Unpack(weights, scale_bytes, fmt))


def launches(runtime: Runtime, layers: Layers) -> tuple[float, float, float]:
    """PyTorch operations of a layer: up to its experts, of one expert's matrices, and of shared experts after them."""
    assert runtime.attention_operations and runtime.linear_operations
    each = runtime.linear_operations.value

    def of(matrices: int) -> float:
        return matrices * each + 2

    before, expert, after = runtime.attention_operations.value, 0.0, 0.0
    for block in layers.blocks:
        if block.routed is not None:
            expert, after = of(block.routed.matrices_per_expert), of(block.matrices) if block.matrices else 0.0
        elif block.attention_heads:
            before += block.matrices * each
        else:
            before += of(block.matrices)
    return before, expert, after
