"""What every block answers. A kind of block is a final class in a file of its own; nothing else knows which there are.

A layer is a row of blocks, each behind a norm. A block owns its parameters, how ranks share them, the bytes it keeps
for tokens and sequences, what it needs to run, and the operations of a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from moesim.models.blocks.moe import Moe
    from moesim.models.frame import Frame, Named
    from moesim.models.plan import Plan
    from moesim.models.rank import Rank

Refusal = tuple[tuple[str, ...], str]
"""(setting, why a plan cannot be), the sentence lacking nothing but its place."""


class State(NamedTuple):
    """What one layer's block keeps on a rank. [B]"""

    token_bytes: float = 0.0
    """Of each cached token."""
    window: int | None = None
    """Tokens that are kept, where not all are."""
    sequence_bytes: float = 0.0
    """Of each sequence, whatever its length."""
    source_bytes: float = 0.0
    """Of each token of an encoder's output."""

    def bytes(self, context: Any, block_size: int, source_len: Any) -> Any:
        """Of a sequence at ``context`` tokens, in whole cache blocks. [B]"""
        kept = np.minimum(context, self.window + block_size) if self.window else context
        blocks = np.ceil(kept / block_size) * block_size
        return self.token_bytes * blocks + self.sequence_bytes + self.source_bytes * source_len


class Block(ABC):
    """One part of a layer."""

    norm: ClassVar[str]
    """What the norm before it is called; empty where it stands on the residual stream with none of its own."""
    exchanges: ClassVar[frozenset[str]] = frozenset()
    """Its operations that move tokens between ranks, beside which another half batch may compute."""

    weights: str
    """Format of its linear layers."""
    formats: ClassVar[tuple[str, ...]] = ("weights",)
    """Its fields that say the format of linear layers every token passes."""

    beside_experts: ClassVar[frozenset[str]] = frozenset()
    """Its operations that an engine may run beside the routed experts, on a stream of their own."""

    def formatted(self, linear: Callable[[str], str], experts: Callable[[str], str]) -> Self:
        """The same with weights in other formats: what becomes of those of linear layers, and of routed experts'."""
        fields: dict[str, Any] = {name: linear(getattr(self, name)) for name in self.formats}
        return replace(self, **fields)  # pyright: ignore[reportArgumentType]  # every block is a dataclass

    @property
    def attention_heads(self) -> int:
        """Query heads, where it attends."""
        return 0

    @property
    def keeps_state(self) -> bool:
        """Whether each sequence has a state of one size, in pages beside those of keys and values."""
        return False

    @property
    def caches_fp8_alone(self) -> bool:
        """Whether its kernels read no cache but one in fp8."""
        return False

    @property
    def caches_latent(self) -> bool:
        """Whether it caches one latent for all heads."""
        return False

    @property
    def label(self) -> str:
        """What tells layers with it apart from others; empty is nothing."""
        return ""

    @property
    def routed(self) -> Moe | None:
        """Its routed experts, where it has any."""
        return None

    @abstractmethod
    def parameters(self, hidden: int) -> int:
        """All parameters: every matrix, bias and norm of its own."""

    @abstractmethod
    def weight_bytes(self, rank: Rank) -> float:
        """Bytes a rank holds. [B]"""

    @abstractmethod
    def activation_bytes(self, rank: Rank, tokens: int) -> float:
        """Peak of its tensors over ``tokens`` tokens on a rank. [B]"""

    @abstractmethod
    def operations(self, at: Frame) -> Iterator[Named]:
        """Every operation of a step after its norm, in order, the collectives that end it included."""

    def context_operations(self, at: Frame) -> Iterator[Named]:
        """Those of its operations that depend on context; a block that runs many steps may yield them straight away."""
        return ((name, op) for name, op in self.operations(at) if op.of_context)

    def state(self, tp: int, kv_bytes: float) -> State:
        """What a rank keeps for tokens and sequences; ``kv_bytes`` are those of a cached element."""
        return State()

    def source_operations(self, at: Frame) -> Iterator[Named]:
        """What runs once over an encoder's output."""
        return iter(())

    def refusals(self, plan: Plan, name: str) -> Iterator[Refusal]:
        """Why ranks of a plan cannot share it; ``name`` is the model's."""
        return iter(())

    def linear_parameters(self, hidden: int) -> int:
        """Parameters of linear layers that every token passes."""
        return self.parameters(hidden)

    def parameters_per_token(self, hidden: int) -> int:
        """Parameters of products that compute one token."""
        return self.linear_parameters(hidden)

    def active_parameters(self, hidden: int) -> int:
        """The same with routers, as a model's card counts them."""
        return self.parameters_per_token(hidden)

    @property
    def matrices(self) -> int:
        """Matrices that every token passes, launched one by one by an engine that fuses nothing."""
        return 0

    @property
    def tensors(self) -> int:
        """Tensors of its experts or its feed-forward part, copied one by one where whole layers move."""
        return 0

    def small_kernels(self, hidden: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Kernels beside products and attention that a calibration measures: (what, its sizes)."""
        return iter(())
