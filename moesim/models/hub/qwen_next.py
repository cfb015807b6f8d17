"""Qwen3-Next, Qwen3.5 and later: three layers of gated delta net to one of gated attention, experts in each."""

from __future__ import annotations

from moesim.models.blocks.block import Block
from moesim.models.blocks.recurrent import GatedDeltaNet
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, gqa, model_of, qwen_ffn, reads
from moesim.models.model import Model


@reads("qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text")
def qwen_next(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    every = f.whole("full_attention_interval", default=4)
    usual = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(count)]
    kinds = f.words("layer_types", count, ("full_attention", "linear_attention"), usual)
    # vLLM takes Qwen3.5's float32 states from its config; Qwen3-Next has no such field and keeps the model's 16 bits.
    element = 4.0 if f.data.get("mamba_ssm_dtype") == "float32" else 2.0
    projection = "in_proj_qkvz" if f.data.get("model_type") == "qwen3_next" else "in_proj_qkv"
    gate = "elementwise" if f.flag("attn_output_gate", f.data.get("model_type") == "qwen3_next") else ""

    def attention(i: int) -> Block:
        if kinds[i] == "full_attention":
            return gqa(f, i, lambda h, kv, d: 2 * d, gate=gate)
        return GatedDeltaNet(
            f.whole("linear_num_key_heads"),
            f.whole("linear_num_value_heads"),
            f.whole("linear_key_head_dim"),
            f.whole("linear_value_head_dim"),
            f.whole("linear_conv_kernel_dim"),
            element,
            f.format(i, f"linear_attn.{projection}"),
            f.format(i, "linear_attn.out_proj"),
        )

    rows = [Row((attention(i), qwen_ffn(f, i)), 2 * hidden) for i in range(count)]
    return model_of(f, name, rows)
