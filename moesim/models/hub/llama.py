"""Llama, Mistral, dense Qwen2 and Qwen3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.models.blocks.dense import Dense
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import gqa, model_of, reads
from moesim.models.model import Layers, Model

_EXTRA: dict[str, Callable[[int, int, int], int]] = {
    "qwen2": lambda h, kv, d: (h + 2 * kv) * d,
    "qwen3": lambda h, kv, d: 2 * d,
}
"""Biases of query, key and value; norms of query and key."""


@reads("llama", "mistral", "qwen2", "qwen3")
def llama(f: Fields, name: str, config: dict[str, Any]) -> Model:
    extra = _EXTRA.get(config["model_type"], lambda h, kv, d: 0)
    window = f.optional("sliding_window") if config.get("use_sliding_window", True) else None
    attention = gqa(f, extra, window=window)
    ffn = Dense(f.whole("intermediate_size"))
    return model_of(f, name, (Layers(f.layers(), (attention, ffn), 2 * f.whole("hidden_size")),))
