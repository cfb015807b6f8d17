"""DeepSeek V1 to V3.2, Kimi-K2, GLM-4.7-Flash, GLM-5: latent attention, shared experts, sparse attention."""

from __future__ import annotations

from typing import Any

from moesim.models.blocks.block import Block
from moesim.models.blocks.mla import Mla
from moesim.models.blocks.sparse_mla import Indexer, SparseMla
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, dense, gqa, model_of, reads, routed_and_shared
from moesim.models.model import Model


@reads(
    "deepseek", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_vl_v2", "kimi_k2", "kimi_k25", "glm_moe_dsa",
    "glm4_moe_lite",
)  # fmt: skip
def deepseek(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    biased = f.data.get("topk_method") == "noaux_tc" or f.data.get("model_type") in {"glm4_moe_lite"}
    width, routed, indexed = f.whole("intermediate_size"), routed_layers(f, count), indexed_layers(f, count)

    def row(i: int) -> Row:
        ffn = routed_and_shared(f, i, biased) if routed[i] else dense(f, i, width)
        return Row((_attention(f, i, indexed[i]), ffn), 2 * hidden)

    return model_of(f, name, [row(i) for i in range(count)])


def routed_layers(f: Fields, count: int) -> list[bool]:
    """Which layers have experts."""
    stepped = f.sparse(count, f.whole("first_k_dense_replace", default=0))
    usual = ["sparse" if routed else "dense" for routed in stepped]
    return [kind == "sparse" for kind in f.words("mlp_layer_types", count, ("dense", "sparse"), usual)]


def indexed_layers(f: Fields, count: int) -> list[bool]:
    """Which layers have an indexer of their own; the others take the picks of one before them."""
    return [kind == "full" for kind in f.words("indexer_types", count, ("full", "shared"), ["full"] * count)]


def sparse_mla(f: Fields, layer: int, indexed: bool) -> SparseMla:
    """Sparse latent attention; an index key may stand for a pool of tokens."""
    heads, dim, pool = f.whole("index_n_heads"), f.whole("index_head_dim"), f.whole("index_kpool", default=1)
    weights = f.format(layer, "self_attn.indexer.wq_b")
    return SparseMla(mla(f, layer, f.whole("index_topk")), Indexer(heads, dim, pool) if indexed else None, weights)


def mla(f: Fields, layer: int, attended: int | None = None, **more: Any) -> Mla:
    """Latent attention under DeepSeek's names."""
    return Mla(
        f.whole("num_attention_heads"),
        f.optional("q_lora_rank"),
        f.whole("kv_lora_rank"),
        f.whole("qk_nope_head_dim"),
        f.whole("qk_rope_head_dim", default=0),
        f.whole("v_head_dim"),
        attended,
        weights=f.format(layer, "self_attn.q_b_proj" if f.data.get("q_lora_rank") else "self_attn.q_proj"),
        out_weights=f.format(layer, "self_attn.o_proj"),
        **more,
    )


def _attention(f: Fields, layer: int, indexed: bool) -> Block:
    if not (f.data.get("use_mla", True) and f.data.get("kv_lora_rank")):
        return gqa(f, layer)
    return sparse_mla(f, layer, indexed) if f.data.get("index_topk") else mla(f, layer)
