"""Layers that keep a state for each sequence, not a cache for each token: linear attention, its short convolution.

Gated delta net (arXiv 2412.06464), Kimi delta attention (arXiv 2510.26692), Mamba-2 (arXiv 2405.21060). Prompts run in
chunks whose states follow one another; a decoded token reads the state, changes it and writes it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.ops.load import Group, OverGroups

CHUNK = 64
"""Tokens of a chunk in the fused kernels of prompts."""


class _OverState(OverGroups):
    """What groups of sequences compute over the states they keep."""

    __slots__ = ()

    @property
    def sequences(self) -> Any:
        return sum(g.sequences for g in self.groups)

    @property
    def generates(self) -> bool:
        """Whether the decode kernel runs it: all sequences are past their prompts, wherever they are."""
        return all(g.generates for g in self.groups)


@dataclass(frozen=True, slots=True)
class ShortConvolution(_OverState):
    """A causal convolution over the last ``kernel`` tokens of each of ``channels``, whose ends are kept."""

    groups: tuple[Group, ...]
    channels: Any
    kernel: Any = 4

    @property
    def flop(self) -> Any:
        """A multiply and an add for each tap. [FLOP]"""
        return 2.0 * self.tokens * self.channels * self.kernel

    @property
    def hbm_bytes(self) -> Any:
        """Tokens in and out, kept ends read and written. [B]"""
        return 4.0 * self.channels * (self.tokens + self.sequences * (self.kernel - 1))


@dataclass(frozen=True, slots=True)
class DeltaRule(_OverState):
    """The state update of one layer on one rank: a ``key_dim`` by ``value_dim`` matrix for each of ``heads``.

    ``kind`` says which kernels run it: ``gdn``, ``kda``, ``kda_low_rank`` or ``mamba2``. Keys and queries have
    ``key_heads``.
    """

    kind: str
    groups: tuple[Group, ...]
    key_heads: Any
    heads: Any
    key_dim: Any
    value_dim: Any
    state_element: Any = 4.0
    """Bytes of one number of the state."""
    chunk: Any = CHUNK

    @property
    def state_bytes(self) -> Any:
        """Of one sequence. [B]"""
        return self.heads * self.key_dim * self.value_dim * self.state_element

    @property
    def chunks(self) -> Any:
        """Chunks of all sequences."""
        return sum(g.sequences * np.ceil(g.query / self.chunk) for g in self.groups)

    @property
    def longest_chunks(self) -> Any:
        """Chunks of the longest one, which follow one another."""
        chunks: Any = 0.0
        for g in self.groups:
            chunks = np.maximum(chunks, np.ceil(g.query / self.chunk) * (g.sequences > 0))
        return chunks

    @property
    def flop(self) -> Any:
        """A decoded token reads, corrects and writes the state; prompts work inside chunks and across them. [FLOP]"""
        k, v = self.key_dim, self.value_dim
        if self.generates:
            return 7.0 * self.tokens * self.heads * k * v
        if self.kind == "mamba2":
            # One product of keys and queries for all heads of a group.
            shared = 2.0 * self.chunk * k * self.key_heads
            return self.tokens * (shared + self.heads * (2.0 * self.chunk * v + 4.0 * k * v))
        inside = 2.0 * self.chunk * (3.0 * k + 2.0 * v)
        return self.tokens * self.heads * (inside + 6.0 * k * v)

    @property
    def hbm_bytes(self) -> Any:
        """Queries, keys, values in, outputs out, the state of each sequence read and written. [B]"""
        token = 2.0 * (2.0 * self.key_heads * self.key_dim + 2.0 * self.heads * self.value_dim)
        return self.tokens * token + 2.0 * self.sequences * self.state_bytes
