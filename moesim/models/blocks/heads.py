"""What attention blocks share: heads on tensor-parallel ranks, and which groups a kernel runs at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moesim.models.blocks.block import Block, Refusal
from moesim.models.frame import BF16, Frame
from moesim.ops.formats import bytes_per_weight
from moesim.ops.load import Group, Phase, by_phase

if TYPE_CHECKING:
    from moesim.models.rank import Rank

TP = ("engine", "tensor_parallel_size")


class OfHeads(Block):
    """Query heads over key and value heads of one size: four projections."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    extra_parameters: int
    """Biases, norms, sinks."""
    weights: str
    """Format of its projections."""

    def __post_init__(self) -> None:
        """Raises ValueError for heads that none could be."""
        if min(self.num_attention_heads, self.num_key_value_heads, self.head_dim) < 1:
            raise ValueError(f"{self.num_attention_heads} heads of {self.head_dim} leave its attention no width")

    @property
    def attention_heads(self) -> int:
        return self.num_attention_heads

    def kv_heads(self, tp: int) -> int:
        """KV heads on a rank: at least one, replicated once TP exceeds them."""
        return max(self.num_key_value_heads // tp, 1)

    def columns(self, heads: float, kv: float) -> float:
        """Columns of all four projections for so many heads and KV heads."""
        return self.head_dim * (2 * heads + 2 * kv)

    def parameters(self, hidden: int) -> int:
        return hidden * int(self.columns(self.num_attention_heads, self.num_key_value_heads)) + self.extra_parameters

    def weight_bytes(self, rank: Rank) -> float:
        columns = self.columns(self.num_attention_heads / rank.tp, self.kv_heads(rank.tp))
        matrices = rank.model.hidden_size * columns
        return matrices * bytes_per_weight(self.weights) + self.extra_parameters / rank.tp * BF16

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        heads = self.num_attention_heads / rank.tp
        return BF16 * tokens * (heads * 4 * self.head_dim + rank.model.hidden_size)


def attended(name: str, at: Frame) -> Iterator[tuple[str, tuple[Group, ...]]]:
    """(name of its operation, groups) for prompts, and for sequences past theirs: different kernels run them."""
    phases = by_phase(at.load.groups)
    alone = len(phases) == 1
    for phase, groups in phases:
        yield _named(name, phase, alone), groups


def _named(name: str, phase: Phase, alone: bool) -> str:
    return name if alone or phase == "prefill" else f"{phase}_{name}"


def heads_refused(heads: int, tp: int, name: str) -> Iterator[Refusal]:
    """Why a tensor-parallel size cannot be, where heads do not divide among its ranks."""
    if heads % tp:
        fits = ", ".join(str(n) for n in (1, 2, 4, 8, 16, 32, 64) if heads % n == 0)
        yield TP, f"{tp} does not divide the {heads} attention heads of {name}; accepted: {fits}"
