"""What a draft head sees: hidden states of the target beside its own embedding, joined by one product.

EAGLE (arXiv 2401.15077) and multi-token prediction join two rows; EAGLE-3 (arXiv 2503.01840) first joins three layers'
states, and its attention reads the embedding beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.models.blocks.block import Block
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import Elementwise, Gemm
from moesim.ops.formats import bytes_per_weight

if TYPE_CHECKING:
    from moesim.models.rank import Rank


@dataclass(frozen=True)
class Joined(Block):
    inputs: int
    """Rows that one is made of."""
    beside: int = 0
    """Columns of the attention behind it that read the embedding too (EAGLE-3), after no tensor parallelism."""
    norms: int = 2
    """Norms of the rows that are joined."""
    weights: str = "bfloat16"

    norm = ""

    @property
    def label(self) -> str:
        return "draft"

    @property
    def matrices(self) -> int:
        return 1

    def parameters(self, hidden: int) -> int:
        return hidden * (self.inputs * hidden + self.beside + self.norms)

    def weight_bytes(self, rank: Rank) -> float:
        hidden = rank.model.hidden_size
        matrices = hidden * (self.inputs * hidden + self.beside / rank.tp) * bytes_per_weight(self.weights)
        return matrices + self.norms * hidden * BF16

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        return BF16 * tokens * ((self.inputs + 1) * rank.model.hidden_size + self.beside / rank.tp)

    def operations(self, at: Frame) -> Iterator[Named]:
        tokens = at.tokens
        if self.norms:
            moved = 2 * self.norms * BF16 * tokens * at.hidden
            yield "join_norms", Elementwise(tokens, moved, self.norms + 1)
        yield "join_proj", Gemm(tokens, at.hidden, self.inputs * at.hidden, self.weights)
        if self.beside:
            yield "join_qkv", Gemm(tokens, self.beside // at.rank.tp, at.hidden, self.weights)
