"""NLLB-MoE (arXiv 2207.04672): encoder and decoder."""

from __future__ import annotations

from moesim.models.blocks.block import Block
from moesim.models.blocks.cross import Cross
from moesim.models.blocks.dense import Dense
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, model_of, reads
from moesim.models.model import Model


@reads("nllb-moe")
def nllb(f: Fields, name: str) -> Model:
    hidden, experts = f.whole("d_model"), f.whole("num_experts")
    rows: list[Row] = []
    for side, cross in (("encoder", False), ("decoder", True)):
        heads, total = f.whole(f"{side}_attention_heads"), f.layers(f"{side}_layers")
        width, step = f.whole(f"{side}_ffn_dim"), max(f.whole(f"{side}_sparse_step"), 1)
        dim, biases = hidden // max(heads, 1), 4 * hidden
        attention: tuple[Block, ...] = (Gqa(heads, heads, dim, causal=cross, extra_parameters=biases),)
        if cross:
            attention = (*attention, Cross(heads, heads, dim, biases))
        bias = width + hidden
        moe = Moe(experts, f.whole("num_experts_per_tok"), width, gated=False, extra_parameters=experts * bias)
        norms = 2 * hidden * (3 if cross else 2)
        sparse = Row((*attention, moe), norms, side == "encoder")
        plain = Row((*attention, Dense(width, gated=False)), norms + bias, side == "encoder")
        rows += [plain if (i + 1) % step else sparse for i in range(total)]
    return model_of(f, name, rows, norm=4)
