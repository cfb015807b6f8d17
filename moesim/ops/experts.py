"""The routed experts of one MoE layer on one GPU, as a fused kernel runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim.ops.formats import ACTIVATION_BYTES, ARITHMETIC, BYTES_PER_WEIGHT


@dataclass(frozen=True, slots=True)
class FusedExperts:
    """``tokens`` through the top-k of ``num_experts`` experts of ``width`` (on this rank) and ``hidden`` size.

    ``loads`` answers ``rows(tokens)``, ``distinct(tokens)`` and ``blocks(tokens, block)`` for this rank: see
    ``moesim.experts.routing.Loads``. Under expert parallelism ``num_experts`` are the rank's own, of ``all_experts``.
    """

    tokens: Any
    hidden: Any
    width: Any
    num_experts: Any
    top_k: Any
    loads: Any
    gated: Any = True
    weights: str = "bfloat16"
    all_experts: Any = None
    """Experts of the whole layer; None where the rank holds them all."""
    local_only: Any = False
    """The kernels around the products see this rank's rows alone, not all ``tokens x k`` of the group."""
    backend: str = "auto"
    """The kernel asked for, where a format has more than one."""

    of_context = False

    @property
    def parallel(self) -> Any:
        """Whether the rank holds a part of the experts."""
        return self.all_experts is not None

    @property
    def arithmetic(self) -> str:
        return ARITHMETIC[self.weights]

    @property
    def rows(self) -> Any:
        """Rows this rank's experts compute: tokens times k where it holds them all."""
        return self.loads.rows(self.tokens)

    @property
    def rows_around(self) -> Any:
        """Rows that activation and weighted sum run over."""
        return self.rows if self.local_only else self.tokens * self.top_k

    @property
    def matrices(self) -> Any:
        """Weight matrices per expert: three when gated, two when not."""
        return 2.0 + self.gated

    @property
    def flop(self) -> Any:
        """2 N k (matrices) H F. [FLOP]"""
        return 2.0 * self.rows * self.matrices * self.hidden * self.width

    @property
    def weight_bytes(self) -> Any:
        """Weights of the distinct experts touched. [B]"""
        return self.loads.distinct(self.tokens) * self.expert_bytes

    @property
    def expert_bytes(self) -> Any:
        return self.matrices * self.hidden * self.width * BYTES_PER_WEIGHT[self.weights]

    @property
    def hbm_bytes(self) -> Any:
        """Distinct experts' weights, tokens in, rows between the two products, tokens out. [B]"""
        act = ACTIVATION_BYTES[self.arithmetic]
        between = self.rows * (2.0 * (1.0 + self.gated) * self.width + act * self.width + 2.0 * self.hidden)
        return self.weight_bytes + between + 4.0 * self.tokens * self.hidden
