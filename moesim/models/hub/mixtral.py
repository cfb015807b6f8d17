"""Mixtral, OLMoE, Phi-3.5-MoE, MiniMax-M2: every layer routed, no shared experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import gqa, model_of, reads
from moesim.models.model import Layers, Model


@reads("mixtral", "olmoe", "phimoe", "minimax_m2")
def mixtral(f: Fields, name: str, config: dict[str, Any]) -> Model:
    kind, hidden = config["model_type"], f.whole("hidden_size")
    window = f.optional("sliding_window")
    extra: dict[str, Callable[[int, int, int], int]] = {
        "olmoe": lambda h, kv, d: (h + kv) * d,
        "minimax_m2": lambda h, kv, d: (h + kv) * d,
        "phimoe": lambda h, kv, d: (h + 2 * kv) * d + hidden,
    }
    attention = gqa(f, extra.get(kind, lambda h, kv, d: 0), window=window, norm_across_heads=kind == "minimax_m2")
    experts = f.whole("num_local_experts", "num_experts")
    ffn = Moe(
        experts,
        f.whole("num_experts_per_tok"),
        f.whole("intermediate_size"),
        extra_parameters=experts if f.flag("use_routing_bias") else 0,
        scores="sigmoid" if kind == "minimax_m2" else "softmax",
        router="float32" if kind == "minimax_m2" else "bfloat16",  # vLLM models/minimax_m2.py
    )
    biased_norms = kind == "phimoe"
    norms = hidden * (4 if biased_norms else 2)
    head_bias = f.whole("vocab_size") if f.flag("lm_head_bias") else 0
    layers = (Layers(f.layers(), (attention, ffn), norms),)
    return model_of(f, name, layers, norm=2 if biased_norms else 1, other=head_bias)
