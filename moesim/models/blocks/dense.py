"""A feed-forward block every token passes: three matrices when gated (SwiGLU, arXiv 2002.05202), two when not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moesim.models.blocks.block import Block, Refusal
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import Elementwise, Gemm
from moesim.ops.formats import bytes_per_weight

if TYPE_CHECKING:
    from moesim.models.plan import Plan
    from moesim.models.rank import Rank


@dataclass(frozen=True)
class Dense(Block):
    width: int
    gated: bool = True
    weights: str = "bfloat16"

    norm = "post_norm"

    @property
    def label(self) -> str:
        return "dense"

    @property
    def tensors(self) -> int:
        return 3

    @property
    def matrices(self) -> int:
        return 2 + self.gated

    def parameters(self, hidden: int) -> int:
        return self.matrices * hidden * self.width

    def weight_bytes(self, rank: Rank) -> float:
        return self.parameters(rank.model.hidden_size) / rank.tp * bytes_per_weight(self.weights)

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        return BF16 * tokens * (self.matrices * self.width / rank.tp + rank.model.hidden_size)

    def operations(self, at: Frame) -> Iterator[Named]:
        yield from feed_forward(at, at.tokens, self.width // at.rank.tp, self.gated, "mlp", self.weights)
        yield from at.reduce

    def refusals(self, plan: Plan, name: str) -> Iterator[Refusal]:
        return width_refused(self.width, plan.tp, name)

    def small_kernels(self, hidden: int) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "activation", {"width": self.width}


def feed_forward(at: Frame, tokens: Any, width: int, gated: bool, name: str, weights: str) -> Iterator[Named]:
    """Products up, activation, product down over ``tokens`` rows, ``width`` wide on this rank."""
    up = (1 + gated) * width
    yield f"{name}_up_proj", Gemm(tokens, up, at.hidden, weights)
    yield f"{name}_act", Elementwise(tokens, BF16 * tokens * (up + width))
    yield f"{name}_down_proj", Gemm(tokens, at.hidden, width, weights)


def width_refused(width: int, tp: int, name: str) -> Iterator[Refusal]:
    """Why ranks cannot share a feed-forward width."""
    if width % tp:
        yield ("engine", "tensor_parallel_size"), f"{tp} does not divide the feed-forward width {width} of {name}"
