"""DeepSeek-V4 and V4.1: windows beside compressed keys, residual streams, experts in every layer."""

from __future__ import annotations

from typing import Any

from moesim.errors import Problem
from moesim.models.blocks.block import Block
from moesim.models.blocks.compressed import Compressed
from moesim.models.blocks.engram import Engram
from moesim.models.blocks.moe import Moe
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import Row, model_of, reads, stream_parameters
from moesim.models.model import Model

_LONGEST_RATIO = 4096
_INDEXED_RATIO = 4
"""Short windows of the compressor overlap and are indexed; long ones are all attended."""


@reads("deepseek_v4", "deepseek_ref")
def deepseek_v4(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    streams, ratios = f.whole("hc_mult", default=1), f.numbers("compress_ratios", count, _LONGEST_RATIO)
    hashed = f.whole("num_hash_layers", default=0)

    def attention(i: int) -> Block:
        indexed = ratios[i] == _INDEXED_RATIO
        return _attention(
            f, i, ratio=ratios[i], overlaps=indexed, index_heads=f.whole("index_n_heads") if indexed else 0,
            index_dim=f.whole("index_head_dim"), picked=f.whole("index_topk") if indexed else 0,
        )  # fmt: skip

    norms = 2 * hidden + 2 * stream_parameters(streams, hidden)
    rows = [Row((attention(i), _experts(f, i, i >= hashed)), norms, streams=streams) for i in range(count)]
    collapse = streams * streams * hidden + streams + 1 if streams > 1 else 0
    return model_of(f, name, rows, other=collapse)


@reads("deepseek_v41", "deepseek_v41_text")
def deepseek_v41(f: Fields, name: str) -> Model:
    hidden, count = f.whole("hidden_size"), f.layers()
    streams, ratios = f.whole("hc_mult", default=1), f.numbers("compress_ratios", count, _LONGEST_RATIO)
    sources, indexers = (_layers(f, key, count) for key in ("kv_source_layer_ids", "index_source_layer_ids"))
    tables = dict(zip(_layers(f, "engram_layer_ids", count), f.data.get("engram_num_embeddings") or (), strict=False))

    def attention(i: int) -> Block:
        return _attention(
            f, i, ratio=ratios[i], compresses=i in sources, position_table=False,
            index_heads=f.whole("index_n_heads") if i in indexers else 0, index_dim=f.whole("index_head_dim"),
            index_compresses=False, picked=f.whole("index_topk") if ratios[i] else 0,
        )  # fmt: skip

    def engram(i: int) -> tuple[Block, ...]:
        if i not in tables:
            return ()
        columns = (f.whole("engram_max_ngram_size") - 1) * f.whole("engram_n_heads")
        return (Engram(int(tables[i]), f.whole("engram_head_dim"), columns, streams, f.format(i, "engram.wkv")),)

    norms = 2 * hidden + 2 * stream_parameters(streams, hidden)
    rows = [
        Row((*engram(i), attention(i), _experts(f, i, True, 2)), norms, streams=streams) for i in range(count)
    ]  # fmt: skip
    return model_of(f, name, rows)


def _layers(f: Fields, key: str, count: int) -> list[int]:
    found = f.data.get(key) or []
    if not isinstance(found, list) or not all(isinstance(i, int) and 0 <= i < count for i in found):
        f.problems.append(Problem(f"'{key}' must list layers from 0 to {count - 1}", f.source))
        return []
    return found


def _attention(f: Fields, i: int, **more: Any) -> Compressed:
    return Compressed(
        f.whole("num_attention_heads"),
        f.whole("head_dim"),
        f.whole("qk_rope_head_dim"),
        f.whole("q_lora_rank"),
        f.whole("o_groups"),
        f.whole("o_lora_rank"),
        f.whole("sliding_window"),
        weights=f.format(i, "attn.wq_b"),
        out_weights=f.format(i, "attn.wo_b"),
        **more,
    )


def _experts(f: Fields, i: int, biased: bool, biases: int = 1) -> Moe:
    experts, width = f.whole("n_routed_experts"), f.whole("moe_intermediate_size")
    return Moe(
        experts,
        f.whole("num_experts_per_tok"),
        width,
        shared_width=f.whole("n_shared_experts", default=0) * width,
        extra_parameters=experts * biased * biases,
        scores="biased",
        experts=f.format(i, "ffn.experts.0.w2"),
        weights=f.format(i, "ffn.shared_experts.w2"),
    )
