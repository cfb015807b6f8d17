"""What it costs the host to start work: a kernel, a CUDA graph of many, a wait for the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from moesim.bench.kernels import Kernel
from moesim.bench.timing import Times

_SAMPLES = 11


def build(table: str, columns: dict[str, Any], device: str) -> Kernel:
    """``graph`` replays a graph of ``kernels`` tiny kernels and waits; ``kernel`` launches as many and does not wait;
    ``wait`` launches and waits each time."""
    many, x = int(columns["kernels"]), torch.zeros(32, device=device)

    def tiny() -> None:
        for _ in range(many):
            x.add_(1)

    if columns["op"] == "graph":
        graph = torch.cuda.CUDAGraph()
        tiny()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            tiny()
        return Kernel([], "CUDA graph replay", timer=lambda: _host(graph.replay, waits=True))
    return Kernel([], "torch add_", timer=lambda: _host(tiny, waits=columns["op"] == "wait"))


def _host(work: Callable[[], Any], waits: bool) -> Times:
    """The host's clock around ``work``, and around the GPU's answer where it ``waits``."""
    samples = []
    for sample in range(_SAMPLES + 3):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        if waits:
            torch.cuda.synchronize()
        if sample >= 3:
            samples.append(time.perf_counter() - begin)
    torch.cuda.synchronize()
    return Times.of(samples, _SAMPLES, "host clock")
