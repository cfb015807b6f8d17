"""Work that is measured to know a machine, and that no step of a model runs by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Stream:
    """A kernel that reads and writes ``hbm_bytes`` together, and computes nothing."""

    hbm_bytes: Any

    flop = 0.0


@dataclass(frozen=True, slots=True)
class Launches:
    """``kernels`` tiny kernels, started one by one or by one CUDA graph."""

    kernels: Any

    flop = 0.0
    hbm_bytes = 0.0


@dataclass(frozen=True, slots=True)
class HostStream:
    """Main memory read and written, ``hbm_bytes`` together, by ``threads`` threads."""

    hbm_bytes: Any
    threads: Any

    flop = 0.0


@dataclass(frozen=True, slots=True)
class HostMatrices:
    """``products`` products of ``rows`` rows with ``weights`` weights in all on the CPU."""

    rows: Any
    weights: Any
    bytes_per_weight: Any
    products: Any
    threads: Any

    @property
    def flop(self) -> Any:
        """2 a weight and row. [FLOP]"""
        return 2.0 * self.rows * self.weights

    @property
    def hbm_bytes(self) -> Any:
        """Weights once: rows stay in caches. [B]"""
        return self.weights * self.bytes_per_weight
