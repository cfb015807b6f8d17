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
from moesim.ops import Attention, Elementwise, Gemm, IndexScores
from moesim.ops.formats import bytes_per_weight

if TYPE_CHECKING:
    from moesim.models.plan import Plan
    from moesim.models.rank import Rank

_SCALED_BYTES = 8.0
"""Scales of a cached latent in fp8: one for each 64 of what is not rotated (vLLM, fp8 rows of 584 bytes)."""
_LEAST_HEADS = 64
"""FlashMLA runs 64 heads or 128: fewer on a rank cost as many."""
_INDEX_KEY_BYTES = 132.0


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
    def label(self) -> str:
        if not self.ratio:
            return f"window {self.window}"
        return f"window {self.window}, 1 in {self.ratio}" + (f", top {self.picked}" if self.picked else "")

    def _compressor(self, hidden: int, dim: int) -> int:
        wide = dim * (1 + self.overlaps)
        gated = self.position_table or self.ratio > 1
        positions = self.ratio * wide if self.position_table else 0
        return (1 + gated) * hidden * wide + positions + dim

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
        narrow = latents + self.num_attention_heads * self.head_dim * self.q_lora_rank / rank.tp
        kept = self._whole(hidden) - latents + self.num_attention_heads / rank.tp
        out = self._out(hidden) / rank.tp * bytes_per_weight(self.out_weights)
        return narrow * bytes_per_weight(self.weights) + kept * BF16 + out

    def _latent_bytes(self, kv_bytes: float) -> float:
        if kv_bytes >= BF16:
            return BF16 * self.head_dim
        return self.head_dim - self.rope_dim + BF16 * self.rope_dim + _SCALED_BYTES

    def state(self, tp: int, kv_bytes: float) -> State:
        """The window's latents, bounded; compressed ones and index keys for ever."""
        latent, kept = self._latent_bytes(kv_bytes), 0.0
        if self.ratio and self.compresses:
            kept += latent / self.ratio
            if self.index_heads:
                kept += _INDEX_KEY_BYTES / self.ratio
        return State(kept, None, self.window * latent)

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        heads = self.num_attention_heads / rank.tp
        return BF16 * tokens * (heads * 3 * self.head_dim + rank.model.hidden_size)

    def operations(self, at: Frame) -> Iterator[Named]:
        tokens, hidden, tp = at.tokens, at.hidden, at.rank.tp
        heads, inner = self.num_attention_heads // tp, self.num_attention_heads * self.head_dim // tp
        yield "latents_proj", Gemm(tokens, self.q_lora_rank + self.head_dim, hidden, self.weights)
        if self.ratio and self.compresses:
            yield "compressor", Gemm(tokens, 2 * self.head_dim * (1 + self.overlaps), hidden)
            yield "compress", Elementwise(tokens, 4.0 * tokens * 2 * self.head_dim * (1 + self.overlaps), 2)
        yield "q_proj", Gemm(tokens, inner, self.q_lora_rank, self.weights)
        yield "rope", Elementwise(tokens, 2 * BF16 * tokens * (heads + 1) * self.head_dim)
        if self.index_heads:
            yield "index_q_proj", Gemm(tokens, self.index_heads * self.index_dim, self.q_lora_rank, self.weights)
            columns = self.index_heads + (4 * self.index_dim if self.index_compresses else 0)
            yield "index_proj", Gemm(tokens, columns, hidden)
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
                window = self._seen(g.past + (g.query + 1) // 2)
                yield name, Attention((g,), heads, 1, self.head_dim, window, kv_bytes)

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
        elif self.o_groups % plan.tp:
            yield TP, f"{plan.tp} does not divide the {self.o_groups} output groups of {name}"
