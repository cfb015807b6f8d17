"""MiMo-V2-Flash: values narrower than keys, windows of 128 in most layers, experts after the first."""

from __future__ import annotations

from moesim.models.blocks.gqa import Gqa
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, dense, model_of, reads, routed_and_shared
from moesim.models.model import Model


@reads("mimo_v2_flash")
def mimo(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    sliding, routed = f.numbers("hybrid_layer_pattern", count, 1), f.sparse(count)

    def row(i: int) -> Row:
        prefix = "swa_" if sliding[i] else ""
        heads, kv = f.whole(f"{prefix}num_attention_heads"), f.whole(f"{prefix}num_key_value_heads")
        sinks = f.flag("add_swa_attention_sink_bias" if sliding[i] else "add_full_attention_sink_bias")
        attention = Gqa(
            heads, kv, f.whole(f"{prefix}head_dim"), f.whole("sliding_window") if sliding[i] else None,
            extra_parameters=heads * sinks, weights=f.format(i, "self_attn.q_proj"),
            v_head_dim=f.whole(f"{prefix}v_head_dim"),
        )  # fmt: skip
        ffn = routed_and_shared(f, i, biased=True) if routed[i] else dense(f, i, f.whole("intermediate_size"))
        return Row((attention, ffn), 2 * hidden)

    return model_of(f, name, [row(i) for i in range(count)])
