"""MiniMax-M3: block-sparse attention after three dense layers."""

from __future__ import annotations

from moesim.models.blocks.block import Block
from moesim.models.blocks.block_sparse import BlockSparse
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, dense, gqa, model_of, reads
from moesim.models.model import Model


@reads("minimax_m3", "minimax_m3_vl", "minimax_m3_text")
def minimax_m3(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    sparse = Fields(f.section("sparse_attention_config"), f.source, f.quantization)
    routed, indexed = f.sparse(count), sparse.sparse(count, name="sparse_attention_freq")

    def attention(i: int) -> Block:
        plain = gqa(f, i, lambda h, kv, d: 2 * d)
        if not indexed[i]:
            return plain
        return BlockSparse(
            plain,
            sparse.whole("sparse_num_index_heads"),
            sparse.whole("sparse_index_dim"),
            sparse.whole("sparse_topk_blocks"),
            sparse.whole("sparse_block_size"),
            f.format(i, "self_attn.index_q_proj"),
        )

    def ffn(i: int) -> Block:
        if not routed[i]:
            return dense(f, i, f.whole("dense_intermediate_size"))
        experts = f.whole("num_local_experts")
        return Moe(
            experts,
            f.whole("num_experts_per_tok"),
            f.whole("moe_intermediate_size", "intermediate_size"),
            shared_width=f.whole("shared_intermediate_size", default=0) * f.whole("n_shared_experts", default=1),
            extra_parameters=experts if f.flag("use_routing_bias") else 0,
            scores="biased",
            router="float32",
            experts=f.format(i, "block_sparse_moe.experts.0.w2"),
            weights=f.format(i, "block_sparse_moe.shared_experts.down_proj"),
        )

    rows = [Row((attention(i), ffn(i)), 2 * hidden) for i in range(count)]
    f.problems += sparse.problems
    return model_of(f, name, rows)
