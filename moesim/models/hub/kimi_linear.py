"""Kimi-Linear, Kimi-K3, GLM-5.3-Flash: Kimi delta attention with some layers of latent attention."""

from __future__ import annotations

from moesim.models.blocks.block import Block
from moesim.models.blocks.moe import Moe
from moesim.models.blocks.recurrent import KimiDelta
from moesim.models.config_fields import Fields
from moesim.models.hub.deepseek import indexed_layers, mla, routed_layers, sparse_mla
from moesim.models.hub.reader import Row, dense, model_of, reads, routed_and_shared, stream_parameters
from moesim.models.model import Model


def _delta(f: Fields, linear: Fields, i: int) -> KimiDelta:
    return KimiDelta(
        linear.whole("num_heads"),
        linear.whole("head_dim"),
        linear.whole("short_conv_kernel_size", default=4),
        linear.flag("use_full_rank_gate"),
        4.0,
        f.format(i, "self_attn.q_proj"),
        f.format(i, "self_attn.o_proj"),
    )


@reads("kimi_linear", "kimi_k3")
def kimi_linear(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    linear = Fields(f.section("linear_attn_config"), f.source, f.quantization)
    full = set(linear.data.get("full_attn_layers") or ())
    if not full or not all(isinstance(i, int) and 1 <= i <= count for i in full):
        linear.refuse(f"'linear_attn_config.full_attn_layers' must list layers from 1 to {count}")
    first, width = f.whole("first_k_dense_replace", default=1), f.whole("intermediate_size")
    # Before attention and before experts, earlier layers' outputs are weighed and added (attention residuals).
    residuals = 4 * hidden if f.data.get("attn_res_block_size") else 0
    gate = f.flag("mla_use_output_gate", residuals > 0)

    def attention(i: int) -> Block:
        # Its lists count layers from one.
        return mla(f, i, output_gate=gate) if i + 1 in full else _delta(f, linear, i)

    routed = f.sparse(count, first)
    rows = [
        Row((attention(i), _experts(f, i) if routed[i] else dense(f, i, width)), 2 * hidden + residuals)
        for i in range(count)
    ]
    f.problems += linear.problems
    ends = 2 * hidden if residuals else 0
    return model_of(f, name, rows, other=ends)


def _experts(f: Fields, i: int) -> Moe:
    experts, width = f.whole("num_experts"), f.whole("moe_intermediate_size")
    latent = f.whole("routed_expert_hidden_size", default=0)
    return Moe(
        experts,
        f.whole("num_experts_per_token", "num_experts_per_tok"),
        width,
        shared_width=f.whole("num_shared_experts", default=0) * width,
        extra_parameters=experts,
        scores="biased",
        experts=f.format(i, "block_sparse_moe.experts.0.w2"),
        weights=f.format(i, "block_sparse_moe.shared_experts.down_proj"),
        latent=latent,
        latent_norm=latent > 0,
    )


@reads("glm5_next", "glm5_next_text")
def glm_next(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    linear = Fields(f.section("linear_attn_config"), f.source, f.quantization)
    kinds = f.words("layer_types", count, ("linear_attention", "deepseek_sparse_attention"))
    width, streams = f.whole("intermediate_size"), f.whole("hc_mult", default=1)
    routed, indexed = routed_layers(f, count), indexed_layers(f, count)

    def attention(i: int) -> Block:
        return _delta(f, linear, i) if kinds[i] == "linear_attention" else sparse_mla(f, i, indexed[i])

    mixed = 2 * stream_parameters(streams, hidden)
    rows = [
        Row(
            (attention(i), routed_and_shared(f, i, biased=True) if routed[i] else dense(f, i, width)),
            2 * hidden + mixed,
            streams=streams,
        )
        for i in range(count)
    ]
    f.problems += linear.problems
    return model_of(f, name, rows)
