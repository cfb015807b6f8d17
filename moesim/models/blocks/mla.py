"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): one compressed latent per token is cached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.models.blocks.block import Block, Refusal, State
from moesim.models.blocks.heads import attended, heads_refused
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import Elementwise, Gemm, MlaModule
from moesim.ops.formats import arithmetic, bytes_per_weight

if TYPE_CHECKING:
    from moesim.models.plan import Plan
    from moesim.models.rank import Rank
    from moesim.ops.load import Group


@dataclass(frozen=True)
class Mla(Block):
    num_attention_heads: int
    q_lora_rank: int | None
    """Null where queries are projected straight from the hidden state."""
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    attended_tokens: int | None = None
    """Past tokens that a query sees at most, where an indexer picks them."""
    weights: str = "bfloat16"
    out_weights: str = "bfloat16"
    """Of the output projection."""
    output_gate: bool = False
    """A sigmoid of the block's input scales what heads give back (Kimi-K3)."""

    norm = "input_norm"
    formats = ("weights", "out_weights")

    @property
    def caches_latent(self) -> bool:
        return True

    @property
    def matrices(self) -> int:
        return 5

    @property
    def attention_heads(self) -> int:
        return self.num_attention_heads

    @property
    def latent_dim(self) -> int:
        """Cached elements per token and layer: kv_lora_rank + qk_rope_head_dim."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def parameters(self, hidden: int) -> int:
        heads, q_in = self.num_attention_heads, self.q_lora_rank or hidden
        query = (hidden * q_in + q_in if self.q_lora_rank else 0) + q_in * heads * self.qk_head_dim
        latent = hidden * self.latent_dim + self.kv_lora_rank
        up = self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
        return query + latent + up + heads * self.v_head_dim * hidden * (1 + self.output_gate)

    def weight_bytes(self, rank: Rank) -> float:
        """Projections into the latents are whole on every rank; what belongs to heads is shared."""
        hidden = rank.model.hidden_size
        whole = hidden * ((self.q_lora_rank or 0) + self.latent_dim)
        out = self.num_attention_heads * self.v_head_dim * hidden
        shared = (self.parameters(hidden) - whole - out) / rank.tp
        return (whole + shared) * bytes_per_weight(self.weights) + out / rank.tp * bytes_per_weight(self.out_weights)

    def state(self, tp: int, kv_bytes: float) -> State:
        """The latent, whole on every rank: ``(r + d_rope) b`` a token (docs/model/mla.md)."""
        return State(self.latent_dim * kv_bytes)

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        heads = self.num_attention_heads / rank.tp
        return BF16 * tokens * (heads * (3 * self.qk_head_dim + self.v_head_dim) + rank.model.hidden_size)

    def operations(self, at: Frame) -> Iterator[Named]:
        yield from self.context_operations(at)
        if self.output_gate:
            width = self.num_attention_heads // at.rank.tp * self.v_head_dim
            yield "gate_proj", Gemm(at.tokens, width, at.hidden, self.weights)
            yield "gate", Elementwise(at.tokens, 3 * BF16 * at.tokens * width)
        yield from at.reduce

    def context_operations(self, at: Frame) -> Iterator[Named]:
        """The block as it is measured, whole, without the all-reduce that ends it."""
        for name, groups in attended("mla", at):
            yield name, self.module(at.rank, at.hidden, groups)

    def module(self, rank: Rank, hidden: int, groups: tuple[Group, ...]) -> MlaModule:
        return MlaModule(
            groups, self.num_attention_heads // rank.tp, hidden, self.q_lora_rank or 0, self.kv_lora_rank,
            self.qk_rope_head_dim, self.qk_nope_head_dim, self.v_head_dim, rank.kv_bytes,
            arithmetic(self.weights) == "fp8", self._mean_bytes(hidden), self.attended_tokens,
        )  # fmt: skip

    def _mean_bytes(self, hidden: int) -> float:
        """Bytes of a weight over all projections of the block. [B]"""
        if self.weights == self.out_weights:
            return bytes_per_weight(self.weights)
        out = self.num_attention_heads * self.v_head_dim * hidden / self.parameters(hidden)
        return (1 - out) * bytes_per_weight(self.weights) + out * bytes_per_weight(self.out_weights)

    def refusals(self, plan: Plan, name: str) -> Iterator[Refusal]:
        return heads_refused(self.num_attention_heads, plan.tp, name)
