"""ERNIE-4.5, Hunyuan-A13B, LongCat-Flash: experts under names of their own."""

from __future__ import annotations

from moesim.models.blocks.block import Block
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.deepseek import mla
from moesim.models.hub.reader import Row, dense, gqa, model_of, reads
from moesim.models.model import Model


@reads("ernie4_5_moe")
def ernie(f: Fields, name: str) -> Model:
    hidden, count, width = f.whole("hidden_size"), f.layers(), f.whole("intermediate_size")
    first, every = f.whole("moe_layer_start_index", default=0), f.whole("moe_layer_interval", default=1)
    last = f.whole("moe_layer_end_index", default=count - 1)

    def ffn(i: int) -> Block:
        if not (first <= i <= last and (i + 1) % every == 0):
            return dense(f, i, width)
        experts, wide = f.whole("moe_num_experts"), f.whole("moe_intermediate_size")
        return Moe(
            experts,
            f.whole("moe_k"),
            wide,
            shared_width=f.whole("moe_num_shared_experts", default=0) * wide,
            extra_parameters=experts,
            router="float32",
            experts=f.format(i, "mlp.experts.0.down_proj"),
            weights=f.format(i, "mlp.shared_experts.down_proj"),
        )

    return model_of(f, name, [Row((gqa(f, i), ffn(i)), 2 * hidden) for i in range(count)])


@reads("hunyuan_v1_moe")
def hunyuan(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    if f.data.get("use_cla"):
        f.refuse("'use_cla' shares keys and values across layers, which is not modelled")

    def one(*names: str, default: int | None = None) -> list[int]:
        """A number for each layer, or one for all."""
        named = next((n for n in names if f.data.get(n) is not None), names[0])
        return f.numbers(named, count, default=default)

    experts, picked = one("num_experts"), one("moe_topk", "num_experts_per_tok")
    width = one("moe_intermediate_size", "intermediate_size")
    shared = one("num_shared_expert", default=1)

    def row(i: int) -> Row:
        attention = gqa(f, i, lambda h, kv, d: 2 * d * f.flag("use_qk_norm", True))
        moe = Moe(
            experts[i], picked[i], width[i], shared_width=shared[i] * f.whole("intermediate_size"),
            router="float32", experts=f.format(i, "mlp.experts.0.down_proj"),
            weights=f.format(i, "mlp.shared_mlp.down_proj"),
        )  # fmt: skip
        return Row((attention, moe), 2 * hidden)

    tied = f.flag("tie_word_embeddings", True)
    return model_of(f, name, [row(i) for i in range(count)], tie_word_embeddings=tied)


@reads("longcat_flash")
def longcat(f: Fields, name: str) -> Model:
    """A layer is two of attention and feed-forward, with experts beside the second half."""
    hidden, count = f.whole("hidden_size"), f.layers("num_layers", "num_hidden_layers")
    width = f.whole("ffn_hidden_size", "intermediate_size")
    experts, idle = f.whole("n_routed_experts"), f.whole("zero_expert_num", default=0)

    def row(i: int) -> Row:
        half = (mla(f, i), dense(f, i, width, name="mlps.0"))
        moe = Moe(
            experts, f.whole("moe_topk", "num_experts_per_tok"), f.whole("expert_ffn_hidden_size"),
            extra_parameters=experts + idle, unrouted=idle, router="float32",
            experts=f.format(i, "mlp.experts.0.down_proj"),
        )  # fmt: skip
        return Row((*half, *half, moe), 4 * hidden)

    return model_of(f, name, [row(i) for i in range(count)])
