"""Step-3.5 and Step-3.7: windowed layers with heads of their own, a gate for each head."""

from __future__ import annotations

from moesim.models.blocks.block import Block
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, dense, model_of, reads
from moesim.models.model import Model

_SLIDING_HEADS = 96
"""Of windowed layers, where a config does not say: published models have no other (their totals agree)."""


@reads("step3p5", "step3p7")
def step(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    usual = ["sliding_attention" if i % 4 else "full_attention" for i in range(count)]
    kinds = f.words("layer_types", count, ("full_attention", "sliding_attention"), usual)
    other = Fields(f.section("attention_other_setting"), f.source)
    kv, dim = f.whole("num_key_value_heads", "num_attention_groups"), f.whole("head_dim")
    gate = "head" if f.flag("use_head_wise_attn_gate", True) else ""
    first = f.whole("first_k_dense_replace", default=3)

    def attention(i: int) -> Gqa:
        weights = f.format(i, "self_attn.q_proj")
        if kinds[i] != "sliding_attention":
            heads, window = f.whole("num_attention_heads"), None
        else:
            heads, window = other.whole("num_attention_heads", default=_SLIDING_HEADS), f.whole("sliding_window")
        return Gqa(heads, kv, dim, window, extra_parameters=2 * dim, weights=weights, gate=gate)

    def ffn(i: int) -> Block:
        if i < first:
            return dense(f, i, f.whole("intermediate_size"))
        experts = f.whole("num_experts", "moe_num_experts")
        return Moe(
            experts,
            f.whole("num_experts_per_tok", "moe_top_k"),
            f.whole("moe_intermediate_size"),
            shared_width=f.whole("share_expert_dim", default=0),
            extra_parameters=experts,
            scores="biased",
            router="float32",
            experts=f.format(i, "moe.experts.0.down_proj"),
            weights=f.format(i, "share_expert.down_proj"),
        )

    rows = [Row((attention(i), ffn(i)), 2 * hidden) for i in range(count)]
    f.problems += other.problems
    if not other.data:
        f.notes.append(f"windowed layers are taken to have {_SLIDING_HEADS} heads, which its config.json does not say")
    return model_of(f, name, rows)
