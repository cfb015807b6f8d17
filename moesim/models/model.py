"""A transformer as moesim sees it, whatever its config.json called things.

A model is a stack of layer groups; a group is ``count`` equal layers, each a row of blocks (``models/blocks/``). Names
are Hugging Face's. Parameter counts are exact: every matrix, bias and norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from moesim.models.blocks.block import Block
from moesim.models.frame import BF16, Frame, Named
from moesim.models.quantization import BFLOAT16, SCHEMES, Quantization, Scheme
from moesim.ops import Elementwise, StreamMix
from moesim.ops.formats import kind

if TYPE_CHECKING:
    from moesim.models.blocks.moe import Moe
    from moesim.models.vision import Tower


@dataclass(frozen=True)
class Layers:
    """``count`` equal layers."""

    count: int
    blocks: tuple[Block, ...]
    norm_parameters: int
    encoder: bool = False
    streams: int = 1
    """Residual streams that are mixed around every block (hyper-connections)."""
    post_norms: int = 0
    """Norms after blocks, beside the one before each (Gemma)."""

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
            if not block.norm:
                yield from at.operations(block)
                continue
            if self.streams > 1:
                yield "mix_in", StreamMix("pre", at.tokens, self.streams, at.hidden)
            yield block.norm, at.norm
            yield from at.operations(block)
            if self.streams > 1:
                yield "mix_out", StreamMix("post", at.tokens, self.streams, at.hidden)
        if self.post_norms:
            yield (
                "post_norms",
                Elementwise(at.tokens, self.post_norms * 4 * BF16 * at.tokens * at.hidden, self.post_norms),
            )


@dataclass(frozen=True)
class Model:
    """A model of the catalogue, or of the user's config.json."""

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    layers: tuple[Layers, ...]
    order: tuple[int, ...] = ()
    """Which of them each layer is, first to last; empty where they follow one another as they are listed."""
    tie_word_embeddings: bool = False
    head_weights: str = "bfloat16"
    max_position_embeddings: int | None = None
    quantization: Quantization = field(default_factory=Quantization)
    other_parameters: int = 0
    """Final norms, positions: held whole."""
    tower_parameters: int = 0
    """Of an image tower and its projector: held, not run per text token; ranks share them."""
    tower: Tower | None = None
    """What it computes for an image; None where there is none, or none of a kind that is known."""
    embedding_rows: int = 0
    """Rows of the input embedding where they exceed the head's; 0 when equal."""
    mtp_layers: int = 0
    """Layers that predict further tokens, which no step runs but a speculative one."""
    provenance: str = "Hugging Face config.json"
    notes: tuple[str, ...] = ()
    """What was read into its name or its config that a user should know."""

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
        listed = self.order or tuple(i for i, g in enumerate(self.layers) for _ in range(g.count))
        here = listed[start : start + sizes[index]]
        kept = sorted(set(here))
        groups = tuple(replace(self.layers[i], count=here.count(i)) for i in kept)
        return replace(self, layers=groups, order=tuple(kept.index(i) for i in here))

    def formatted(
        self, linear: Callable[[str], str], experts: Callable[[str], str], head: Callable[[str], str] = lambda w: w
    ) -> Model:
        """The same with weights in other formats: what becomes of linear layers', of routed experts', of the head's."""
        layers = tuple(replace(g, blocks=tuple(b.formatted(linear, experts) for b in g.blocks)) for g in self.layers)
        return replace(self, layers=layers, head_weights=head(self.head_weights))

    @cached_property
    def formats(self) -> frozenset[str]:
        """Formats of its layers' weights."""
        seen: set[str] = set()

        def see(weights: str) -> str:
            seen.add(weights)
            return weights

        self.formatted(see, see)
        return frozenset(seen)

    def under(self, quantization: str | None) -> Model:
        """The same where an engine is told a scheme: null, and the checkpoint's own method, keep what it has."""
        scheme = SCHEMES[quantization] if quantization else None
        if scheme is None or not scheme.experts or self.quantization.method in scheme.methods:
            return self
        return self.stored_as(str(quantization))

    def stored_as(self, quantization: str) -> Model:
        """The same out of a checkpoint of a scheme, or of one format; what holds its experts so already is kept."""
        scheme = SCHEMES.get(quantization) or Scheme(quantization, quantization)
        if self.moe is not None and kind(self.moe.experts) == kind(scheme.experts):
            return self
        changed = self.formatted(lambda _: scheme.linear, lambda _: scheme.experts, lambda _: BFLOAT16)
        method = scheme.methods[0] if scheme.methods else quantization
        return replace(changed, quantization=Quantization(method, scheme.linear, scheme.experts))

    @property
    def caches_fp8(self) -> bool:
        """An engine that is told nothing caches keys in fp8: its checkpoint says so, or no kernel does else."""
        if any(block.caches_fp8_alone for group in self.layers for block in group.blocks):
            return True
        said = self.quantization
        latent = any(block.caches_latent for group in self.layers for block in group.blocks)
        return said.kv_cache == "fp8" and (said.method.startswith("modelopt") or not latent)

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
        return self.embedding_parameters + blocks + self.other_parameters + self.tower_parameters

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that compute one token, the head included."""
        hidden = self.hidden_size
        layers = sum(g.count * sum(b.active_parameters(hidden) for b in g.blocks) for g in self.layers)
        return layers + self.vocab_size * hidden

    @cached_property
    def flop_per_token(self) -> float:
        """Arithmetic of a decoded token, its head included, without attention over what is cached. [FLOP]"""
        hidden = self.hidden_size
        products = sum(g.count * sum(b.parameters_per_token(hidden) for b in g.blocks) for g in self.layers)
        return 2.0 * (products + self.vocab_size * hidden)

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

    def state_bytes_per_sequence(self, tp: int = 1, kv_bytes: float = 2.0) -> float:
        """Cache bytes of a sequence on a rank whatever its length: states, and windows that are not paged. [B]"""
        states = (
            b.state(tp, kv_bytes).sequence_bytes * g.count for g in self.layers if not g.encoder for b in g.blocks
        )
        return sum(states)

    def source_bytes_per_token(self, tp: int = 1, kv_bytes: float = 2.0) -> float:
        """Cache bytes a token of an encoder's output takes on a rank over all decoder layers that attend across. [B]"""
        states = (b.state(tp, kv_bytes).source_bytes * g.count for g in self.layers if not g.encoder for b in g.blocks)
        return sum(states)
