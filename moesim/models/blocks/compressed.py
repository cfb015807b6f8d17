"""Attention over a window and over compressed keys before it (DeepSeek-V4): one latent head serves all queries.

Keys are values: one vector of ``head_dim`` a token, whole on every rank. A compressor makes one more of every ``ratio``
tokens; with a short ratio an indexer picks the best of those, with a long one all are attended. Outputs come back
through groups of low rank. Layouts: vLLM models/deepseek_v4 and deepseek_v41.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.models.blocks.block import Block, Refusal, State
from moesim.models.blocks.heads import TP, attended, heads_refused
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import Attention, Elementwise, Gemm, IndexScores, attended_pairs
from moesim.ops.formats import bytes_per_weight

if TYPE_CHECKING:
    from moesim.models.plan import Plan
    from moesim.models.rank import Rank

_SCALED_BYTES = 8.0
"""Scales of a cached latent in fp8: one for each 64 of what is not rotated (vLLM, fp8 rows of 584 bytes)."""
_LEAST_HEADS = 64
"""FlashMLA runs 64 heads or 128: fewer on a rank cost as many."""
_INDEX_KEY_BYTES = 132.0
_FLOAT32 = 4.0
_RING_BYTES = 32768.0
"""Of the open windows of V4.1's compressors (vLLM models/deepseek_v41)."""


@dataclass(frozen=True)
class Compressed(Block):
    num_attention_heads: int
    head_dim: int
    rope_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    window: int
    ratio: int = 0
    """Tokens that a compressed key stands for; 0 is none."""
    compresses: bool = True
    """It makes compressed keys; false where it reads another layer's (DeepSeek-V4.1)."""
    overlaps: bool = False
    """Windows of the compressor overlap: twice its width."""
    position_table: bool = True
    """The compressor adds a position to each place of its window, and gates."""
    index_heads: int = 0
    """Of its own indexer; 0 where it attends all compressed keys, or takes another layer's picks."""
    index_dim: int = 128
    picked: int = 0
    """Compressed keys that a query attends at most; 0 is all of them."""
    index_compresses: bool = True
    """The indexer compresses keys of its own from the hidden state; else it projects those of the latent."""
    weights: str = "bfloat16"
    out_weights: str = "bfloat16"

    norm = "input_norm"
    formats = ("weights", "out_weights")

    @property
    def attention_heads(self) -> int:
        return self.num_attention_heads

    @property
    def matrices(self) -> int:
        return 5

    @property
    def caches_latent(self) -> bool:
        return True

    @property
    def caches_fp8_alone(self) -> bool:
        return True

    @property
    def label(self) -> str:
        if not self.ratio:
            return f"window {self.window}"
        return f"window {self.window}, 1 in {self.ratio}" + (f", top {self.picked}" if self.picked else "")

    @property
    def _compressed_columns(self) -> int:
        """Columns of the compressor's product a number of a key: twice where windows overlap, and where gated."""
        gated = self.position_table or self.ratio > 1
        return (1 + gated) * (1 + self.overlaps)

    def _compressor(self, hidden: int, dim: int) -> int:
        positions = self.ratio * dim * (1 + self.overlaps) if self.position_table else 0
        return self._compressed_columns * hidden * dim + positions + dim

    @property
    def _index_columns(self) -> int:
        """Columns of the indexer's products from the hidden state: weights of heads, keys that it compresses."""
        return self.index_heads + (self._compressed_columns * self.index_dim if self.index_compresses else 0)

    def _whole(self, hidden: int) -> int:
        """What every rank holds whole: projections into latents, compressor, indexer."""
        whole = hidden * (self.q_lora_rank + self.head_dim) + self.q_lora_rank + self.head_dim
        if self.ratio and self.compresses:
            whole += self._compressor(hidden, self.head_dim)
        if self.index_heads:
            whole += self.index_heads * (self.index_dim * self.q_lora_rank + hidden)
            if self.index_compresses:
                whole += self._compressor(hidden, self.index_dim)
            elif self.compresses:
                whole += self.index_dim * (self.head_dim + 1)
        return whole

    def _out(self, hidden: int) -> int:
        inner = self.num_attention_heads * self.head_dim
        return self.o_lora_rank * inner + hidden * self.o_groups * self.o_lora_rank

    def parameters(self, hidden: int) -> int:
        queries = self.num_attention_heads * (self.head_dim * self.q_lora_rank + 1)
        return self._whole(hidden) + queries + self._out(hidden)

    def weight_bytes(self, rank: Rank) -> float:
        hidden = rank.model.hidden_size
        latents = hidden * (self.q_lora_rank + self.head_dim)
        index_queries = self.index_heads * self.index_dim * self.q_lora_rank
        queries = self.num_attention_heads * self.head_dim * self.q_lora_rank / rank.tp
        narrow = latents + index_queries + queries
        kept = self._whole(hidden) - latents - index_queries + self.num_attention_heads / rank.tp
        out = self._out(hidden) / rank.tp * bytes_per_weight(self.out_weights)
        return narrow * bytes_per_weight(self.weights) + kept * BF16 + out

    def _latent_bytes(self, kv_bytes: float) -> float:
        if kv_bytes >= BF16:
            return BF16 * self.head_dim
        return self.head_dim - self.rope_dim + BF16 * self.rope_dim + _SCALED_BYTES

    def state(self, tp: int, kv_bytes: float) -> State:
        """The window's latents and the compressor's own, bounded; compressed ones and index keys for ever."""
        latent, kept, open_windows = self._latent_bytes(kv_bytes), 0.0, 0.0
        if self.ratio and self.compresses:
            kept += latent / self.ratio
            dims = self.head_dim
            if self.index_heads:
                kept += _INDEX_KEY_BYTES / self.ratio
                dims += self.index_dim * self.index_compresses
            rows = self.ratio * (1 + self.overlaps)
            open_windows = rows * self._compressed_columns * dims * _FLOAT32 if self.position_table else _RING_BYTES
        return State(kept, None, self.window * latent + open_windows)

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        heads = self.num_attention_heads / rank.tp
        return BF16 * tokens * (heads * 3 * self.head_dim + rank.model.hidden_size)

    def operations(self, at: Frame) -> Iterator[Named]:
        tokens, hidden, tp = at.tokens, at.hidden, at.rank.tp
        heads, inner = self.num_attention_heads // tp, self.num_attention_heads * self.head_dim // tp
        yield "latents_proj", Gemm(tokens, self.q_lora_rank + self.head_dim, hidden, self.weights)
        if self.ratio and self.compresses:
            wide = self._compressed_columns * self.head_dim
            yield "compressor", Gemm(tokens, wide, hidden)
            yield "compress", Elementwise(tokens, _FLOAT32 * tokens * wide, 2)
        yield "q_proj", Gemm(tokens, inner, self.q_lora_rank, self.weights)
        yield "rope", Elementwise(tokens, 2 * BF16 * tokens * (heads + 1) * self.head_dim)
        if self.index_heads:
            yield "index_q_proj", Gemm(tokens, self.index_heads * self.index_dim, self.q_lora_rank, self.weights)
            yield "index_proj", Gemm(tokens, self._index_columns, hidden)
            if self.compresses and not self.index_compresses:
                yield "index_k_proj", Gemm(tokens, self.index_dim, self.head_dim)
        yield from self.context_operations(at)
        yield "o_groups_proj", Gemm(tokens, self.o_groups * self.o_lora_rank // tp, inner * tp // self.o_groups,
                                    self.out_weights)  # fmt: skip
        yield "o_proj", Gemm(tokens, hidden, self.o_groups * self.o_lora_rank // tp, self.out_weights)
        yield from at.reduce

    def context_operations(self, at: Frame) -> Iterator[Named]:
        if self.index_heads:
            for name, groups in attended("index_scores", at):
                yield name, IndexScores(groups, self.index_heads, self.index_dim, float(self.ratio))
        rank = at.rank
        heads = max(self.num_attention_heads // rank.tp, _LEAST_HEADS)
        # One latent is key and value: half the bytes of a head that has both.
        kv_bytes = self._latent_bytes(rank.kv_bytes) / self.head_dim / 2
        for name, groups in attended("attention", at):
            if groups[0].generates:
                seen = tuple(g._replace(past=self._seen(g.past + g.query) - g.query) for g in groups)
                yield name, Attention(seen, heads, 1, self.head_dim, None, kv_bytes)
                continue
            for g in groups:
                yield name, Attention((g,), heads, 1, self.head_dim, self._as_window(g.query, g.past), kv_bytes)

    def _as_window(self, query: Any, past: Any) -> Any:
        """The window whose (query, key) pairs are as many as those of window and compressed keys together."""
        if not self.ratio:
            return self.window
        limit = self.picked * self.ratio if self.picked else None
        pairs = attended_pairs(query, past, self.window) + attended_pairs(query, past, limit) / self.ratio
        beyond = np.maximum(pairs - query * past, 0.0)
        # Beyond the past a window grows with each query until it is full: a quadratic in how far it reaches.
        reach = (2 * query + 1 - np.sqrt(np.maximum((2 * query + 1) ** 2 - 8.0 * beyond, 0.0))) / 2
        return np.where(beyond > 0, past + reach, pairs / query)

    def _seen(self, position: Any) -> Any:
        """Keys that a query at a position attends: its window, and compressed ones before it."""
        seen = np.minimum(position, self.window)
        if self.ratio:
            kept = position // self.ratio
            seen = seen + (np.minimum(kept, self.picked) if self.picked else kept)
        return np.maximum(seen, 1)

    def refusals(self, plan: Plan, name: str) -> Iterator[Refusal]:
        if self.num_attention_heads % plan.tp:
            yield from heads_refused(self.num_attention_heads, plan.tp, name)
        elif plan.pp > 1 and self.ratio and not self.compresses:
            where = ("engine", "pipeline_parallel_size")
            yield (
                where,
                f"layers of {name} read compressed keys of layers before them; stages of a pipeline do not send them",
            )
        elif self.o_groups % plan.tp:
            yield TP, f"{plan.tp} does not divide the {self.o_groups} output groups of {name}"
