"""Llama, Mistral, dense Qwen2 and Qwen3."""

from __future__ import annotations

from collections.abc import Callable

from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, dense, gqa, model_of, reads
from moesim.models.model import Model

_EXTRA: dict[str, Callable[[int, int, int], int]] = {
    "qwen2": lambda h, kv, d: (h + 2 * kv) * d,
    "qwen3": lambda h, kv, d: 2 * d,
}
"""Biases of query, key and value; norms of query and key."""


@reads("llama", "mistral", "qwen2", "qwen3")
def llama(f: Fields, name: str) -> Model:
    extra = _EXTRA.get(str(f.data["model_type"]), lambda h, kv, d: 0)
    count, width, hidden = f.layers(), f.whole("intermediate_size"), f.whole("hidden_size")
    full = ["full_attention"] * count
    usual = full
    if f.flag("use_sliding_window", True) and f.data.get("sliding_window"):
        # Qwen's first layers see everything.
        first = f.whole("max_window_layers", default=0)
        usual = ["full_attention" if i < first else "sliding_attention" for i in range(count)]
    kinds = f.words("layer_types", count, ("full_attention", "sliding_attention"), usual)

    def row(i: int) -> Row:
        window = f.optional("sliding_window") if kinds[i] == "sliding_attention" else None
        return Row((gqa(f, i, extra, window=window), dense(f, i, width)), 2 * hidden)

    return model_of(f, name, [row(i) for i in range(count)])
