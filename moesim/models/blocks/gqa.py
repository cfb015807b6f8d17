"""Grouped-query attention (arXiv 2305.13245): heads share keys and values in groups; full, windowed or chunked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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
    v_head_dim: int | None = None
    """Of values, where it is not that of keys (MiMo-V2)."""
    gate: Literal["", "elementwise", "head"] = ""
    """A sigmoid of the input scales what heads give back: each element (Qwen3-Next), or each head (Step-3.5)."""
    keys_are_values: bool = False
    """One projection gives both (Gemma 4); the engine keeps, and caches, each."""

    norm = "input_norm"

    @property
    def matrices(self) -> int:
        return 4

    @property
    def label(self) -> str:
        return f"window {self.window}" if self.window else ""

    @property
    def value_dim(self) -> int:
        return self.v_head_dim or self.head_dim

    def columns(self, heads: float, kv: float) -> float:
        gates = {"": 0.0, "elementwise": self.head_dim * heads, "head": heads}[self.gate]
        return (self.head_dim + self.value_dim) * (heads + kv) + gates

    def parameters(self, hidden: int) -> int:
        spared = hidden * self.head_dim * self.num_key_value_heads if self.keys_are_values else 0
        return super().parameters(hidden) - spared

    def state(self, tp: int, kv_bytes: float) -> State:
        """Keys and values: ``2 n_kv d b`` a token (docs/model/attention.md)."""
        return State(self.kv_heads(tp) * (self.head_dim + self.value_dim) * kv_bytes, self.window)

    def operations(self, at: Frame) -> Iterator[Named]:
        rank, tokens, dim = at.rank, at.tokens, self.head_dim
        heads, kv = self.num_attention_heads // rank.tp, self.kv_heads(rank.tp)
        wide = heads * dim if self.gate == "elementwise" else 0
        yield "qkv_proj", Gemm(tokens, (heads + kv) * dim + kv * self.value_dim + wide, at.hidden, self.weights)
        if self.norm_across_heads and rank.tp > 1:
            # Two float32 sums a token, each reduced by a kernel of its own (vLLM models/minimax_m2.py).
            yield "qk_norm_sums", Elementwise(tokens, BF16 * tokens * (heads + kv) * dim, 2)
            yield "qk_norm_all_reduce", at.collective(("tp",), "all_reduce", 8.0 * tokens)
        # Query and key norms ride in the same compiled kernel.
        yield "rope", Elementwise(tokens, 2 * BF16 * tokens * (heads + kv) * dim)
        yield from self.context_operations(at)
        if self.gate == "head":
            yield "gate_proj", Gemm(tokens, heads, at.hidden, self.weights)
        if self.gate:
            yield "gate", Elementwise(tokens, 3 * BF16 * tokens * heads * self.value_dim)
        yield "o_proj", Gemm(tokens, at.hidden, heads * self.value_dim, self.weights)
        yield from at.reduce

    def context_operations(self, at: Frame) -> Iterator[Named]:
        rank = at.rank
        heads, kv = self.num_attention_heads // rank.tp, self.kv_heads(rank.tp)
        # Products with keys and with values, and their bytes, follow the mean of the two sizes.
        dim = (self.head_dim + self.value_dim) // 2
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
