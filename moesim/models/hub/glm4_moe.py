"""GLM-4.5."""

from __future__ import annotations

from typing import Any

from moesim.models.blocks.dense import Dense
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import by_kind, gqa, model_of, reads, routed_and_shared
from moesim.models.model import Model


@reads("glm4_moe")
def glm4_moe(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    bias, qk_norm = f.flag("attention_bias"), f.flag("use_qk_norm")
    attention = gqa(f, lambda h, kv, d: (h + 2 * kv) * d * bias + 2 * d * qk_norm)
    moe = routed_and_shared(f, biased=True)
    dense, first = Dense(f.whole("intermediate_size")), f.whole("first_k_dense_replace", default=0)
    return model_of(f, name, by_kind(count, attention, [dense] * first + [moe] * max(count - first, 0), 2 * hidden))
