"""NLLB-MoE (arXiv 2207.04672): encoder and decoder."""

from __future__ import annotations

from typing import Any

from moesim.models.blocks.block import Block
from moesim.models.blocks.cross import Cross
from moesim.models.blocks.dense import Dense
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import model_of, reads
from moesim.models.model import Layers, Model


@reads("nllb-moe")
def nllb(f: Fields, name: str, config: dict[str, Any]) -> Model:
    hidden, experts = f.whole("d_model"), f.whole("num_experts")
    layers: list[Layers] = []
    for side, cross in (("encoder", False), ("decoder", True)):
        heads, total = f.whole(f"{side}_attention_heads"), f.layers(f"{side}_layers")
        width, sparse = f.whole(f"{side}_ffn_dim"), total // max(f.whole(f"{side}_sparse_step"), 1)
        dim, biases = hidden // max(heads, 1), 4 * hidden
        attention: tuple[Block, ...] = (Gqa(heads, heads, dim, causal=cross, extra_parameters=biases),)
        if cross:
            attention = (*attention, Cross(heads, heads, dim, biases))
        bias = width + hidden
        moe = Moe(experts, f.whole("num_experts_per_tok"), width, gated=False, extra_parameters=experts * bias)
        norms = 2 * hidden * (3 if cross else 2)
        layers += [
            Layers(sparse, (*attention, moe), norms, side == "encoder"),
            Layers(total - sparse, (*attention, Dense(width, gated=False)), norms + bias, side == "encoder"),
        ]
    return model_of(f, name, tuple(layers), norm=4)
