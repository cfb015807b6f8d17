"""Tables of what a few tokens together mean (DeepSeek-V4.1's engram): rows found by hashes, projected, gated in.

A token reads a row of each of ``columns`` hashes. Tables stay in fp8 with a scale for 32 numbers, shared among ranks by
hash; their rows are few bytes beside what they hold.
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

_ROW_BYTES = 1.0 + 1.0 / 32


@dataclass(frozen=True)
class Engram(Block):
    rows: int
    dim: int
    columns: int
    """Hashes of a token."""
    streams: int
    weights: str = "bfloat16"

    norm = ""

    @property
    def label(self) -> str:
        return "engram"

    @property
    def matrices(self) -> int:
        return 1

    def linear_parameters(self, hidden: int) -> int:
        return hidden * (self.streams + 1) * self.columns * self.dim + 2 * self.streams * hidden

    def parameters(self, hidden: int) -> int:
        return self.rows * self.dim + self.linear_parameters(hidden)

    def weight_bytes(self, rank: Rank) -> float:
        projected = self.linear_parameters(rank.model.hidden_size) * bytes_per_weight(self.weights)
        return self.rows * self.dim * _ROW_BYTES / rank.tp + projected

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        return BF16 * tokens * (self.columns * self.dim + (self.streams + 1) * rank.model.hidden_size)

    def operations(self, at: Frame) -> Iterator[Named]:
        tokens, found = at.tokens, self.columns * self.dim
        yield "engram_rows", Elementwise(tokens, tokens * found * (_ROW_BYTES / at.rank.tp + BF16), 2)
        if at.rank.tp > 1:
            yield "engram_gather", at.collective(("tp",), "all_gather", BF16 * tokens * found)
        yield "engram_proj", Gemm(tokens, (self.streams + 1) * at.hidden, found, self.weights)
        yield "engram_gate", Elementwise(tokens, 3 * BF16 * tokens * self.streams * at.hidden)
