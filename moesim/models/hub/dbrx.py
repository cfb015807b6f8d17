"""DBRX."""

from __future__ import annotations

from typing import Any

from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import model_of, reads
from moesim.models.model import Layers, Model


@reads("dbrx")
def dbrx(f: Fields, name: str, config: dict[str, Any]) -> Model:
    inner, ffn = (Fields(f.section(key), f.source) for key in ("attn_config", "ffn_config"))
    hidden, heads = f.whole("d_model"), f.whole("n_heads")
    attention = Gqa(heads, inner.whole("kv_n_heads"), hidden // max(heads, 1))
    moe = Moe(ffn.whole("moe_num_experts"), ffn.whole("moe_top_k"), ffn.whole("ffn_hidden_size"))
    f.problems += inner.problems + ffn.problems
    return model_of(f, name, (Layers(f.layers("n_layers"), (attention, moe), 2 * hidden),))
