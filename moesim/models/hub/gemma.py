"""Gemma 3 (dense) and Gemma 4 (experts beside a feed-forward): windows in five layers of six, norms after blocks."""

from __future__ import annotations

from moesim.models.blocks.block import Block
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, dense, gqa, model_of, reads
from moesim.models.model import Model


def _kinds(f: Fields, count: int) -> list[str]:
    every = f.whole("sliding_window_pattern", default=6)
    usual = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(count)]
    return f.words("layer_types", count, ("full_attention", "sliding_attention"), usual)


_GEMMA3 = {
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208,
    "max_position_embeddings": 131072, "sliding_window": 4096,
}  # fmt: skip
"""What its published configs leave to transformers."""


@reads("gemma3", "gemma3_text")
def gemma3(f: Fields, name: str) -> Model:
    f.data = _GEMMA3 | f.data
    hidden, count, width = f.whole("hidden_size"), f.layers(), f.whole("intermediate_size")
    kinds = _kinds(f, count)

    def row(i: int) -> Row:
        window = f.whole("sliding_window") if kinds[i] == "sliding_attention" else None
        attention = gqa(f, i, lambda h, kv, d: 2 * d, window=window)
        return Row((attention, dense(f, i, width)), 4 * hidden, post_norms=2)

    tied = f.flag("tie_word_embeddings", True)
    rows = [row(i) for i in range(count)]
    return model_of(f, name, rows, tie_word_embeddings=tied)


@reads("gemma4", "gemma4_text")
def gemma4(f: Fields, name: str) -> Model:
    hidden, count, width = f.whole("hidden_size"), f.layers(), f.whole("intermediate_size")
    kinds, routed = _kinds(f, count), f.flag("enable_moe_block")
    for field in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
        if f.data.get(field):
            f.refuse(f"'{field}' is {f.data[field]!r}; layers that share keys or own embeddings are not modelled")
    heads = f.whole("num_attention_heads")

    def attention(i: int) -> Gqa:
        weights = f.format(i, "self_attn.q_proj")
        if kinds[i] == "sliding_attention":
            dim, kv, window = f.whole("head_dim"), f.whole("num_key_value_heads"), f.whole("sliding_window")
            return Gqa(heads, kv, dim, window, extra_parameters=2 * dim, weights=weights)
        dim = f.whole("global_head_dim", "head_dim")
        kv = f.whole("num_global_key_value_heads", "num_key_value_heads")
        shared = f.flag("attention_k_eq_v")
        return Gqa(heads, kv, dim, extra_parameters=2 * dim, weights=weights, keys_are_values=shared)

    def experts(i: int) -> tuple[Block, ...]:
        if not routed:
            return ()
        many = f.whole("num_experts")
        moe = Moe(
            many, f.whole("top_k_experts", "num_experts_per_tok"), f.whole("moe_intermediate_size"),
            extra_parameters=hidden + many, experts=f.format(i, "experts.0.down_proj"),
        )  # fmt: skip
        return (moe,)

    norms = (7 if routed else 4) * hidden + 1
    rows = [
        Row((attention(i), dense(f, i, width), *experts(i)), norms, post_norms=4 if routed else 2)
        for i in range(count)
    ]  # fmt: skip
    tied = f.flag("tie_word_embeddings", True)
    return model_of(f, name, rows, tie_word_embeddings=tied)
