"""Grouped-query attention over the blocks of keys that an indexer picks (MiniMax-M3): one index head for each KV head.

Every query scores all past index keys, takes the best blocks for each KV head and attends their tokens alone. Index
keys are one for all heads, whole on every rank, in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moesim.models.blocks.block import Block, Refusal, State
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.heads import attended
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import BlockSparseModule
from moesim.ops.formats import arithmetic, bytes_per_weight

if TYPE_CHECKING:
    from moesim.models.plan import Plan
    from moesim.models.rank import Rank


@dataclass(frozen=True)
class BlockSparse(Block):
    gqa: Gqa
    index_heads: int
    index_dim: int
    picked_blocks: int
    block: int
    """Keys of a block."""
    weights: str = "bfloat16"
    """Format of the indexer's projections."""

    norm = "input_norm"

    @property
    def attention_heads(self) -> int:
        return self.gqa.attention_heads

    @property
    def matrices(self) -> int:
        return self.gqa.matrices + 2

    @property
    def label(self) -> str:
        return "block-sparse"

    def formatted(self, linear: Callable[[str], str], experts: Callable[[str], str]) -> BlockSparse:
        return replace(self, gqa=self.gqa.formatted(linear, experts), weights=linear(self.weights))

    def parameters(self, hidden: int) -> int:
        indexer = hidden * (self.index_heads + 1) * self.index_dim + 2 * self.index_dim
        return self.gqa.parameters(hidden) + indexer

    def weight_bytes(self, rank: Rank) -> float:
        heads = max(self.index_heads // rank.tp, 1)
        indexer = rank.model.hidden_size * (heads + 1) * self.index_dim
        return self.gqa.weight_bytes(rank) + indexer * bytes_per_weight(self.weights) + 2 * self.index_dim * BF16

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        return self.gqa.activation_bytes(rank, tokens)

    def state(self, tp: int, kv_bytes: float) -> State:
        return State(self.gqa.state(tp, kv_bytes).token_bytes + self.index_dim * BF16)

    def operations(self, at: Frame) -> Iterator[Named]:
        yield from self.context_operations(at)
        yield from at.reduce

    def context_operations(self, at: Frame) -> Iterator[Named]:
        """The block as it is measured, whole, without the all-reduce that ends it."""
        rank, gqa = at.rank, self.gqa
        weights = gqa.weights
        for name, groups in attended("block_sparse_attention", at):
            yield name, BlockSparseModule(
                groups, gqa.num_attention_heads // rank.tp, gqa.kv_heads(rank.tp), gqa.head_dim, at.hidden,
                max(self.index_heads // rank.tp, 1), self.index_dim, self.picked_blocks * self.block, rank.kv_bytes,
                arithmetic(weights) == "fp8", bytes_per_weight(weights),
            )  # fmt: skip

    def refusals(self, plan: Plan, name: str) -> Iterator[Refusal]:
        return self.gqa.refusals(plan, name)
