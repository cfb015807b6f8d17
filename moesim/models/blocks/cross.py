"""Attention of a decoder to an encoder's output: every new token sees the whole source, cached once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moesim.models.blocks.block import State
from moesim.models.blocks.heads import OfHeads
from moesim.models.frame import Frame, Named
from moesim.ops import Attention, Elementwise, Gemm


@dataclass(frozen=True)
class Cross(OfHeads):
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    extra_parameters: int = 0
    """Biases."""
    weights: str = "bfloat16"

    norm = "cross_norm"

    def state(self, tp: int, kv_bytes: float) -> State:
        return State(source_bytes=2 * self.kv_heads(tp) * self.head_dim * kv_bytes)

    def operations(self, at: Frame) -> Iterator[Named]:
        rank, tokens, dim = at.rank, at.tokens, self.head_dim
        heads, kv = self.num_attention_heads // rank.tp, self.kv_heads(rank.tp)
        yield "cross_q_proj", Gemm(tokens, heads * dim, at.hidden, self.weights)
        # All of the source is seen, and nothing of the sequence itself.
        groups = tuple(g._replace(past=at.load.source_len - g.query + 0 * g.past) for g in at.load.groups)
        yield "cross_attention", Attention(groups, heads, kv, dim, None, rank.kv_bytes, causal=False)
        yield "cross_o_proj", Gemm(tokens, at.hidden, heads * dim, self.weights)
        yield from at.reduce

    def source_operations(self, at: Frame) -> Iterator[Named]:
        """Keys and values of the source."""
        width = 2 * self.kv_heads(at.rank.tp) * self.head_dim
        yield "cross_kv_proj", Gemm(at.tokens, width, at.hidden, self.weights)
        yield "cross_kv_write", Elementwise(at.tokens, 2.0 * 2.0 * at.tokens * width)
