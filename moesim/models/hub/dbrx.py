"""DBRX."""

from __future__ import annotations

from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, model_of, reads
from moesim.models.model import Model


@reads("dbrx")
def dbrx(f: Fields, name: str) -> Model:
    inner, ffn = (Fields(f.section(key), f.source) for key in ("attn_config", "ffn_config"))
    hidden, heads = f.whole("d_model"), f.whole("n_heads")
    kv = inner.whole("kv_n_heads")
    experts, picked, width = ffn.whole("moe_num_experts"), ffn.whole("moe_top_k"), ffn.whole("ffn_hidden_size")
    f.problems += inner.problems + ffn.problems

    def row(i: int) -> Row:
        attention = Gqa(heads, kv, hidden // max(heads, 1), weights=f.format(i, "norm_attn_norm.attn.Wqkv"))
        moe = Moe(experts, picked, width, experts=f.format(i, "ffn.experts.mlp"))
        return Row((attention, moe), 2 * hidden)

    return model_of(f, name, [row(i) for i in range(f.layers("n_layers"))])
