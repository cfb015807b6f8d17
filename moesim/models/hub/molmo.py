"""MolmoE."""

from __future__ import annotations

from typing import Any

from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import gqa, model_of, reads, vision_parameters
from moesim.models.model import Layers, Model


@reads("molmo")
def molmo(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden = f.whole("hidden_size")
    attention = gqa(f, lambda h, kv, d: (h + kv) * d)
    moe = Moe(f.whole("moe_num_experts"), f.whole("moe_top_k"), f.whole("intermediate_size"))
    rows = f.whole("vocab_size") + f.whole("additional_vocab_size", default=0)
    layers = (Layers(f.layers(), (attention, moe), 2 * hidden),)
    return model_of(f, name, layers, other=vision_parameters(config), embedding_rows=rows)
