"""Work outside the GPU's kernels: copies to and from the host, experts on the CPU, reads from disk, unpacking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Copy:
    """``count`` copies of ``bytes_each`` bytes over the link between GPU and host (or a remote GPU)."""

    count: Any
    bytes_each: Any
    back: bool = False
    """From the GPU."""

    flop = 0.0

    @property
    def hbm_bytes(self) -> Any:
        return self.count * self.bytes_each


@dataclass(frozen=True, slots=True)
class DiskRead:
    """``count`` reads of ``bytes_each`` bytes from disk into main memory."""

    count: Any
    bytes_each: Any

    flop = 0.0
    hbm_bytes = 0.0


@dataclass(frozen=True, slots=True)
class CpuMatrices:
    """``count`` blocks of ``weight_bytes`` each read by the CPU for ``flop_each`` operations."""

    count: Any
    weight_bytes: Any
    flop_each: Any

    hbm_bytes = 0.0

    @property
    def flop(self) -> Any:
        return self.count * self.flop_each


@dataclass(frozen=True, slots=True)
class Unpack:
    """Packed weights turned into operands: ``weights`` of them, whose scales pass through memory ``scale_bytes``."""

    weights: Any
    scale_bytes: Any
    weights_format: str

    flop = 0.0

    @property
    def hbm_bytes(self) -> Any:
        return self.scale_bytes
