"""Kernels to time, one module a family: the columns of a table row -> calls that do it over rotating buffers.

``build(columns, device)`` of a module returns a ``Kernel``. vLLM's own kernels where it imports, plain torch otherwise;
``source`` says which. On the ``meta`` device builders allocate nothing, so that names and shapes can be checked
anywhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moesim.bench.point import Point
from moesim.bench.timing import Call, Times, time_calls

TABLES = {
    "gemm": "gemm",
    "fused_moe": "experts",
    "expert_loop": "experts",
    "attention_prefill": "attention",
    "attention_decode": "attention",
    "mla_prefill": "mla",
    "mla_decode": "mla",
    "elementwise": "small",
    "small": "small",
    "stream": "stream",
    "launch": "launch",
    "copy": "copies",
    "host_stream": "host",
    "host_matmul": "host",
    "host_expert": "host",
    "host_call": "host",
}
"""Table -> the module that builds its kernels."""


@dataclass(frozen=True)
class Kernel:
    """What is timed: calls that do the same over different buffers, and whose kernel it is."""

    calls: Sequence[Call]
    source: str
    graph: bool = True
    """Whether a CUDA graph may capture it."""
    copies: int = 0
    """Sets of operands the calls rotate through, where it is not one a call: what stays in L2 depends on it."""
    timer: Callable[[], Times] | None = None
    """How it is timed where calls alone do not say it: the host's time, two things at once."""

    def times(self, device: str) -> Times:
        return self.timer() if self.timer else time_calls(self.calls, device, self.graph)


def build(point: Point, device: str) -> Kernel:
    """A point's kernel with its buffers. Whatever torch raises passes through."""
    module = importlib.import_module(f"{__name__}.{TABLES[point.table]}")
    return module.build(point.table, dict(point.columns), device)


def vllm_ops() -> Any:
    """vLLM's custom operations, or None where they do not import."""
    try:
        ops = importlib.import_module("vllm._custom_ops")
        for extension in ("vllm._C_stable_libtorch", "vllm._moe_C_stable_libtorch"):
            importlib.import_module(extension)
        return ops
    except Exception:
        # An extension built for another torch or CUDA fails in many ways; plain torch then stands in.
        return None
