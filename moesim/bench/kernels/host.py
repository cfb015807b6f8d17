"""What experts on the host cost: main memory, matrix products, an expert's feed-forward block, one small operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from moesim.bench.kernels import Kernel
from moesim.bench.timing import Call, Times, time_calls

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8}
_COLD_BYTES = 192 << 20
"""More than a processor's last cache, so that each call's weights come from memory."""
_MOST_COPIES = 24
linear = torch.nn.functional.linear


def build(table: str, columns: dict[str, Any], device: str) -> Kernel:
    make = {"host_stream": _stream, "host_matmul": _matmul, "host_expert": _expert, "host_call": _call}[table]
    calls = make(columns)
    threads = int(columns["threads"])
    return Kernel(calls, f"torch, {torch.backends.cpu.get_cpu_capability()}", timer=lambda: _timed(calls, threads))


def _timed(calls: list[Call], threads: int) -> Times:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return time_calls(calls, "cpu")
    finally:
        torch.set_num_threads(before)


def _copies(nbytes: int) -> int:
    return max(1, min(_MOST_COPIES, _COLD_BYTES // nbytes + 1))


def _stream(columns: dict[str, Any]) -> list[Call]:
    """Read ``bytes``, or copy so that ``bytes`` are read and written together."""
    moved = int(columns["bytes"])
    if columns["op"] == "copy":
        pairs = [
            (torch.ones(moved // 8), torch.ones(moved // 8)) for _ in range(_copies(moved))
        ]  # fmt: skip
        return [lambda a=a, b=b: b.copy_(a) for a, b in pairs]
    buffers = [torch.ones(moved // 4) for _ in range(_copies(moved))]
    return [lambda b=b: b.sum() for b in buffers]


def _random(columns: dict[str, Any], *shapes: tuple[int, int]) -> Callable[[], list[torch.Tensor]]:
    dtype = _DTYPES[str(columns["dtype"])]
    if dtype == torch.int8:
        return lambda: [torch.randint(-9, 9, shape, dtype=dtype) for shape in shapes]
    return lambda: [(torch.randn(*shape) * 0.02).to(dtype) for shape in shapes]


def _matmul(columns: dict[str, Any]) -> list[Call]:
    m, n, k = (int(columns[name]) for name in ("m", "n", "k"))
    (x,) = _random(columns, (m, k))()
    make = _random(columns, (n, k))
    weights = [make()[0] for _ in range(_copies(n * k * x.element_size()))]
    if x.dtype == torch.int8:
        # oneDNN's product of 8-bit integers, what VNNI and AMX are for.
        return [lambda w=w: torch.ops.aten._int_mm(x, w.t()) for w in weights]
    return [lambda w=w: linear(x, w) for w in weights]


def _expert(columns: dict[str, Any]) -> list[Call]:
    tokens, hidden, width = (int(columns[name]) for name in ("num_tokens", "hidden_size", "inter_size"))
    (x,) = _random(columns, (tokens, hidden))()
    make = _random(columns, (2 * width, hidden), (hidden, width))
    weights = [make() for _ in range(_copies(3 * hidden * width * x.element_size()))]

    def feed_forward(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        gate, other = linear(x, up).chunk(2, -1)
        return linear(torch.nn.functional.silu(gate) * other, down)

    return [lambda u=u, d=d: feed_forward(u, d) for u, d in weights]


def _call(columns: dict[str, Any]) -> list[Call]:
    """One operation on a few numbers: Python, dispatch and nothing else."""
    x = torch.zeros(8)
    return [lambda: x.add_(1.0)]
