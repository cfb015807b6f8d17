"""What drafts tokens for a model: a smaller one, a head of one layer, the model's own layer for it, heads side by side.

Built as a model of its own, whose steps are priced like any other's. What no config describes (an EAGLE head that is
not at hand) is built of the target's own layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.engines.speculation import SpeculativeConfig
from moesim.errors import SpecError
from moesim.models.blocks.block import Block
from moesim.models.blocks.dense import Dense
from moesim.models.blocks.heads import OfHeads
from moesim.models.blocks.joined import Joined
from moesim.models.blocks.medusa_head import MedusaHead
from moesim.models.catalogue import load_model
from moesim.models.model import Layers, Model

if TYPE_CHECKING:
    from moesim.models.rank import Rank

_EAGLE3_VOCABULARY = 32_000
"""Of most published EAGLE-3 heads."""
_MOST_LAYERS_OF_A_HEAD = 2


@dataclass(frozen=True)
class Drafting:
    """How an engine speculates: what drafts, how many tokens, and how many of them are kept."""

    method: str
    kept: tuple[float, ...]
    """Chance that at least the first, the first two, ... drafts are kept."""
    draft: Rank | None
    """What drafts, on one rank; None where the text so far does."""
    owns_ends: bool = False
    """The draft has an embedding and a head of its own, not the target's."""
    parallel: bool = False
    """All drafts come out of one pass."""
    slots: int = 0
    """Rows of a sequence that it adds to its own in the first pass."""

    @property
    def tokens(self) -> int:
        """Tokens drafted a round."""
        return len(self.kept)

    @property
    def lookahead(self) -> int:
        """Places of the cache that a draft's later passes write ahead."""
        return 0 if self.method in {"ngram", "medusa"} else self.tokens

    @property
    def passes(self) -> int:
        """Times the draft runs after its first pass."""
        return 0 if self.parallel or self.method == "medusa" else self.tokens - 1


def drafting_of(rank: Rank, config: SpeculativeConfig, runs: Callable[[Model], Model], unknown: Any) -> Drafting:
    """How the engine of a rank speculates. Raises SpecError.

    Parameters
    ----------
    runs : callable
        A model with its weights in the formats that kernels of the GPU read.
    unknown
        Routing of another model's tokens.
    """
    model, owns_ends, note = drafted(rank.model, config)
    draft = None
    if model is not None:
        plan = rank.plan
        if config.draft_tensor_parallel_size not in (None, plan.tp):
            plan = replace(plan, tp=1, ep=1, expert_tp=1, expert_parallel=False)
        routing = unknown if config.method == "draft_model" else rank.routing
        compiled = config.method != "mtp" or model.architecture not in rank.engine.file.speculation.not_compiled
        model = replace(runs(model), notes=(note,) if note else ())
        draft = replace(rank, model=model, plan=plan, routing=routing, compiled=rank.compiled and compiled)
    return Drafting(config.method, config.kept, draft, owns_ends, config.parallel_drafting, config.reserved_slots)


def drafted(target: Model, config: SpeculativeConfig) -> tuple[Model | None, bool, str]:
    """(what drafts for a model, whether its embedding and head are its own, what to know). Raises SpecError."""
    method = config.method
    if method == "ngram":
        return None, False, ""
    if method == "draft_model":
        return load_model(str(config.model)), True, ""
    if method == "medusa":
        heads = Layers(config.num_speculative_tokens, (MedusaHead(target.vocab_size),), 0)
        note = "speculation: Medusa's heads are priced as published, a residual block and an output layer each"
        return _of(target, f"{target.name}'s Medusa heads", (heads,)), False, note
    if method == "mtp":
        if not target.mtp_layers:
            raise SpecError(
                f"{target.name} has no layer that predicts further tokens; eagle, eagle3, draft_model, medusa and "
                "ngram are accepted"
            )
        if config.model and load_model(config.model).name != target.name:
            raise SpecError(f"mtp drafts with {target.name}'s own layer, not with {config.model}; leave model out")
        layer = Layers(1, (Joined(2), *_last_layer(target)), 3 * target.hidden_size)
        return _of(target, f"{target.name}'s MTP layer", (layer,)), False, ""
    return _eagle(target, config)


def _eagle(target: Model, config: SpeculativeConfig) -> tuple[Model, bool, str]:
    """A head of one dense layer: as its config says, or as the target's own layers are."""
    third, note = config.method == "eagle3", ""
    vocabulary = min(_EAGLE3_VOCABULARY, target.vocab_size) if third else target.vocab_size
    known = _head_file(target, config)
    if known is not None:
        attention, ffn = known.layers[-1].blocks[0], known.layers[-1].blocks[-1]
        vocabulary = known.vocab_size if third else vocabulary
    else:
        attention, _ = _last_layer(target)
        ffn = Dense(_width(target))
        why = f"no config of {config.model} is at hand" if config.model else "no model is named"
        note = (
            f"speculation: the {config.method} head is built of {target.name}'s own attention and a dense layer as "
            f"wide as what a token passes, as {why}"
        )
    beside = 0
    if third and isinstance(attention, OfHeads):
        kv, heads = attention.num_key_value_heads, attention.num_attention_heads
        beside = attention.head_dim * (heads + 2 * kv)
    joined = Joined(3 if third else 2, beside, 2 if third else 0)
    layer = Layers(1, (joined, attention, ffn), 2 * target.hidden_size)
    found = _of(target, f"{target.name}'s {config.method} head", (layer,))
    # EAGLE-3 has an output layer of its own and the target's embedding: one table of the two.
    return replace(found, vocab_size=vocabulary, embedding_rows=0, tie_word_embeddings=True), third, note


def _head_file(target: Model, config: SpeculativeConfig) -> Model | None:
    """The model that is named as a head; None where its config is not at hand. Raises SpecError where it is no head."""
    if not config.model:
        return None
    try:
        known = load_model(config.model)
    except SpecError:
        if Path(config.model).exists():
            raise
        return None
    if known.num_hidden_layers > _MOST_LAYERS_OF_A_HEAD:
        message = f"{known.name} has {known.num_hidden_layers} layers, so it is no {config.method} head"
        raise SpecError(f"{message}; draft_model runs it")
    if known.hidden_size != target.hidden_size:
        raise SpecError(
            f"{known.name} is of hidden size {known.hidden_size} and {target.name} of {target.hidden_size}; a head has "
            "its target's"
        )
    return known


def _of(target: Model, name: str, layers: tuple[Layers, ...]) -> Model:
    """A model of a few layers that stands on the target's embedding and head."""
    return replace(
        target, name=name, layers=layers, order=(), other_parameters=target.hidden_size, tower_parameters=0,
        tower=None, mtp_layers=0, notes=(),
    )  # fmt: skip


def _last_layer(target: Model) -> tuple[Block, Block]:
    """The attention and the feed-forward part of the last layer that has them."""
    blocks = list(_backwards(target))
    attention = next((block for block in blocks if block.attention_heads), blocks[-1])
    ffn = next((block for block in blocks if block.label in {"MoE", "dense"}), blocks[0])
    return attention, ffn


def _backwards(target: Model) -> Iterator[Block]:
    order = target.order or tuple(range(len(target.layers)))
    for group in reversed(order):
        if not target.layers[group].encoder:
            yield from reversed(target.layers[group].blocks)


def _width(target: Model) -> int:
    """Of the feed-forward part that a token passes, as if it were one dense layer."""
    ffn = _last_layer(target)[1]
    matrices = max(ffn.matrices, 2 + (ffn.routed.gated if ffn.routed else 0), 1)
    return max(ffn.parameters_per_token(target.hidden_size) // (matrices * target.hidden_size), 1)
