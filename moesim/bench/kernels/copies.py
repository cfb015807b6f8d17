"""Copies between host and GPU: pinned and pageable, both ways, alone and beside work on the GPU."""

from __future__ import annotations

from typing import Any

import torch

from moesim.bench.kernels import Kernel
from moesim.bench.kernels.tensors import noise
from moesim.bench.timing import Times

_SAMPLES = 9
_BESIDE_ROWS = 8192
_BESIDE_BYTES = 1 << 28


def build(table: str, columns: dict[str, Any], device: str) -> Kernel:
    """``bytes`` towards the GPU (``h2d``) or from it (``d2h``), ``beside`` nothing, ``gemm`` or ``stream``."""
    size, pinned = int(columns["bytes"]), columns["memory"] == "pinned"
    there = torch.empty(size, dtype=torch.uint8, pin_memory=pinned and device == "cuda").fill_(1)
    here = torch.empty(size, dtype=torch.uint8, device=device)
    target, source = (here, there) if columns["direction"] == "h2d" else (there, here)
    name = f"torch copy_, {columns['memory']}"
    if columns["beside"] == "nothing":
        return Kernel([lambda: target.copy_(source, non_blocking=pinned)], name, graph=False)
    beside = _beside(str(columns["beside"]), device)
    return Kernel([], f"{name}, beside {columns['beside']}", timer=lambda: _overlapped(target, source, beside))


def _beside(what: str, device: str) -> Any:
    if what == "gemm":
        a = noise(device, _BESIDE_ROWS, _BESIDE_ROWS)
        return lambda: a @ a
    x, y = noise(device, _BESIDE_BYTES), noise(device, _BESIDE_BYTES)
    return lambda: y.copy_(x)


def _overlapped(target: torch.Tensor, source: torch.Tensor, beside: Any) -> Times:
    """The copy's own time on its stream while another stream is kept busy for longer than it takes."""
    stream, samples = torch.cuda.Stream(), []
    alone = _one(target, source, stream, lambda: None)
    beside()
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    beside()
    end.record()
    torch.cuda.synchronize()
    rounds = int(3 * alone / max(begin.elapsed_time(end) * 1e-3, 1e-6)) + 2

    def busy() -> None:
        for _ in range(rounds):
            beside()

    for _ in range(_SAMPLES):
        samples.append(_one(target, source, stream, busy))
    return Times.of(samples, _SAMPLES, "events on the copy's stream")


def _one(target: torch.Tensor, source: torch.Tensor, stream: Any, busy: Any) -> float:
    torch.cuda.synchronize()
    busy()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.stream(stream):
        begin.record()
        target.copy_(source, non_blocking=True)
        end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) * 1e-3
