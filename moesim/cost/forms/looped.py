"""Experts one after the other, as frameworks run them that fuse nothing: products, small kernels, and their sum.

No table of such a loop was measured: each part is priced as the kernel it is, by what was fitted of that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from moesim.cost.cost import Cost, summed
from moesim.cost.registry import prices
from moesim.ops.elementwise import Elementwise
from moesim.ops.experts import LoopedExperts
from moesim.ops.gemm import Gemm

_BF16 = 2.0


@prices(LoopedExperts)
def price(machine: Any, name: str, op: LoopedExperts) -> Cost:
    rows, width, hidden = op.rows_each, op.width, op.hidden
    up = machine.price("expert_up_proj", Gemm(rows, width, hidden, op.weights))
    act = Elementwise(rows, _BF16 * rows * width * (2 + 3 * op.gated), 1 + op.gated)
    down = machine.price("expert_down_proj", Gemm(rows, hidden, width, op.weights))
    around = machine.price("expert_rows", Elementwise(rows, op.bytes_around, op.kernels_around))
    each = [replace(up, count=1 + op.gated), machine.price("expert_act", act), down, around]
    one = summed("an expert", each)
    return replace(summed(name, [_times(child, op.experts) for child in one.children]), op=op, bound="memory")


def _times(cost: Cost, times: Any) -> Cost:
    """The same, a number of times that need not be whole."""
    spread = {term: (times * down, times * up) for term, (down, up) in cost.spread.items()}
    return replace(cost, seconds=cost.seconds * times, spread=spread, variance=cost.variance * times)
