"""Attention of a decoder to an encoder's output: every new token sees the whole source, cached once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.models.blocks.block import Block, State
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import Attention, Elementwise, Gemm
from moesim.ops.formats import BYTES_PER_WEIGHT

if TYPE_CHECKING:
    from moesim.models.rank import Rank


@dataclass(frozen=True)
class Cross(Block):
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    extra_parameters: int = 0
    """Biases."""

    norm = "cross_norm"

    @property
    def attention_heads(self) -> int:
        return self.num_attention_heads

    def kv_heads(self, tp: int) -> int:
        return max(self.num_key_value_heads // tp, 1)

    def parameters(self, hidden: int) -> int:
        heads = 2 * self.num_attention_heads + 2 * self.num_key_value_heads
        return hidden * self.head_dim * heads + self.extra_parameters

    def weight_bytes(self, rank: Rank) -> float:
        heads = 2 * self.num_attention_heads / rank.tp + 2 * self.kv_heads(rank.tp)
        matrices = rank.model.hidden_size * self.head_dim * heads
        return matrices * BYTES_PER_WEIGHT[rank.linear] + self.extra_parameters / rank.tp * BF16

    def state(self, tp: int, kv_bytes: float) -> State:
        return State(source_bytes=2 * self.kv_heads(tp) * self.head_dim * kv_bytes)

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        heads = self.num_attention_heads / rank.tp
        return BF16 * tokens * (heads * 4 * self.head_dim + rank.model.hidden_size)

    def operations(self, at: Frame) -> Iterator[Named]:
        rank, tokens, dim = at.rank, at.tokens, self.head_dim
        heads, kv = self.num_attention_heads // rank.tp, self.kv_heads(rank.tp)
        yield "cross_q_proj", Gemm(tokens, heads * dim, at.hidden, rank.linear)
        # All of the source is seen, and nothing of the sequence itself.
        groups = tuple(g._replace(past=at.load.source_len - g.query + 0 * g.past) for g in at.load.groups)
        yield "cross_attention", Attention(groups, heads, kv, dim, None, rank.kv_bytes, causal=False)
        yield "cross_o_proj", Gemm(tokens, at.hidden, heads * dim, rank.linear)
        yield from at.reduce

    def source_operations(self, at: Frame) -> Iterator[Named]:
        """Keys and values of the source."""
        width = 2 * self.kv_heads(at.rank.tp) * self.head_dim
        yield "cross_kv_proj", Gemm(at.tokens, width, at.hidden, at.rank.linear)
        yield "cross_kv_write", Elementwise(at.tokens, 2.0 * 2.0 * at.tokens * width)
