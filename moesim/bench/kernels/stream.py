"""GPU memory at full speed: copy, read, write."""

from __future__ import annotations

from typing import Any

import torch

from moesim.bench.kernels import Kernel
from moesim.bench.kernels.tensors import noise
from moesim.bench.rotation import copies_of


def build(table: str, columns: dict[str, Any], device: str) -> Kernel:
    """``bytes`` read and written together."""
    moved = int(columns["bytes"])
    if columns["op"] == "copy":
        pairs = [(noise(device, moved // 4), noise(device, moved // 4)) for _ in range(copies_of(moved))]
        return Kernel([lambda a=a, b=b: b.copy_(a) for a, b in pairs], "torch copy_")
    buffers = [noise(device, moved // 2) for _ in range(copies_of(moved))]
    if columns["op"] == "read":
        return Kernel([lambda b=b: torch.amax(b) for b in buffers], "torch amax")
    return Kernel([lambda b=b: b.zero_() for b in buffers], "torch zero_")
