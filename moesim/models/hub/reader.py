"""What readers of config.json share: the registry, attention, layers by kind, the model around them.

A family is a module here whose functions say which ``model_type`` they read; all are imported by ``readers``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.models.blocks.block import Block
from moesim.models.blocks.dense import Dense
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.model import Layers, Model
from moesim.models.quantization import quantization

Reader = Callable[[Fields, str, dict[str, Any]], Model]
READERS: dict[str, Reader] = {}


def reads(*model_types: str) -> Callable[[Reader], Reader]:
    """Register a reader: (fields of the text model, the model's name, the whole config) -> Model."""

    def register(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(model_types, reader))
        return reader

    return register


def gqa(f: Fields, extra: Callable[[int, int, int], int] = lambda h, kv, d: 0, **more: Any) -> Gqa:
    heads = f.whole("num_attention_heads", "n_heads")
    kv = f.whole("num_key_value_heads", default=heads)
    dim = f.whole("head_dim", default=f.whole("hidden_size", "d_model") // max(heads, 1))
    return Gqa(heads, kv, dim, extra_parameters=extra(heads, kv, dim), **more)


def model_of(f: Fields, name: str, layers: tuple[Layers, ...], norm: int = 1, other: int = 0, **more: Any) -> Model:
    hidden = f.whole("hidden_size", "d_model")
    more.setdefault("tie_word_embeddings", f.flag("tie_word_embeddings"))
    limit = f.optional("max_position_embeddings") or f.optional("max_seq_len")
    provenance = f.data.get("_provenance")
    return Model(
        name=name,
        architecture=str(f.data.get("model_type")),
        hidden_size=hidden,
        vocab_size=f.whole("vocab_size"),
        layers=tuple(group for group in layers if group.count > 0),
        max_position_embeddings=limit,
        quantization=quantization(f),
        other_parameters=other + norm * hidden,
        provenance=f"rebuilt: {provenance}" if provenance else "Hugging Face config.json",
        **more,
    )


def by_kind(count: int, attention: Block, kinds: list[Dense | Moe], norms: int) -> tuple[Layers, ...]:
    """Group equal layers; their order matters to pipelines alone, where dense layers may come first."""
    kinds = kinds[:count]
    different = list(dict.fromkeys(kinds))
    groups = []
    for ffn in different:
        many = kinds.count(ffn)
        leading = len(different) > 1 and kinds[:many] == [ffn] * many
        groups.append(Layers(many, (attention, ffn), norms, leading=leading))
    return tuple(groups)


def routed_and_shared(f: Fields, biased: bool) -> Moe:
    """DeepSeek's names for experts; ``biased`` routers carry a correction per expert."""
    experts, width = f.whole("n_routed_experts"), f.whole("moe_intermediate_size")
    return Moe(
        experts,
        f.whole("num_experts_per_tok"),
        width,
        shared_width=f.whole("n_shared_experts", default=0) * width,
        extra_parameters=experts * biased,
        n_group=f.whole("n_group", default=1),
        topk_group=f.whole("topk_group", default=1),
        scores="biased" if biased else "softmax",
    )


def vision_parameters(config: dict[str, Any]) -> int:
    """What the image side holds; config.json files of the catalogue carry it where the tower is not described."""
    return int(config.get("_vision_parameters", 0))
