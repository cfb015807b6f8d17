"""Linear attention: a state for each sequence in place of a cache for each token.

Gated delta net (Qwen3-Next, Qwen3.5), Kimi delta attention (Kimi-Linear, Kimi-K3, GLM-5.3-Flash) and Mamba-2
(Nemotron-H). All project the hidden state, convolve the last few tokens, update a state by the delta rule or a scan,
gate, norm and project back. Shapes: vLLM layers/mamba/mamba_utils.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moesim.models.blocks.block import Block, Refusal, State
from moesim.models.blocks.heads import TP, attended
from moesim.models.frame import BF16, Frame, Named
from moesim.ops import DeltaRule, Elementwise, Gemm, ShortConvolution
from moesim.ops.formats import bytes_per_weight
from moesim.ops.recurrent import CHUNK

if TYPE_CHECKING:
    from moesim.models.plan import Plan
    from moesim.models.rank import Rank
    from moesim.ops.load import Group


class Recurrent(Block):
    """What blocks with a state share."""

    heads: int
    """Of the state."""
    key_dim: int
    value_dim: int
    conv_kernel: int
    state_element: float
    """Bytes of one number of the state."""
    kind: str
    """Which kernels update it."""
    weights: str
    out_weights: str

    chunk: ClassVar[int] = CHUNK
    """Tokens of a chunk in the kernels of prompts."""
    norm = "input_norm"
    formats = ("weights", "out_weights")

    @property
    @abstractmethod
    def key_heads(self) -> int:
        """Heads of keys and queries, or groups that share them."""

    @property
    @abstractmethod
    def inner(self) -> int:
        """Width of what the state gives back."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the convolution."""

    def channels_on(self, tp: int) -> int:
        """Channels that a rank convolves."""
        return self.channels // tp

    @abstractmethod
    def projections(self, hidden: int) -> tuple[int, int, int]:
        """Parameters of projections in that ranks share, in that are whole on each, and small ones in 16 or 32 bits."""

    @abstractmethod
    def projected(self, at: Frame) -> Iterator[Named]:
        """The products before the convolution."""

    @property
    def label(self) -> str:
        return "linear attention"

    @property
    def keeps_state(self) -> bool:
        return True

    @property
    def matrices(self) -> int:
        return 3

    def parameters(self, hidden: int) -> int:
        return sum(self.projections(hidden)) + self.inner * hidden

    def weight_bytes(self, rank: Rank) -> float:
        hidden = rank.model.hidden_size
        shared, whole, small = self.projections(hidden)
        out = self.inner * hidden / rank.tp * bytes_per_weight(self.out_weights)
        return shared / rank.tp * bytes_per_weight(self.weights) + whole * BF16 + small / rank.tp * BF16 + out

    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        return BF16 * tokens * ((2 * self.channels + 2 * self.inner) / rank.tp + rank.model.hidden_size)

    def state(self, tp: int, kv_bytes: float) -> State:
        """The matrix of each head, and the last tokens before the convolution in 16 bits (docs/model/recurrent.md)."""
        kept = (self.conv_kernel - 1) * self.channels_on(tp) * BF16
        matrix = self.heads * self.key_dim * self.value_dim * self.state_element
        return State(sequence_bytes=kept + matrix / tp)

    def operations(self, at: Frame) -> Iterator[Named]:
        tokens, inner = at.tokens, self.inner // at.rank.tp
        yield from self.projected(at)
        yield from self.context_operations(at)
        yield "gated_norm", Elementwise(tokens, 3 * BF16 * tokens * inner)
        yield "out_proj", Gemm(tokens, at.hidden, inner, self.out_weights)
        yield from at.reduce

    def context_operations(self, at: Frame) -> Iterator[Named]:
        for name, groups in attended("convolution", at):
            yield name, ShortConvolution(groups, self.channels_on(at.rank.tp), self.conv_kernel)
        for name, groups in attended("state", at):
            yield name, self.update(at.rank.tp, groups)

    def update(self, tp: int, groups: tuple[Group, ...]) -> DeltaRule:
        return DeltaRule(
            self.kind, groups, max(self.key_heads // tp, 1), self.heads // tp, self.key_dim, self.value_dim,
            self.state_element, self.chunk,
        )  # fmt: skip

    def refusals(self, plan: Plan, name: str) -> Iterator[Refusal]:
        for heads in {self.heads, self.key_heads}:
            if heads % plan.tp:
                yield TP, f"{plan.tp} does not divide the {heads} heads of linear attention of {name}"


@dataclass(frozen=True)
class GatedDeltaNet(Recurrent):
    """Gated delta net (arXiv 2412.06464) as Qwen3-Next has it: fewer key heads than value heads, a gate as wide."""

    num_key_heads: int
    heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int = 4
    state_element: float = 4.0
    weights: str = "bfloat16"
    out_weights: str = "bfloat16"

    kind = "gdn"

    @property
    def key_heads(self) -> int:
        return self.num_key_heads

    @property
    def inner(self) -> int:
        return self.heads * self.value_dim

    @property
    def channels(self) -> int:
        return 2 * self.num_key_heads * self.key_dim + self.inner

    def projections(self, hidden: int) -> tuple[int, int, int]:
        gates = 2 * self.heads * hidden
        small = gates + self.channels * self.conv_kernel + 2 * self.heads + self.value_dim
        return hidden * (self.channels + self.inner), 0, small

    def projected(self, at: Frame) -> Iterator[Named]:
        tp = at.rank.tp
        yield "in_proj", Gemm(at.tokens, (self.channels + self.inner) // tp, at.hidden, self.weights)
        yield "gates_proj", Gemm(at.tokens, 2 * self.heads // tp, at.hidden)


@dataclass(frozen=True)
class KimiDelta(Recurrent):
    """Kimi delta attention (arXiv 2510.26692): decay for each channel, from a low rank; gate of low or full rank."""

    heads: int
    head_dim: int
    conv_kernel: int = 4
    full_rank_gate: bool = False
    state_element: float = 4.0
    weights: str = "bfloat16"
    out_weights: str = "bfloat16"

    @property
    def kind(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "kda" if self.full_rank_gate else "kda_low_rank"

    @property
    def key_dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.head_dim

    @property
    def value_dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.head_dim

    @property
    def key_heads(self) -> int:
        return self.heads

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        return 3 * self.inner

    def projections(self, hidden: int) -> tuple[int, int, int]:
        inner, dim = self.inner, self.head_dim
        low = dim * hidden
        shared = 3 * inner * hidden + inner * dim + self.heads * hidden
        shared += inner * hidden if self.full_rank_gate else inner * dim
        small = self.channels * self.conv_kernel + self.heads + inner + dim
        return shared, low * (1 if self.full_rank_gate else 2), small

    def projected(self, at: Frame) -> Iterator[Named]:
        tp, inner, dim = at.rank.tp, self.inner // at.rank.tp, self.head_dim
        wide = 4 * inner if self.full_rank_gate else 3 * inner + dim
        yield "in_proj", Gemm(at.tokens, wide + self.heads // tp + dim, at.hidden, self.weights)
        yield "decay_proj", Gemm(at.tokens, inner, dim)
        if not self.full_rank_gate:
            yield "gate_proj", Gemm(at.tokens, inner, dim)


@dataclass(frozen=True)
class Mamba2(Recurrent):
    """Mamba-2 (arXiv 2405.21060): groups of heads share what keys and queries are here (B and C)."""

    heads: int
    head_dim: int
    state_size: int
    n_groups: int
    conv_kernel: int = 4
    state_element: float = 4.0
    weights: str = "bfloat16"
    out_weights: str = "bfloat16"

    kind = "mamba2"
    chunk = 128

    @property
    def key_dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.state_size

    @property
    def value_dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.head_dim

    @property
    def key_heads(self) -> int:
        return self.n_groups

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        return self.inner + 2 * self.n_groups * self.state_size

    def projections(self, hidden: int) -> tuple[int, int, int]:
        small = self.channels * (self.conv_kernel + 1) + 3 * self.heads + self.inner
        return hidden * (self.inner + self.channels + self.heads), 0, small

    def projected(self, at: Frame) -> Iterator[Named]:
        tp = at.rank.tp
        width = (self.inner + self.heads) // tp + self.channels_on(tp)
        yield "in_proj", Gemm(at.tokens, width, at.hidden, self.weights)

    def channels_on(self, tp: int) -> int:
        """Groups are held by several ranks once there are more of these."""
        return self.inner // tp + 2 * max(self.n_groups // tp, 1) * self.state_size

    def weight_bytes(self, rank: Rank) -> float:
        more = self.channels_on(rank.tp) - self.channels / rank.tp
        return super().weight_bytes(rank) + more * rank.model.hidden_size * bytes_per_weight(self.weights)

    def refusals(self, plan: Plan, name: str) -> Iterator[Refusal]:
        if self.heads % plan.tp:
            yield TP, f"{plan.tp} does not divide the {self.heads} heads of the Mamba layers of {name}"
        elif self.n_groups % plan.tp and plan.tp % self.n_groups:
            yield TP, f"{plan.tp} neither divides nor is a multiple of the {self.n_groups} groups of {name}"
