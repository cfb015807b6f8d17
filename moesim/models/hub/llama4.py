"""Llama 4: chunked attention in three of four layers."""

from __future__ import annotations

from typing import Any

from moesim.models.blocks.dense import Dense
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import gqa, model_of, reads, vision_parameters
from moesim.models.model import Layers, Model


@reads("llama4")
def llama4(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, count, width = f.whole("hidden_size"), f.layers(), f.whole("intermediate_size")
    moe = Moe(f.whole("num_local_experts"), f.whole("num_experts_per_tok"), width, shared_width=width)
    dense = Dense(f.whole("intermediate_size_mlp"))
    step, chunk = f.whole("interleave_moe_layer_step"), f.whole("attention_chunk_size")
    groups: dict[tuple[Gqa, Dense | Moe], int] = {}
    for i in range(count):
        local = (i + 1) % 4 != 0
        attention = gqa(f, window=chunk if local else None, chunked=local)
        key = (attention, dense if (i + 1) % step else moe)
        groups[key] = groups.get(key, 0) + 1
    layers = tuple(Layers(n, (attention, ffn), 2 * hidden) for (attention, ffn), n in groups.items())
    return model_of(f, name, layers, other=vision_parameters(config))
