"""Qwen1.5-MoE, Qwen2-MoE, Qwen3-MoE and Qwen3-VL-MoE."""

from __future__ import annotations

from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, gqa, model_of, qwen_ffn, reads
from moesim.models.model import Model


@reads("qwen2_moe", "qwen3_moe", "qwen3_vl_moe", "qwen3_vl_moe_text")
def qwen_moe(f: Fields, name: str) -> Model:
    third, hidden, count = f.data["model_type"] != "qwen2_moe", f.whole("hidden_size"), f.layers()

    def row(i: int) -> Row:
        attention = gqa(f, i, lambda h, kv, d: 2 * d if third else (h + 2 * kv) * d)
        return Row((attention, qwen_ffn(f, i)), 2 * hidden)

    return model_of(f, name, [row(i) for i in range(count)])
