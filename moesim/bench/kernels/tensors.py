"""Random tensors to measure with."""

from __future__ import annotations

from typing import Any

import torch

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn


def noise(device: str, *shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    """Normal noise: zeros would draw less power and run faster than real data."""
    if device == "meta":
        return torch.empty(*shape, dtype=dtype, device="meta")
    values = torch.randn(*shape, device=device, dtype=BF16)
    return values.clamp_(-4, 4).to(FP8) if dtype == FP8 else values.to(dtype)


def ones(device: str, *shape: int, value: float = 1.0) -> torch.Tensor:
    return torch.full(shape, value, device=device, dtype=torch.float32)


def whole(value: Any) -> int:
    return int(value)
