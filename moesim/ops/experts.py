"""The routed experts of one MoE layer on one GPU, as a fused kernel runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.ops.formats import ACTIVATION_BYTES, arithmetic, bytes_per_weight


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
    """The kernel that runs; ``auto`` is the engine's choice for the GPU."""
    others: tuple[str, ...] = ()
    """Kernels that may run instead, where that is not known."""
    real_tokens: Any = None
    """Those of ``tokens`` that are a step's own, the rest being rows of its CUDA graph; None is all of them."""
    other_loads: Any = None
    """Of another routing that cannot be excluded."""
    padding: str = "fresh_tokens"
    """What the rest does: see ``moesim.engines.file.Padding``."""
    as_fused: bool = True
    """The kernels that were measured run it; false where products over slots or sparse blocks are priced by them."""

    of_context = False

    @property
    def launches(self) -> int:
        """Alignment, sorting, two products, activation and sum; block-scaled inputs are quantised first."""
        return 8 if self.weights.startswith("fp8") else 6

    @property
    def drawn(self) -> Any:
        """Tokens whose experts a router draws."""
        return self.tokens if self.real_tokens is None or self.padding == "fresh_tokens" else self.real_tokens

    @property
    def _picked(self) -> Any:
        """Experts of this rank that rows of padding pick: one, or as many of the first k as it holds."""
        if self.padding == "first_expert":
            return 1
        if not self.parallel:
            return self.top_k
        ranks = max(self.all_experts // self.num_experts, 1)
        spread = getattr(self.loads, "strategy", "linear") != "linear"
        return -(-self.top_k // ranks) if spread else min(self.top_k, self.num_experts)

    @property
    def _padding_rows(self) -> Any:
        """Rows (token, expert) of padding that this rank computes and no router drew."""
        if self.padding not in {"first_expert", "first_experts"} or self.real_tokens is None:
            return 0
        slots = self.top_k if self.padding == "first_expert" else self._picked
        return (self.tokens - self.drawn) * slots

    def _untouched(self) -> Any:
        """Chance that no drawn token picks a given expert."""
        whole = self.all_experts if self.parallel else self.num_experts
        return (1.0 - np.minimum(self.top_k / whole, 1.0)) ** self.drawn

    @property
    def distinct(self) -> Any:
        """Distinct experts touched; padding adds those it picks that no token does."""
        found = self.loads.distinct(self.drawn)
        rows = self._padding_rows
        if isinstance(rows, int) and not rows:
            return found
        return np.minimum(found + (rows > 0) * self._picked * self._untouched(), self.num_experts)

    def blocks(self, block: Any) -> Any:
        """Row blocks after padding each expert's rows to ``block``; padding joins the rows its experts have."""
        found = self.loads.blocks(self.drawn, block)
        rows = self._padding_rows
        if isinstance(rows, int) and not rows:
            return found
        whole = self.all_experts if self.parallel else self.num_experts
        joined = np.ceil((rows / self._picked + self.drawn * self.top_k / whole) / block) - 1.0
        return found + (rows > 0) * self._picked * (self._untouched() + np.maximum(joined, 0.0))

    @property
    def parallel(self) -> Any:
        """Whether the rank holds a part of the experts."""
        return self.all_experts is not None

    @property
    def arithmetic(self) -> str:
        return arithmetic(self.weights)

    @property
    def rows(self) -> Any:
        """Rows this rank's experts compute: tokens times k where it holds them all."""
        return self.loads.rows(self.drawn) + self._padding_rows

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
        return self.distinct * self.expert_bytes

    @property
    def expert_bytes(self) -> Any:
        return self.matrices * self.hidden * self.width * bytes_per_weight(self.weights)

    @property
    def hbm_bytes(self) -> Any:
        """Distinct experts' weights, tokens in, rows between the two products, tokens out. [B]"""
        act = ACTIVATION_BYTES[self.arithmetic]
        between = self.rows * (2.0 * (1.0 + self.gated) * self.width + act * self.width + 2.0 * self.hidden)
        return self.weight_bytes + between + 4.0 * self.tokens * self.hidden


@dataclass(frozen=True, slots=True)
class LoopedExperts:
    """``experts`` experts of a rank one after the other, each over ``rows_each`` rows, by kernels of their own."""

    rows_each: Any
    experts: Any
    """That run: all of the rank's, or those that have a token."""
    hidden: Any
    width: Any
    gated: Any = True
    weights: str = "bfloat16"
    own_rows: bool = False
    """An expert's own rows are gathered first and added back; else it computes all and masks the others' out."""

    of_context = False

    @property
    def arithmetic(self) -> str:
        return arithmetic(self.weights)

    @property
    def kernels_around(self) -> int:
        """Beside products and activation: where, gather, scale, scatter; or mask, sum, scale, add."""
        return 5 if self.own_rows else 4

    @property
    def bytes_around(self) -> Any:
        """Rows read and written by those. [B]"""
        return 2.0 * self.rows_each * self.hidden * (7 if self.own_rows else 5)

    @property
    def launches(self) -> int:
        """Of a step: every expert's products, activation and the kernels around them."""
        return int(np.ceil(np.max(self.experts))) * (3 + 2 * int(self.gated) + self.kernels_around)

    @property
    def flop(self) -> Any:
        return 2.0 * self.experts * self.rows_each * (2.0 + self.gated) * self.hidden * self.width

    @property
    def weight_bytes(self) -> Any:
        return self.experts * (2.0 + self.gated) * self.hidden * self.width * bytes_per_weight(self.weights)

    @property
    def hbm_bytes(self) -> Any:
        """Weights of every expert that runs, and its rows. [B]"""
        between = 2.0 * self.rows_each * (2.0 + 3.0 * self.gated) * self.width
        return self.weight_bytes + self.experts * (between + self.bytes_around)
