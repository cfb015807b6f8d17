"""Attention over a step: groups of sequences, each computing some new tokens after some cached ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.ops.load import Group, OverGroups


def attended_pairs(query: Any, past: Any, window: Any = None, causal: bool = True) -> Any:
    """(query, key) pairs of one sequence and head, exactly.

    Causal: query i of q sees ``past + i`` keys, at most ``window`` of them; not causal: all of them.
    """
    if not causal:
        return query * (past + query)
    if window is None:
        return query * (past + (query + 1) / 2.0)
    full = np.clip(window - past, 0, query)
    return full * (past + (full + 1) / 2.0) + (query - full) * window


def virtual_batches(groups: tuple[Group, ...], chunk: int) -> tuple[Group, ...]:
    """Chunked attention (Llama 4) as vLLM runs it: each chunk a sequence of its own."""
    if all(g.phase == "decode" for g in groups):
        return tuple(g._replace(past=np.mod(g.past, chunk)) for g in groups)
    result: list[Group] = []
    for sequences, query, past, *_ in groups:
        offset = np.mod(past, chunk)
        head = np.minimum(query, chunk - offset)
        whole, tail = np.divmod(query - head, chunk)
        result.append(Group(sequences, head, offset))
        if np.any(whole > 0):
            result.append(Group(sequences * whole, np.full_like(whole, chunk), np.zeros_like(whole)))
        if np.any(tail > 0):
            result.append(Group(np.where(tail > 0, sequences, 0), np.maximum(tail, 1), np.zeros_like(tail)))
    return tuple(result)


class _OverCache(OverGroups):
    """What groups of sequences compute over what they have cached."""

    __slots__ = ()

    @property
    def generates(self) -> bool:
        """Whether the decode kernel runs it: one group of sequences past their prompts."""
        return len(self.groups) == 1 and self.groups[0].generates


@dataclass(frozen=True, slots=True)
class Attention(_OverCache):
    """Grouped-query attention of one layer on one rank, with the write of new keys and values to the cache."""

    groups: tuple[Group, ...]
    heads: Any
    kv_heads: Any
    head_dim: Any
    window: Any = None
    kv_bytes: Any = 2.0
    """Bytes of a cached element: 2 bfloat16, 1 fp8."""
    causal: bool = True

    @property
    def flop(self) -> Any:
        """4 per (query, key) pair, head and head_dim: QK and PV. [FLOP]"""
        pairs = sum(g.sequences * attended_pairs(g.query, g.past, self.window, self.causal) for g in self.groups)
        return 4.0 * pairs * self.heads * self.head_dim

    @property
    def hbm_bytes(self) -> Any:
        """Queries in, outputs out, visible keys and values once per sequence. [B]"""
        total: Any = 0.0
        for g in self.groups:
            keys = g.past + g.query
            if self.window is not None:
                keys = np.minimum(keys, self.window + g.query - 1)
            cache = 2.0 * keys * self.kv_heads * self.kv_bytes
            total = total + g.sequences * self.head_dim * (4.0 * g.query * self.heads + cache)
        return total


@dataclass(frozen=True, slots=True)
class IndexScores(_OverCache):
    """Scores of past tokens, or of pools of ``pool`` of them, by small heads, and the choice of the best.

    Keys are kept in ``key_bytes`` each.
    """

    groups: tuple[Group, ...]
    heads: Any
    head_dim: Any
    pool: Any = 1.0
    key_bytes: Any = 132.0

    arithmetic = "fp8"

    @property
    def scores(self) -> Any:
        """(query, pool) pairs, masked ones too."""
        return sum(g.tokens * (g.past + g.query) / self.pool for g in self.groups)

    @property
    def flop(self) -> Any:
        """2 for each pair, head and dimension. [FLOP]"""
        return 2.0 * self.scores * self.heads * self.head_dim

    @property
    def hbm_bytes(self) -> Any:
        """Keys once for each sequence; queries and picks are few beside them. [B]"""
        return self.key_bytes * sum(g.sequences * (g.past + g.query) / self.pool for g in self.groups)


@dataclass(frozen=True, slots=True)
class BlockSparseModule(_OverCache):
    """A whole block of grouped-query attention over the blocks of keys that index heads pick, projections included.

    Heads are after tensor parallelism; the one index key of a token is whole on every rank (MiniMax-M3).
    """

    groups: tuple[Group, ...]
    heads: Any
    kv_heads: Any
    head_dim: Any
    hidden: Any
    index_heads: Any
    index_dim: Any
    top_k: Any
    """Most tokens that a query attends: picked blocks times their length."""
    kv_bytes: Any = 2.0
    fp8_gemm: Any = False
    bytes_per_weight: Any = 2.0

    @property
    def weights(self) -> Any:
        """Elements of the projections on this rank."""
        width = 2.0 * (self.heads + self.kv_heads) * self.head_dim + (self.index_heads + 1.0) * self.index_dim
        return self.hidden * width

    @property
    def pairs(self) -> Any:
        """(query, key) pairs that are attended, of one head."""
        return sum(g.sequences * attended_pairs(g.query, g.past, self.top_k) for g in self.groups)

    @property
    def scores(self) -> Any:
        """(query, past token) pairs that one index head scores."""
        return sum(g.sequences * attended_pairs(g.query, g.past) for g in self.groups)

    @property
    def kv_read(self) -> Any:
        """Attended keys and values once for each sequence: what its queries pick together. [B]"""
        seen = sum(g.sequences * np.minimum(g.past + g.query, g.query * self.top_k) for g in self.groups)
        return seen * 2.0 * self.kv_heads * self.head_dim * self.kv_bytes

    @property
    def index_bytes(self) -> Any:
        """Index keys once for each sequence, in 16 bits. [B]"""
        return 2.0 * self.index_dim * sum(g.sequences * (g.past + g.query) for g in self.groups)

    @property
    def flop(self) -> Any:
        """Projections, attention over what is picked, scores. [FLOP]"""
        attention = 4.0 * self.pairs * self.heads * self.head_dim
        return 2.0 * self.tokens * self.weights + attention + 2.0 * self.scores * self.index_heads * self.index_dim

    @property
    def hbm_bytes(self) -> Any:
        """Projections once, hidden states in and out, picked keys and values, index keys. [B]"""
        moved = 4.0 * self.tokens * self.hidden
        return self.weights * self.bytes_per_weight + moved + self.kv_read + self.index_bytes


@dataclass(frozen=True, slots=True)
class MlaModule(_OverCache):
    """A whole multi-head latent attention block on one rank: projections, absorbed or expanded attention, output.

    ``heads`` is after tensor parallelism; the latent cache is whole on every rank.
    """

    groups: tuple[Group, ...]
    heads: Any
    hidden: Any
    q_lora_rank: Any
    """0 where queries are projected straight from the hidden state."""
    kv_lora_rank: Any
    qk_rope_head_dim: Any
    qk_nope_head_dim: Any
    v_head_dim: Any
    kv_bytes: Any = 2.0
    fp8_gemm: Any = False
    bytes_per_weight: Any = 2.0
    top_k: int | None = None
    """Sparse attention: at most this many past tokens are attended (DeepSeek sparse attention)."""
    index_heads: Any = 0
    """Of the indexer that picks them, whole on every rank; 0 where another layer's picks are shared."""
    index_head_dim: Any = 0
    index_pool: Any = 1.0
    """Past tokens that share an index key."""

    @property
    def q_in(self) -> Any:
        """What queries are projected from: their latent, or the hidden state."""
        return np.where(np.asarray(self.q_lora_rank) > 0, self.q_lora_rank, self.hidden)

    @property
    def weights(self) -> Any:
        """Elements of the projections on this rank."""
        shared = self.hidden * (self.q_lora_rank + self.kv_lora_rank + self.qk_rope_head_dim)
        nope, rope, value = self.qk_nope_head_dim, self.qk_rope_head_dim, self.v_head_dim
        per_head = self.q_in * (nope + rope) + self.kv_lora_rank * (nope + value) + value * self.hidden
        return shared + self.heads * per_head + self.index_weights

    @property
    def launches(self) -> int:
        """About ten kernels, and six of an indexer: two products, norm and rope, quantise, scores, ranking."""
        return 10 + 6 * bool(np.any(np.asarray(self.index_heads) > 0))

    @property
    def index_weights(self) -> Any:
        """Of the indexer: its queries from the latent, its one key and its heads' weights from the hidden state."""
        keys = self.index_head_dim * (1.0 + (np.asarray(self.index_pool) > 1))
        key = np.where(np.asarray(self.index_heads) > 0, keys + self.index_heads, 0)
        return self.q_in * self.index_heads * self.index_head_dim + self.hidden * key

    @property
    def scores(self) -> Any:
        """(query, past token) pairs that the indexer scores, as it lays them out: masked ones too."""
        pairs = sum(g.tokens * (g.past + g.query) for g in self.groups) / self.index_pool
        return pairs * (np.asarray(self.index_heads) > 0)

    @property
    def index_bytes(self) -> Any:
        """Cached index keys that are read: fp8 with a float32 scale, one for each past token. [B]"""
        keys = sum(g.sequences * (g.past + g.query) for g in self.groups) / self.index_pool
        return keys * (self.index_head_dim + 4.0) * (np.asarray(self.index_heads) > 0)

    @property
    def attention_flop(self) -> Any:
        """Absorbed form at decode and where it is sparse (latent width both ways), else expanded at prefill. [FLOP]

        What the indexer scores is no bfloat16 work.
        """
        total: Any = 0.0
        for g in self.groups:
            pairs = g.sequences * attended_pairs(g.query, g.past, self.top_k)
            absorbed = 2 * self.kv_lora_rank + self.qk_rope_head_dim
            expanded = self.qk_nope_head_dim + self.qk_rope_head_dim + self.v_head_dim
            total = total + 2.0 * pairs * self.heads * (absorbed if g.generates or self.top_k is not None else expanded)
        return total

    @property
    def flop(self) -> Any:
        return 2.0 * self.tokens * self.weights + self.attention_flop

    @property
    def hbm_bytes(self) -> Any:
        """Projections once, hidden states in and out, the visible latent cache once. [B]"""
        latent = self.kv_lora_rank + self.qk_rope_head_dim
        seen = sum(g.sequences * np.minimum(g.past + g.query, self.top_k or np.inf) for g in self.groups)
        return self.weights * self.bytes_per_weight + 4.0 * self.tokens * self.hidden + seen * latent * self.kv_bytes
