"""DeepSeek-V2 and V3, Kimi-K2, GLM-5: latent attention, shared experts, sparse attention."""

from __future__ import annotations

from typing import Any

from moesim.models.blocks.block import Block
from moesim.models.blocks.dense import Dense
from moesim.models.blocks.mla import Mla
from moesim.models.blocks.sparse_mla import Indexer, SparseMla
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import by_kind, gqa, model_of, reads, routed_and_shared, vision_parameters
from moesim.models.model import Model


@reads("deepseek_v2", "deepseek_v3", "deepseek_vl_v2", "kimi_k2", "glm_moe_dsa")
def deepseek(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    attention = _attention(f)
    moe = routed_and_shared(f, biased=f.data.get("topk_method") == "noaux_tc")
    dense, first = Dense(f.whole("intermediate_size")), f.whole("first_k_dense_replace", default=0)
    every = f.whole("moe_layer_freq", default=1)
    kinds = [dense if i < first or i % every else moe for i in range(count)]
    vision = vision_parameters(config)
    return model_of(f, name, by_kind(count, attention, kinds, 2 * hidden), other=vision)


def _attention(f: Fields) -> Block:
    if not (f.data.get("use_mla", True) and f.data.get("kv_lora_rank")):
        return gqa(f)
    picked = f.whole("index_topk") if f.data.get("index_topk") else None
    mla = Mla(
        f.whole("num_attention_heads"),
        f.optional("q_lora_rank"),
        f.whole("kv_lora_rank"),
        f.whole("qk_nope_head_dim"),
        f.whole("qk_rope_head_dim"),
        f.whole("v_head_dim"),
        picked,
    )
    if picked is None:
        return mla
    return SparseMla(mla, Indexer(f.whole("index_n_heads"), f.whole("index_head_dim")))
