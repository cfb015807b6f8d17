"""Qwen1.5-MoE, Qwen2-MoE and Qwen3-MoE."""

from __future__ import annotations

from typing import Any

from moesim.models.blocks.dense import Dense
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import by_kind, gqa, model_of, reads
from moesim.models.model import Model


@reads("qwen2_moe", "qwen3_moe")
def qwen_moe(f: Fields, name: str, config: dict[str, Any]) -> Model:
    third, hidden, count = (
        config["model_type"] == "qwen3_moe",
        f.whole("hidden_size"),
        f.layers(),
    )
    attention = gqa(f, lambda h, kv, d: 2 * d if third else (h + 2 * kv) * d)
    shared = f.whole("shared_expert_intermediate_size", default=0)
    moe = Moe(
        f.whole("num_experts"),
        f.whole("num_experts_per_tok"),
        f.whole("moe_intermediate_size"),
        shared_width=shared,
        extra_parameters=hidden if shared else 0,
        shared_gate=shared > 0,
    )
    dense = Dense(f.whole("intermediate_size"))
    step, only = f.whole("decoder_sparse_step", default=1), f.data.get("mlp_only_layers") or []
    kinds = [dense if i in only or (i + 1) % step else moe for i in range(count)]
    return model_of(f, name, by_kind(count, attention, kinds, 2 * hidden))
