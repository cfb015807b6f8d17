"""A transformer as moesim sees it, whatever its config.json called things.

A model is a stack of layer groups; a group is ``count`` equal layers, each a row of blocks (``models/blocks/``). Names
are Hugging Face's. Parameter counts are exact: every matrix, bias and norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from moesim.models.blocks.block import Block
from moesim.models.frame import Frame, Named
from moesim.models.quantization import Quantization

if TYPE_CHECKING:
    from moesim.models.blocks.moe import Moe


@dataclass(frozen=True)
class Layers:
    """``count`` equal layers."""

    count: int
    blocks: tuple[Block, ...]
    norm_parameters: int
    encoder: bool = False
    leading: bool = False
    """All of them come before the others; groups that are not alternate evenly."""

    def parameters(self, hidden: int) -> int:
        """Parameters of all ``count`` layers."""
        return self.count * (sum(block.parameters(hidden) for block in self.blocks) + self.norm_parameters)

    @cached_property
    def routed(self) -> Moe | None:
        """The routed experts of a layer, where it has any."""
        return next((block.routed for block in self.blocks if block.routed is not None), None)

    @cached_property
    def title(self) -> str:
        """What this kind of layer is called in a cost tree."""
        labels = ", ".join(block.label for block in reversed(self.blocks) if block.label)
        return f"{'encoder' if self.encoder else 'decoder'} layer ({labels})"

    def operations(self, at: Frame) -> Iterator[Named]:
        """Every operation of one layer, as (name, operation); what runs twice is the same object twice."""
        for block in self.blocks:
            yield block.norm, at.norm
            yield from at.operations(block)


@dataclass(frozen=True)
class Model:
    """A model of the catalogue, or of the user's config.json."""

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    layers: tuple[Layers, ...]
    tie_word_embeddings: bool = False
    max_position_embeddings: int | None = None
    quantization: Quantization = field(default_factory=Quantization)
    other_parameters: int = 0
    """Final norms, vision tower, projector, positions: held, not run per text token."""
    embedding_rows: int = 0
    """Rows of the input embedding where they exceed the head's; 0 when equal."""
    provenance: str = "Hugging Face config.json"

    def __hash__(self) -> int:
        """Once: models stand in the keys of many tables."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.hidden_size, self.vocab_size, self.layers))

    @cached_property
    def num_hidden_layers(self) -> int:
        return sum(group.count for group in self.layers)

    def stage(self, index: int, stages: int) -> Model:
        """The layers of one pipeline stage, split as vLLM splits them (distributed/utils.py, get_pp_indices)."""
        if stages == 1:
            return self
        sizes = [self.num_hidden_layers // stages] * stages
        for i in range(2, self.num_hidden_layers % stages + 2):
            sizes[-i] += 1
        start = sum(sizes[:index])
        here = self.order[start : start + sizes[index]]
        groups = [replace(g, count=here.count(i)) for i, g in enumerate(self.layers)]
        return replace(self, layers=tuple(g for g in groups if g.count))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Which group each layer belongs to, from the first layer to the last; alternating groups spread evenly."""
        leading = [i for i, g in enumerate(self.layers) if g.leading for _ in range(g.count)]
        others = {i: g.count for i, g in enumerate(self.layers) if not g.leading}
        total, taken, rest = sum(others.values()), dict.fromkeys(others, 0), []
        for passed in range(1, total + 1):
            behind = max(others, key=lambda i: others[i] * passed / total - taken[i])
            taken[behind] += 1
            rest.append(behind)
        return (*leading, *rest)

    @cached_property
    def moe(self) -> Moe | None:
        """The first MoE layer's routed experts; None in a dense model."""
        return next((group.routed for group in self.layers if group.routed is not None), None)

    @cached_property
    def has_encoder(self) -> bool:
        return any(group.encoder for group in self.layers)

    @cached_property
    def embedding_parameters(self) -> int:
        """Input embedding, and the head where it is not tied to it."""
        table = self.vocab_size * self.hidden_size
        rows = self.embedding_rows or self.vocab_size
        return rows * self.hidden_size + (0 if self.tie_word_embeddings else table)

    @cached_property
    def parameters(self) -> int:
        """All parameters, without multi-token-prediction layers."""
        blocks = sum(group.parameters(self.hidden_size) for group in self.layers)
        return self.embedding_parameters + blocks + self.other_parameters

    @cached_property
    def expert_parameters(self) -> int:
        """Parameters of all routed experts."""
        return sum(
            g.count * g.routed.num_experts * g.routed.expert_parameters(self.hidden_size)
            for g in self.layers
            if g.routed is not None
        )

    def kv_bytes_per_token(self, tp: int = 1, kv_bytes: float = 2.0) -> float:
        """Cache bytes a token takes on a rank over all decoder layers, before windows. [B]

        Of an encoder's output see ``source_bytes_per_token``.
        """
        states = (b.state(tp, kv_bytes).token_bytes * g.count for g in self.layers if not g.encoder for b in g.blocks)
        return sum(states)

    def source_bytes_per_token(self, tp: int = 1, kv_bytes: float = 2.0) -> float:
        """Cache bytes a token of an encoder's output takes on a rank over all decoder layers that attend across. [B]"""
        states = (b.state(tp, kv_bytes).source_bytes * g.count for g in self.layers if not g.encoder for b in g.blocks)
        return sum(states)
