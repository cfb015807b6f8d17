"""What readers of config.json share: the registry, attention, experts, rows of blocks, the model around them.

A family is a module here whose functions say which ``model_type`` they read; all are imported by ``readers``. A reader
builds its layers one by one, each a row of blocks that know their formats; ``model_of`` groups those that are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from moesim.models.blocks.block import Block
from moesim.models.blocks.dense import Dense
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.context import longest_context
from moesim.models.model import Layers, Model

Reader = Callable[[Fields, str], Model]
READERS: dict[str, Reader] = {}


@dataclass(frozen=True)
class Row:
    """One layer: its blocks and the parameters of its norms."""

    blocks: tuple[Block, ...]
    norm_parameters: int
    encoder: bool = False
    streams: int = 1
    post_norms: int = 0


def reads(*model_types: str) -> Callable[[Reader], Reader]:
    """Register a reader: (fields of the text model, the model's name) -> Model."""

    def register(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(model_types, reader))
        return reader

    return register


def gqa(
    f: Fields, layer: int = 0, extra: Callable[[int, int, int], int] = lambda h, kv, d: 0, name: str = "self_attn",
    **more: Any,
) -> Gqa:  # fmt: skip
    """Attention under the usual names; ``extra`` parameters of (heads, KV heads, head size)."""
    heads = f.whole("num_attention_heads", "n_heads")
    kv = f.whole("num_key_value_heads", default=heads)
    dim = f.whole("head_dim", default=f.whole("hidden_size", "d_model") // max(heads, 1))
    if heads % kv:
        f.refuse(f"{heads} query heads do not share {kv} KV heads evenly")
    weights = f.format(layer, f"{name}.q_proj")
    f.alike(layer, f"{name}.o_proj", weights)
    return Gqa(heads, kv, dim, extra_parameters=extra(heads, kv, dim), weights=weights, **more)


def dense(f: Fields, layer: int, width: int, gated: bool = True, name: str = "mlp") -> Dense:
    """A feed-forward block every token passes."""
    return Dense(width, gated, f.format(layer, f"{name}.down_proj"))


def routed_and_shared(f: Fields, layer: int, biased: bool, **more: Any) -> Moe:
    """DeepSeek's names for experts; ``biased`` routers carry a correction per expert."""
    experts, width = f.whole("n_routed_experts"), f.whole("moe_intermediate_size")
    if experts % f.whole("n_group", default=1):
        f.refuse(f"n_group does not divide the {experts} experts")
    return Moe(
        experts,
        f.whole("num_experts_per_tok"),
        width,
        shared_width=f.whole("n_shared_experts", default=0) * width,
        extra_parameters=experts * biased,
        n_group=f.whole("n_group", default=1),
        topk_group=f.whole("topk_group", default=1),
        scores="biased" if biased else "softmax",
        router="float32" if f.data.get("moe_router_dtype") == "float32" else "bfloat16",
        experts=f.format(layer, "mlp.experts.0.down_proj"),
        weights=f.format(layer, "mlp.shared_experts.down_proj"),
        **more,
    )


def routed_beside_gated(f: Fields, layer: int) -> Moe:
    """Qwen's names for experts, and a shared expert under a gate where there is one."""
    shared = f.whole("shared_expert_intermediate_size", default=0)
    return Moe(
        f.whole("num_experts"),
        f.whole("num_experts_per_tok"),
        f.whole("moe_intermediate_size"),
        shared_width=shared,
        extra_parameters=f.whole("hidden_size") if shared else 0,
        shared_gate=shared > 0,
        experts=f.format(layer, "mlp.experts.0.down_proj"),
        weights=f.format(layer, "mlp.shared_expert.down_proj"),
    )


def qwen_ffn(f: Fields, layer: int) -> Dense | Moe:
    """Experts in every ``decoder_sparse_step``-th layer, but those that are named."""
    step, only = f.whole("decoder_sparse_step", default=1), f.data.get("mlp_only_layers") or []
    if layer in only or (layer + 1) % step:
        return dense(f, layer, f.whole("intermediate_size"))
    return routed_beside_gated(f, layer)


def grouped(rows: Iterable[Row]) -> tuple[tuple[Layers, ...], tuple[int, ...]]:
    """(groups of equal layers, which group each layer is of)."""
    numbers: dict[Row, int] = {}
    order = tuple(numbers.setdefault(row, len(numbers)) for row in rows)
    layers = tuple(
        Layers(order.count(number), row.blocks, row.norm_parameters, row.encoder, row.streams, row.post_norms)
        for row, number in numbers.items()
    )
    return layers, order


def model_of(f: Fields, name: str, rows: Iterable[Row], norm: int = 1, other: int = 0, **more: Any) -> Model:
    """The model of its layers in order; ``norm`` final norms and ``other`` parameters beside them."""
    hidden = f.whole("hidden_size", "d_model")
    more.setdefault("tie_word_embeddings", f.flag("tie_word_embeddings"))
    provenance = f.data.get("_provenance")
    layers, order = grouped(rows)
    return Model(
        name=name,
        architecture=str(f.data.get("model_type")),
        hidden_size=hidden,
        vocab_size=f.whole("vocab_size"),
        layers=layers,
        order=order,
        max_position_embeddings=longest_context(f),
        quantization=f.quantization,
        head_weights=f.quantization.head,
        other_parameters=other + norm * hidden,
        mtp_layers=f.whole("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", default=0),
        provenance=f"rebuilt: {provenance}" if provenance else "Hugging Face config.json",
        **more,
    )


def stream_parameters(streams: int, hidden: int) -> int:
    """Of one mix of residual streams: a small product, its bases and scales."""
    if streams < 2:
        return 0
    mixes = (2 + streams) * streams
    return mixes * streams * hidden + mixes + 3
