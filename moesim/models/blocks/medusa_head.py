"""A head that guesses the token so many places on: one product beside the residual, and an output layer of its own.

Medusa (arXiv 2401.10774) has one for each place; vLLM runs them one after the other and takes the likeliest of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.models.blocks.block import Block
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import Elementwise, Gemm

if TYPE_CHECKING:
    from moesim.models.rank import Rank


@dataclass(frozen=True)
class MedusaHead(Block):
    vocabulary: int
    weights: str = "bfloat16"

    norm = ""

    @property
    def label(self) -> str:
        return "Medusa"

    @property
    def matrices(self) -> int:
        return 2

    def parameters(self, hidden: int) -> int:
        return hidden * (hidden + 1 + self.vocabulary)

    def weight_bytes(self, rank: Rank) -> float:
        hidden = rank.model.hidden_size
        return BF16 * hidden * (hidden + 1 + self.vocabulary / rank.tp)

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        return BF16 * tokens * 2 * rank.model.hidden_size

    def operations(self, at: Frame) -> Iterator[Named]:
        rows, tp = at.tokens, at.rank.tp
        yield "head_proj", Gemm(rows, at.hidden, at.hidden)
        yield "head_act", Elementwise(rows, 3 * BF16 * rows * at.hidden, 2)
        yield "lm_head", Gemm(rows, -(-self.vocabulary // tp), at.hidden)
        if tp > 1:
            yield "gather_logits", at.collective(("tp",), "all_gather", BF16 * rows * self.vocabulary)
        yield "argmax", Elementwise(rows, BF16 * rows * self.vocabulary)
