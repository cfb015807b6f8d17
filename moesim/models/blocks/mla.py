"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): one compressed latent per token is cached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.models.blocks.block import Block, Refusal, State
from moesim.models.blocks.heads import attended, heads_refused
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import MlaModule
from moesim.ops.formats import ARITHMETIC, BYTES_PER_WEIGHT

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

    norm = "input_norm"

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
        return query + latent + up + heads * self.v_head_dim * hidden

    def weight_bytes(self, rank: Rank) -> float:
        """Projections into the latents are whole on every rank; what belongs to heads is shared."""
        hidden = rank.model.hidden_size
        whole = hidden * ((self.q_lora_rank or 0) + self.latent_dim)
        return (whole + (self.parameters(hidden) - whole) / rank.tp) * BYTES_PER_WEIGHT[rank.linear]

    def state(self, tp: int, kv_bytes: float) -> State:
        """The latent, whole on every rank: ``(r + d_rope) b`` a token (docs/model/mla.md)."""
        return State(self.latent_dim * kv_bytes)

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        heads = self.num_attention_heads / rank.tp
        return BF16 * tokens * (heads * (3 * self.qk_head_dim + self.v_head_dim) + rank.model.hidden_size)

    def operations(self, at: Frame) -> Iterator[Named]:
        yield from self.context_operations(at)
        yield from at.reduce

    def context_operations(self, at: Frame) -> Iterator[Named]:
        """The block as it is measured, whole, without the all-reduce that ends it."""
        for name, groups in attended("mla", at):
            yield name, self.module(at.rank, at.hidden, groups)

    def module(self, rank: Rank, hidden: int, groups: tuple[Group, ...]) -> MlaModule:
        return MlaModule(
            groups, self.num_attention_heads // rank.tp, hidden, self.q_lora_rank or 0, self.kv_lora_rank,
            self.qk_rope_head_dim, self.qk_nope_head_dim, self.v_head_dim, rank.kv_bytes,
            ARITHMETIC[rank.linear] == "fp8", BYTES_PER_WEIGHT[rank.linear], self.attended_tokens,
        )  # fmt: skip

    def refusals(self, plan: Plan, experts_format: str, name: str) -> Iterator[Refusal]:
        return heads_refused(self.num_attention_heads, plan.tp, name)
