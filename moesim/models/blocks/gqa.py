"""Grouped-query attention (arXiv 2305.13245): heads share keys and values in groups; full, windowed or chunked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moesim.models.blocks.block import Refusal, State
from moesim.models.blocks.heads import TP, OfHeads, attended, heads_refused
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import Attention, Elementwise, Gemm
from moesim.ops.attention import virtual_batches

if TYPE_CHECKING:
    from moesim.models.plan import Plan


@dataclass(frozen=True)
class Gqa(OfHeads):
    """``window`` limits how far back a query sees; ``chunked`` windows restart (Llama 4)."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    window: int | None = None
    chunked: bool = False
    causal: bool = True
    norm_across_heads: bool = False
    """Query and key norms run over all heads at once, so tensor-parallel ranks exchange their sums (MiniMax-M2)."""
    extra_parameters: int = 0
    """Biases, query and key norms, sinks: small, but they count."""
    weights: str = "bfloat16"

    norm = "input_norm"

    @property
    def matrices(self) -> int:
        return 4

    @property
    def label(self) -> str:
        return f"window {self.window}" if self.window else ""

    def state(self, tp: int, kv_bytes: float) -> State:
        """Keys and values: ``2 n_kv d b`` a token (docs/model/attention.md)."""
        return State(2 * self.kv_heads(tp) * self.head_dim * kv_bytes, self.window)

    def operations(self, at: Frame) -> Iterator[Named]:
        rank, tokens, dim = at.rank, at.tokens, self.head_dim
        heads, kv = self.num_attention_heads // rank.tp, self.kv_heads(rank.tp)
        yield "qkv_proj", Gemm(tokens, (heads + 2 * kv) * dim, at.hidden, self.weights)
        if self.norm_across_heads and rank.tp > 1:
            # Two float32 sums a token, each reduced by a kernel of its own (vLLM models/minimax_m2.py).
            yield "qk_norm_sums", Elementwise(tokens, BF16 * tokens * (heads + kv) * dim, 2)
            yield "qk_norm_all_reduce", at.collective(("tp",), "all_reduce", 8.0 * tokens)
        # Query and key norms ride in the same compiled kernel.
        yield "rope", Elementwise(tokens, 2 * BF16 * tokens * (heads + kv) * dim)
        yield from self.context_operations(at)
        yield "o_proj", Gemm(tokens, at.hidden, heads * dim, self.weights)
        yield from at.reduce

    def context_operations(self, at: Frame) -> Iterator[Named]:
        rank, dim = at.rank, self.head_dim
        heads, kv = self.num_attention_heads // rank.tp, self.kv_heads(rank.tp)
        window = None if self.chunked else self.window
        for name, groups in attended("attention", at):
            seen = virtual_batches(groups, self.window) if self.chunked and self.window else groups
            yield name, Attention(seen, heads, kv, dim, window, rank.kv_bytes, self.causal)

    def refusals(self, plan: Plan, name: str) -> Iterator[Refusal]:
        kv = self.num_key_value_heads
        if self.num_attention_heads % plan.tp:
            yield from heads_refused(self.num_attention_heads, plan.tp, name)
        elif kv % plan.tp and plan.tp % kv:
            yield TP, f"{plan.tp} neither divides nor is a multiple of the {kv} KV heads of {name}"

    def small_kernels(self, hidden: int) -> Iterator[tuple[str, dict[str, Any]]]:
        heads = {"kv_heads": self.num_key_value_heads, "head_dim": self.head_dim}
        yield "rope", {"heads": self.num_attention_heads, **heads}
        yield "cache_write", heads
