"""Random tensors, and how many copies of an operand keep it out of the L2 cache."""

from __future__ import annotations

from typing import Any

import torch

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
COLD_BYTES = 256 << 20
"""More than any L2 holds."""
_MOST_COPIES = 8


def noise(device: str, *shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    """Normal noise: zeros would draw less power and run faster than real data."""
    if device == "meta":
        return torch.empty(*shape, dtype=dtype, device="meta")
    values = torch.randn(*shape, device=device, dtype=BF16)
    return values.clamp_(-4, 4).to(FP8) if dtype == FP8 else values.to(dtype)


def copies_of(nbytes: float) -> int:
    """Copies to rotate through so that none is still in L2 when its turn comes."""
    return int(max(1, min(_MOST_COPIES, COLD_BYTES // max(nbytes, 1) + 1)))


def ones(device: str, *shape: int, value: float = 1.0) -> torch.Tensor:
    return torch.full(shape, value, device=device, dtype=torch.float32)


def whole(value: Any) -> int:
    return int(value)
