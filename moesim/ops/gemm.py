"""A dense matrix product Y[m, n] = X[m, k] W[n, k]^T."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim.ops.formats import ACTIVATION_BYTES, arithmetic, bytes_per_weight


@dataclass(frozen=True, slots=True)
class Gemm:
    """``m`` rows (tokens) through an ``n`` by ``k`` weight matrix stored as ``weights``."""

    m: Any
    n: Any
    k: Any
    weights: str = "bfloat16"

    of_context = False

    @property
    def launches(self) -> int:
        """Input in 8 bits is quantised by a kernel of its own."""
        return 2 if ACTIVATION_BYTES[self.arithmetic] < 2 else 1

    @property
    def arithmetic(self) -> str:
        return arithmetic(self.weights)

    @property
    def flop(self) -> Any:
        """2 m n k. [FLOP]"""
        return 2.0 * self.m * self.n * self.k

    @property
    def weight_bytes(self) -> Any:
        return bytes_per_weight(self.weights) * self.n * self.k

    @property
    def hbm_bytes(self) -> Any:
        """Weights once, inputs once, bfloat16 outputs once. [B]"""
        return self.weight_bytes + ACTIVATION_BYTES[self.arithmetic] * self.m * self.k + 2.0 * self.m * self.n
