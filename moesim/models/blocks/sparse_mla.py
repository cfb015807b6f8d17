"""DeepSeek sparse attention: latent attention over the past tokens that an indexer picks for each query.

The indexer is whole on every rank. It caches one fp8 key of ``head_dim`` with a float32 scale for each token; under
an fp8 cache the latents are laid out as vLLM's ``fp8_ds_mla``: fp8 latent, a float32 scale for each 128 of it,
bfloat16 rope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moesim.models.blocks.block import Block, Refusal, State
from moesim.models.blocks.mla import Mla
from moesim.models.frame import Frame, Named
from moesim.ops.formats import bytes_per_weight

if TYPE_CHECKING:
    from moesim.models.plan import Plan
    from moesim.models.rank import Rank

_SCALE_BYTES, _SCALED = 4.0, 128


@dataclass(frozen=True)
class Indexer:
    """Picks the ``Mla.attended_tokens`` past tokens of each query by the scores of ``heads`` small heads."""

    heads: int
    head_dim: int
    pool: int = 1
    """Tokens that share a key, weighed by a gate and their place (GLM-5.3-Flash)."""

    def parameters(self, hidden: int, q_in: int) -> int:
        pooled = (hidden + self.pool) * self.head_dim if self.pool > 1 else 0
        own = q_in * self.heads * self.head_dim + hidden * self.head_dim + 2 * self.head_dim + hidden * self.heads
        return own + pooled

    @property
    def token_bytes(self) -> float:
        """Its cached key. [B]"""
        return (self.head_dim + _SCALE_BYTES) / self.pool


@dataclass(frozen=True)
class SparseMla(Block):
    mla: Mla
    indexer: Indexer | None
    """None where the picks of a layer before are taken."""
    weights: str = "bfloat16"
    """Format of the indexer's projections."""

    norm = "input_norm"

    @property
    def caches_latent(self) -> bool:
        return True

    @property
    def matrices(self) -> int:
        return self.mla.matrices

    @property
    def attention_heads(self) -> int:
        return self.mla.attention_heads

    @property
    def label(self) -> str:
        return "" if self.indexer else "shared indexer"

    def formatted(self, linear: Callable[[str], str], experts: Callable[[str], str]) -> SparseMla:
        return replace(self, mla=self.mla.formatted(linear, experts), weights=linear(self.weights))

    def _indexer_parameters(self, hidden: int) -> int:
        return self.indexer.parameters(hidden, self.mla.q_lora_rank or hidden) if self.indexer else 0

    def parameters(self, hidden: int) -> int:
        return self.mla.parameters(hidden) + self._indexer_parameters(hidden)

    def weight_bytes(self, rank: Rank) -> float:
        own = self._indexer_parameters(rank.model.hidden_size)
        return self.mla.weight_bytes(rank) + own * bytes_per_weight(self.weights)

    def state(self, tp: int, kv_bytes: float) -> State:
        latent = self.mla.state(tp, kv_bytes).token_bytes
        if kv_bytes < 2.0:
            scales = self.mla.kv_lora_rank / _SCALED * _SCALE_BYTES
            latent = self.mla.kv_lora_rank + scales + 2.0 * self.mla.qk_rope_head_dim
        return State(latent + (self.indexer.token_bytes if self.indexer else 0.0))

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        return self.mla.activation_bytes(rank, tokens)

    def operations(self, at: Frame) -> Iterator[Named]:
        """The block as it is measured, its indexer inside; prompts and decodes of a step share all but attention."""
        module = self.mla.module(at.rank, at.hidden, at.load.groups)
        if self.indexer:
            heads, dim, pool = self.indexer.heads, self.indexer.head_dim, float(self.indexer.pool)
            module = replace(module, index_heads=heads, index_head_dim=dim, index_pool=pool)
        yield "mla", module
        yield from at.reduce

    def refusals(self, plan: Plan, name: str) -> Iterator[Refusal]:
        return self.mla.refusals(plan, name)
