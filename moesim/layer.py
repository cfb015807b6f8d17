"""One layer on one rank: shapes after tensor parallelism -> the operations a step runs, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.ops import AllReduce, Attention, Elementwise, FusedExperts, Gemm, MlaModule, Operation
from moesim.ops.attention import Group, virtual_batches
from moesim.ops.formats import ARITHMETIC, BYTES_PER_WEIGHT
from moesim.rank import Rank
from moesim.spec.model import Attention as AttentionSpec
from moesim.spec.model import DenseFfn, Layers, MoeFfn

Named = tuple[str, Operation]

_BF16 = 2.0


@dataclass(frozen=True)
class Load:
    """What a step computes: groups of sequences, and how many rows it is padded to for a CUDA graph."""

    groups: tuple[Group, ...]
    padded_tokens: Any
    """Rows every dense operation sees."""
    graph: Any
    """Whether a CUDA graph runs it."""
    source_len: Any = 0
    """Encoder tokens a decoder layer attends across (encoder-decoder models)."""

    @property
    def sequences(self) -> Any:
        return sum(g.sequences for g in self.groups)


def layer_operations(rank: Rank, layers: Layers, load: Load) -> Iterator[Named]:
    """Every operation of one layer, as (name, operation); what runs twice is the same object twice."""
    tokens = load.padded_tokens
    norm, reduce = _norm(tokens, rank.model.hidden_size), list(_reduce(rank, tokens))
    yield "input_norm", norm
    yield from _attention(rank, layers.attention, load)
    yield from reduce
    if layers.attention.cross:
        yield "cross_norm", norm
        yield from _cross_attention(rank, layers.attention, load)
        yield from reduce
    yield "post_norm", norm
    if isinstance(layers.ffn, MoeFfn):
        yield from _moe(rank, layers.ffn, tokens)
    else:
        yield from _dense(rank, layers.ffn, tokens, "mlp")
    yield from reduce


def _norm(tokens: Any, hidden: int) -> Elementwise:
    """Residual add and norm in one kernel: two rows read, two written."""
    return Elementwise(tokens, 4 * _BF16 * tokens * hidden)


def _reduce(rank: Rank, tokens: Any) -> Iterator[Named]:
    if rank.tp > 1:
        yield "all_reduce", AllReduce(_BF16 * tokens * rank.model.hidden_size, rank.tp)


def _attention(rank: Rank, spec: AttentionSpec, load: Load) -> Iterator[Named]:
    hidden, tokens = rank.model.hidden_size, load.padded_tokens
    heads = spec.num_attention_heads // rank.tp
    if spec.mla:
        mla = spec.mla
        yield (
            "mla",
            MlaModule(
                load.groups, heads, hidden, mla.q_lora_rank or 0, mla.kv_lora_rank, mla.qk_rope_head_dim,
                mla.qk_nope_head_dim, mla.v_head_dim, rank.kv_bytes, ARITHMETIC[rank.linear] == "fp8",
                BYTES_PER_WEIGHT[rank.linear],
                spec.indexer.top_k if spec.indexer else None,
            ),
        )  # fmt: skip
        if spec.indexer:
            yield from _indexer(rank, spec, load)
        return
    kv, dim = rank.kv_heads(spec), spec.head_dim
    yield "qkv_proj", Gemm(tokens, (heads + 2 * kv) * dim, hidden, rank.linear)
    # Query and key norms ride in the same compiled kernel.
    yield "rope", Elementwise(tokens, 2 * _BF16 * tokens * (heads + kv) * dim)
    groups = virtual_batches(load.groups, spec.window) if spec.chunked and spec.window else load.groups
    window = None if spec.chunked else spec.window
    yield "attention", Attention(groups, heads, kv, dim, window, rank.kv_bytes, spec.causal)
    yield "o_proj", Gemm(tokens, hidden, heads * dim, rank.linear)


def _indexer(rank: Rank, spec: AttentionSpec, load: Load) -> Iterator[Named]:
    """DeepSeek sparse attention's indexer, whole on every rank: projections, scores of the past, top-k.

    Scores are QK products alone over one fp8 key head: the work of half as many heads of full attention.
    """
    index, hidden, tokens = spec.indexer, rank.model.hidden_size, load.padded_tokens
    assert index is not None and spec.mla is not None
    yield "indexer_q_proj", Gemm(tokens, index.heads * index.head_dim, spec.mla.q_lora_rank or hidden, rank.linear)
    yield "indexer_k_proj", Gemm(tokens, index.head_dim + index.heads, hidden, rank.linear)
    yield "indexer_scores", Attention(load.groups, index.heads // 2, 1, index.head_dim, None, 1.0, related=True)
    seen = sum(g.sequences * g.query * (g.past + g.query) for g in load.groups)
    yield "indexer_top_k", Elementwise(tokens, 4.0 * seen)


def _cross_attention(rank: Rank, spec: AttentionSpec, load: Load) -> Iterator[Named]:
    """Every new token attends to the whole source, whose keys and values are cached already."""
    hidden, tokens = rank.model.hidden_size, load.padded_tokens
    heads, kv, dim = spec.num_attention_heads // rank.tp, rank.kv_heads(spec), spec.head_dim
    yield "cross_q_proj", Gemm(tokens, heads * dim, hidden, rank.linear)
    groups = tuple(Group(g.sequences, g.query, load.source_len - g.query + 0 * g.past) for g in load.groups)
    yield "cross_attention", Attention(groups, heads, kv, dim, None, rank.kv_bytes, causal=False)
    yield "cross_o_proj", Gemm(tokens, hidden, heads * dim, rank.linear)


def _dense(rank: Rank, ffn: DenseFfn, tokens: Any, name: str) -> Iterator[Named]:
    hidden, width = rank.model.hidden_size, ffn.width // rank.tp
    up = (1 + ffn.gated) * width
    yield f"{name}_up_proj", Gemm(tokens, up, hidden, rank.linear)
    yield f"{name}_act", Elementwise(tokens, _BF16 * tokens * (up + width))
    yield f"{name}_down_proj", Gemm(tokens, hidden, width, rank.linear)


def _moe(rank: Rank, ffn: MoeFfn, tokens: Any) -> Iterator[Named]:
    hidden = rank.model.hidden_size
    # A tile has 64 columns: a router of fewer experts costs as much as one of 64.
    yield "router", Gemm(tokens, max(ffn.num_experts, 64), hidden)
    yield "top_k", Elementwise(tokens, tokens * (_BF16 * ffn.num_experts + 8.0 * ffn.num_experts_per_tok))
    yield (
        "experts",
        FusedExperts(
            tokens, hidden, ffn.width // rank.tp, ffn.num_experts, ffn.num_experts_per_tok, rank.loads(ffn),
            ffn.gated, rank.experts,
        ),
    )  # fmt: skip
    if ffn.shared_width:
        yield from _dense(rank, DenseFfn(ffn.shared_width, ffn.gated), tokens, "shared")
        if ffn.shared_gate:
            yield "shared_gate", Elementwise(tokens, _BF16 * tokens * hidden, 2)
        yield "shared_add", Elementwise(tokens, 3 * _BF16 * tokens * hidden)


def head_operations(rank: Rank, load: Load, sampled: Any) -> Iterator[Named]:
    """Embedding in, and norm, head and sampling out, for ``sampled`` sequences."""
    model, tokens = rank.model, load.padded_tokens
    hidden, vocabulary = model.hidden_size, int(np.ceil(model.vocab_size / rank.tp))
    yield "embedding", Elementwise(tokens, 2 * _BF16 * tokens * hidden)
    yield from _reduce(rank, tokens)
    yield "final_norm", _norm(tokens, hidden)
    yield "lm_head", Gemm(np.maximum(sampled, 1), vocabulary, hidden)
    if rank.tp > 1:
        yield (
            "gather_logits",
            AllReduce(_BF16 * np.maximum(sampled, 1) * model.vocab_size, rank.tp, "all_gather"),
        )
    yield (
        "sampling",
        Elementwise(np.maximum(sampled, 1), 4 * 4.0 * np.maximum(sampled, 1) * model.vocab_size, 4),
    )
