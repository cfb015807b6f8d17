"""GLM-4.5."""

from __future__ import annotations

from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, dense, gqa, model_of, reads, routed_and_shared
from moesim.models.model import Model


@reads("glm4_moe")
def glm4_moe(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    bias, qk_norm = f.flag("attention_bias"), f.flag("use_qk_norm")
    width, first = f.whole("intermediate_size"), f.whole("first_k_dense_replace", default=0)

    def row(i: int) -> Row:
        attention = gqa(f, i, lambda h, kv, d: (h + 2 * kv) * d * bias + 2 * d * qk_norm)
        ffn = dense(f, i, width) if i < first else routed_and_shared(f, i, biased=True)
        return Row((attention, ffn), 2 * hidden)

    return model_of(f, name, [row(i) for i in range(count)])
