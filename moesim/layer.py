"""One layer on one rank: shapes after tensor parallelism -> the operations a step runs, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.ops import (
    Attention,
    Collective,
    Elementwise,
    ExpertAllToAll,
    FusedExperts,
    Gemm,
    MlaModule,
    Operation,
)
from moesim.ops.attention import Group, virtual_batches
from moesim.ops.formats import ARITHMETIC, BYTES_PER_WEIGHT
from moesim.rank import Rank
from moesim.spec.engine_file import load_engine
from moesim.spec.model import Attention as AttentionSpec
from moesim.spec.model import DenseFfn, Layers, MoeFfn

Named = tuple[str, Operation]

_BF16 = 2.0
EXCHANGES = {"gather_tokens", "scatter_tokens", "dispatch", "dispatch_slices", "combine", "combine_slices"}
"""Operations that move tokens between data-parallel ranks."""


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

    @property
    def tokens(self) -> Any:
        """Rows that are tokens."""
        return sum(g.sequences * g.query for g in self.groups)


def layer_operations(rank: Rank, layers: Layers, load: Load) -> Iterator[Named]:
    """Every operation of one layer, as (name, operation); what runs twice is the same object twice."""
    tokens = load.padded_tokens
    norm, reduce = _norm(tokens, rank.model.hidden_size), list(_reduce(rank, tokens))
    yield "input_norm", norm
    yield from attention_operations(rank, layers.attention, load)
    yield from reduce
    if layers.attention.cross:
        yield "cross_norm", norm
        yield from _cross_attention(rank, layers.attention, load)
        yield from reduce
    yield "post_norm", norm
    if isinstance(layers.ffn, MoeFfn):
        yield from _moe(rank, layers.ffn, tokens, reduce)
    else:
        yield from _dense(rank, layers.ffn, tokens, "mlp", rank.tp)
        yield from reduce


def _norm(tokens: Any, hidden: int) -> Elementwise:
    """Residual add and norm in one kernel: two rows read, two written."""
    return Elementwise(tokens, 4 * _BF16 * tokens * hidden)


def _reduce(rank: Rank, tokens: Any) -> Iterator[Named]:
    if rank.tp > 1:
        yield "all_reduce", _collective(rank, ("tp",), "all_reduce", _BF16 * tokens * rank.model.hidden_size)


def _collective(rank: Rank, axes: tuple[str, ...], kind: str, message_bytes: Any, **more: Any) -> Collective:
    members = rank.plan.members(*axes)
    if kind == "all_reduce":
        more |= {"algorithm": rank.plan.algorithm, "custom": rank.plan.custom_all_reduce}
    return Collective(message_bytes, len(members), kind, members, **more)


def _phases(groups: tuple[Group, ...]) -> Iterator[tuple[str, tuple[Group, ...]]]:
    """Prompt chunks and, where a step also decodes, its decodes: different kernels."""
    *others, last = groups
    decodes = others and np.all(np.asarray(last.query) == 1) and np.all(np.asarray(last.past) > 0)
    if decodes and np.all(np.asarray(last.sequences) > 0):
        yield "", tuple(others)
        yield "decode_", (last,)
    else:
        yield "", groups


def attention_operations(rank: Rank, spec: AttentionSpec, load: Load) -> Iterator[Named]:
    """The attention block of a layer, projections included."""
    hidden, tokens = rank.model.hidden_size, load.padded_tokens
    heads = spec.num_attention_heads // rank.tp
    if spec.mla:
        mla = spec.mla
        for phase, groups in _phases(load.groups):
            yield f"{phase}mla", MlaModule(
                groups, heads, hidden, mla.q_lora_rank or 0, mla.kv_lora_rank, mla.qk_rope_head_dim,
                mla.qk_nope_head_dim, mla.v_head_dim, rank.kv_bytes, ARITHMETIC[rank.linear] == "fp8",
                BYTES_PER_WEIGHT[rank.linear],
                spec.indexer.top_k if spec.indexer else None,
            )  # fmt: skip
        if spec.indexer:
            yield from _indexer(rank, spec, load)
        return
    kv, dim = rank.kv_heads(spec), spec.head_dim
    yield "qkv_proj", Gemm(tokens, (heads + 2 * kv) * dim, hidden, rank.linear)
    if spec.norm_across_heads and rank.tp > 1:
        # Two float32 sums a token (vLLM models/minimax_m2.py).
        yield "qk_norm_all_reduce", _collective(rank, ("tp",), "all_reduce", 8.0 * tokens)
    # Query and key norms ride in the same compiled kernel.
    yield "rope", Elementwise(tokens, 2 * _BF16 * tokens * (heads + kv) * dim)
    window = None if spec.chunked else spec.window
    for phase, sequences in _phases(load.groups):
        groups = virtual_batches(sequences, spec.window) if spec.chunked and spec.window else sequences
        yield f"{phase}attention", Attention(groups, heads, kv, dim, window, rank.kv_bytes, spec.causal)
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


def _dense(rank: Rank, ffn: DenseFfn, tokens: Any, name: str, slices: int) -> Iterator[Named]:
    hidden, width = rank.model.hidden_size, ffn.width // slices
    up = (1 + ffn.gated) * width
    yield f"{name}_up_proj", Gemm(tokens, up, hidden, rank.linear)
    yield f"{name}_act", Elementwise(tokens, _BF16 * tokens * (up + width))
    yield f"{name}_down_proj", Gemm(tokens, hidden, width, rank.linear)


def _moe(rank: Rank, ffn: MoeFfn, tokens: Any, reduce: list[Named]) -> Iterator[Named]:
    """Router, routed experts and shared experts; how tokens and experts meet is the plan's.

    Without data parallelism every rank of the TP group holds all tokens and one all-reduce adds up the parts. With it,
    tokens are gathered (or dispatched) to the experts' ranks and results scattered (or combined) back; under expert
    parallelism the TP ranks of a replica then split its tokens among themselves (vLLM's sequence-parallel MoE).
    """
    plan, hidden = rank.plan, rank.model.hidden_size
    mine = np.ceil(np.asarray(tokens) / plan.tp).astype(np.int64) if plan.exchanges and plan.tp > 1 else tokens
    # A tile has 64 columns: a router of fewer experts costs as much as one of 64.
    yield "router", Gemm(mine, max(ffn.num_experts, 64), hidden)
    yield "top_k", Elementwise(mine, mine * (_BF16 * ffn.num_experts + 8.0 * ffn.num_experts_per_tok))
    everyone = tokens * plan.dp
    experts = FusedExperts(
        everyone, hidden, ffn.width // plan.expert_tp, rank.slots(ffn), ffn.num_experts_per_tok, rank.loads(ffn),
        ffn.gated, rank.experts,
        all_experts=ffn.num_experts if plan.ep > 1 else None,
        local_only=_sorts_own_rows(plan.backend if plan.exchanges else "", rank.experts),
        backend=rank.moe_backend,
    )  # fmt: skip
    if plan.dp == 1:
        yield "experts", experts
    elif plan.exchanges:
        yield from _exchanged(rank, ffn, mine, everyone, experts)
    else:
        yield "gather_tokens", _collective(rank, ("dp",), "all_gather", _token_bytes(rank, ffn) * everyone)
        yield "experts", experts
        yield "scatter_tokens", _collective(rank, ("dp",), "reduce_scatter", _BF16 * hidden * everyone)
    if ffn.shared_width:
        slices = 1 if plan.exchanges else plan.tp
        yield from _dense(rank, DenseFfn(ffn.shared_width, ffn.gated), mine, "shared", slices)
        if ffn.shared_gate:
            yield "shared_gate", Elementwise(mine, _BF16 * mine * hidden, 2)
        yield "shared_add", Elementwise(mine, 3 * _BF16 * mine * hidden)
    if not plan.exchanges:
        yield from reduce
    elif plan.tp > 1 and plan.backend != "coordinated":
        yield "gather_sequence", _collective(rank, ("tp",), "all_gather", _BF16 * tokens * hidden)


def _sorts_own_rows(backend: str, weights: str) -> bool:
    """Whether kernels around the experts see a rank's own rows only: sent to it alone, or sorted out first."""
    return backend not in {"", "allgather_reducescatter"} or weights == "mxfp4"


def _token_bytes(rank: Rank, ffn: MoeFfn) -> float:
    """A token as it is sent to experts, its expert numbers and their weights."""
    element = _sent_element(rank)
    scales = 4.0 / 128 if element < _BF16 else 0.0
    return (element + scales) * rank.model.hidden_size + 8.0 * ffn.num_experts_per_tok


def _sent_element(rank: Rank) -> float:
    """Bytes of an activation on its way to an expert: block-scaled fp8 is quantised first."""
    return 1.0 if rank.experts == "fp8_block" else _BF16


def _exchanged(rank: Rank, ffn: MoeFfn, mine: Any, everyone: Any, experts: FusedExperts) -> Iterator[Named]:
    """Tokens of each rank to their experts' ranks and back; the busiest rank receives most."""
    plan, hidden, group = rank.plan, rank.model.hidden_size, ("tp", "dp")
    loads, k = experts.loads, ffn.num_experts_per_tok
    if plan.backend == "allgather_reducescatter":
        yield "gather_tokens", _collective(rank, group, "all_gather", _token_bytes(rank, ffn) * everyone)
        yield "experts", experts
        yield "scatter_tokens", _collective(rank, group, "reduce_scatter", _BF16 * hidden * everyone)
        return
    busiest = loads.imbalance(everyone) if plan.ep > 1 else 1.0
    members = plan.members(*group)
    sent = {"dispatch": _sent_element(rank), "combine": _BF16}
    for phase in ("dispatch", "combine"):
        if phase == "combine":
            yield "experts", experts
        if plan.deepep:
            yield phase, ExpertAllToAll(
                plan.backend, phase, mine, hidden, k, ffn.num_experts, len(members),
                bytes_per_element=sent[phase], sms=load_engine().exchange.deepep_sms.value,
                n_group=ffn.n_group, topk_group=ffn.topk_group, busiest=busiest, slices=plan.expert_tp, members=members,
            )  # fmt: skip
            continue
        message = mine * k * hidden * sent[phase]
        if plan.backend == "coordinated" and plan.tp > 1:
            # DeepSpeed-MoE (arXiv 2201.05596, section 5.2): ranks of equal slice exchange, then a gather over slices.
            yield phase, _collective(rank, ("dp",), "alltoall", message, busiest=busiest)
            yield f"{phase}_slices", _collective(rank, ("tp",), "all_gather", message * plan.tp)
            continue
        algorithm = plan.backend if plan.backend in {"two_level", "two_dh"} else "auto"
        # Every rank that holds a slice of an expert needs the token.
        message = message * plan.expert_tp
        yield phase, _collective(rank, group, "alltoall", message, algorithm=algorithm, busiest=busiest)


def hop_operations(rank: Rank, load: Load) -> Iterator[Named]:
    """Hidden states and residual to the next pipeline stage: each TP rank sends a slice, the receivers gather them."""
    whole = 2 * _BF16 * load.padded_tokens * rank.model.hidden_size
    between = rank.plan.members("pp")[rank.stage : rank.stage + 2]
    yield "send_recv", Collective(whole / rank.tp, 2, "send_recv", between)
    if rank.tp > 1:
        yield "gather_hidden", _collective(rank, ("tp",), "all_gather", whole)


def head_operations(rank: Rank, load: Load, sampled: Any) -> Iterator[Named]:
    """Embedding in, and norm, head and sampling out, for ``sampled`` sequences; what this stage holds of it."""
    model, tokens = rank.model, load.padded_tokens
    hidden, vocabulary = model.hidden_size, int(np.ceil(model.vocab_size / rank.tp))
    if rank.first:
        yield "embedding", Elementwise(tokens, 2 * _BF16 * tokens * hidden)
        yield from _reduce(rank, tokens)
    if not rank.last:
        return
    yield "final_norm", _norm(tokens, hidden)
    yield "lm_head", Gemm(np.maximum(sampled, 1), vocabulary, hidden)
    if rank.tp > 1:
        yield (
            "gather_logits",
            _collective(rank, ("tp",), "all_gather", _BF16 * np.maximum(sampled, 1) * model.vocab_size),
        )
    yield (
        "sampling",
        Elementwise(np.maximum(sampled, 1), 4 * 4.0 * np.maximum(sampled, 1) * model.vocab_size, 4),
    )
