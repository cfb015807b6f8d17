"""Qwen1.5-MoE, Qwen2-MoE, Qwen3-MoE and Qwen3-VL-MoE."""

from __future__ import annotations

from typing import Any

from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, dense, gqa, model_of, reads, routed_beside_gated
from moesim.models.hub.towers import tower_parameters
from moesim.models.model import Model


@reads("qwen2_moe", "qwen3_moe", "qwen3_vl_moe", "qwen3_vl_moe_text")
def qwen_moe(f: Fields, name: str, config: dict[str, Any]) -> Model:
    third, hidden, count = f.data["model_type"] != "qwen2_moe", f.whole("hidden_size"), f.layers()
    width, step = f.whole("intermediate_size"), f.whole("decoder_sparse_step", default=1)
    only = f.data.get("mlp_only_layers") or []

    def row(i: int) -> Row:
        attention = gqa(f, i, lambda h, kv, d: 2 * d if third else (h + 2 * kv) * d)
        ffn = dense(f, i, width) if i in only or (i + 1) % step else routed_beside_gated(f, i)
        return Row((attention, ffn), 2 * hidden)

    return model_of(f, name, [row(i) for i in range(count)], tower_parameters=tower_parameters(f, config))
