"""Llama and dense Qwen3."""

from __future__ import annotations

from typing import Any

from moesim.models.blocks.dense import Dense
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import gqa, model_of, reads
from moesim.models.model import Layers, Model


@reads("llama", "qwen3")
def llama(f: Fields, name: str, config: dict[str, Any]) -> Model:
    qk_norm = config["model_type"] == "qwen3"
    attention = gqa(f, lambda h, kv, d: 2 * d if qk_norm else 0)
    ffn = Dense(f.whole("intermediate_size"))
    return model_of(f, name, (Layers(f.layers(), (attention, ffn), 2 * f.whole("hidden_size")),))
