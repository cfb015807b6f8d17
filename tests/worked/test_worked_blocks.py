"""Blocks by hand: parameters, bytes a rank holds, caches, activations and operations, on one rank, under TP and EP.

A toy of hidden size 48, so that no two numbers are equal by chance.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim.engines.engine import load_engine
from moesim.inputs.routing import Balanced
from moesim.models.blocks.block import State
from moesim.models.blocks.cross import Cross
from moesim.models.blocks.dense import Dense
from moesim.models.blocks.gqa import Gqa
from moesim.models.blocks.mla import Mla
from moesim.models.blocks.moe import Moe
from moesim.models.frame import Frame
from moesim.models.model import Layers, Model
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops.load import Group, Load

TOY = Model("toy", "Toy", 48, 1000, (Layers(2, (Gqa(8, 2, 16), Dense(96)), 96),))
TPS = pytest.mark.parametrize("tp", [1, 4])


def stored(block, linear="bfloat16", experts="bfloat16"):
    return block.formatted(lambda _: linear, lambda _: experts)


def rank(tp=1, kv_bytes=2.0, **plan):
    plan = Plan(**({"tp": tp, "expert_tp": tp} | plan))
    return Rank(TOY, plan, kv_bytes, Balanced(kind="balanced"), load_engine())


DECODES = (Group.decode(10, 99),)


def operations(block, part, groups=DECODES, tokens=16, source=0):
    return dict(block.operations(Frame(part, Load(groups, tokens, True, source))))


def shape(gemm):
    return gemm.m, gemm.n, gemm.k, gemm.weights


# --- grouped-query attention: 8 heads of 16, 2 KV heads, 30 small parameters

GQA = Gqa(8, 2, 16, extra_parameters=30)


def test_gqa_holds():
    assert GQA.parameters(48) == GQA.linear_parameters(48) == GQA.parameters_per_token(48) == 48 * 16 * 20 + 30
    assert GQA.weight_bytes(rank()) == 2 * (48 * 16 * 20 + 30)
    # 2 query heads and their output, one KV head, a quarter of the rest.
    assert GQA.weight_bytes(rank(4)) == 2 * (48 * 16 * (2 + 2 + 1 + 1) + 30 / 4)
    assert stored(GQA, "int4").weight_bytes(rank(4)) == 48 * 16 * 6 * (0.5 + 2 / 128) + 2 * 30 / 4
    assert (GQA.matrices, GQA.attention_heads, GQA.tensors, GQA.routed) == (4, 8, 0, None)
    assert [GQA.kv_heads(tp) for tp in (1, 2, 4, 8)] == [2, 1, 1, 1]


def test_gqa_keeps():
    assert GQA.state(1, 2.0) == State(2 * 2 * 16 * 2, None)
    assert GQA.state(4, 2.0) == State(2 * 1 * 16 * 2, None)
    assert GQA.state(1, 1.0) == State(2 * 2 * 16, None)
    assert replace(GQA, window=64).state(1, 2.0) == State(128, 64)


def test_state_of_a_sequence():
    """Whole blocks of tokens, up to the window and a block, and what does not grow."""
    state = State(10.0, 64, 7.0, 3.0)
    assert float(state.bytes(33, 16, 5)) == 10 * 48 + 7 + 3 * 5
    assert float(state.bytes(500, 16, 5)) == 10 * 80 + 7 + 15
    assert float(State(10.0).bytes(500, 16, 0)) == 10 * 512


@TPS
def test_gqa_computes(tp):
    part, kv = rank(tp), 2 if tp == 1 else 1
    heads = 8 // tp
    found = operations(GQA, part)
    assert list(found) == ["qkv_proj", "rope", "attention", "o_proj"] + ["all_reduce"] * (tp > 1)
    assert shape(found["qkv_proj"]) == (16, (heads + 2 * kv) * 16, 48, "bfloat16")
    assert shape(found["o_proj"]) == (16, 48, heads * 16, "bfloat16")
    assert (found["rope"].rows, found["rope"].hbm_bytes) == (16, 2 * 2 * 16 * (heads + kv) * 16)
    attention = found["attention"]
    assert (attention.heads, attention.kv_heads, attention.head_dim, attention.kv_bytes) == (heads, kv, 16, 2.0)
    assert attention.groups == (Group.decode(10, 99),) and attention.window is None and attention.causal
    if tp > 1:
        assert found["all_reduce"].message_bytes == 2 * 16 * 48
    assert GQA.activation_bytes(part, 100) == 2 * 100 * (heads * 4 * 16 + 48)


def test_kinds_of_gqa():
    assert operations(GQA, rank(kv_bytes=1.0))["attention"].kv_bytes == 1.0
    windowed = operations(replace(GQA, window=64), rank())["attention"]
    assert windowed.window == 64
    chunked = operations(replace(GQA, window=64, chunked=True), rank())["attention"]
    assert chunked.window is None and chunked.groups == (Group.decode(10, 99 - 64),)
    assert not operations(replace(GQA, causal=False), rank())["attention"].causal
    sums = operations(replace(GQA, norm_across_heads=True), rank(4))["qk_norm_all_reduce"]
    assert sums.message_bytes == 2 * 4 * 16 and sums.kind == "all_reduce"
    reduced = operations(replace(GQA, norm_across_heads=True), rank(4))["qk_norm_sums"]
    assert (reduced.rows, reduced.hbm_bytes, reduced.launches) == (16, 2 * 16 * (2 + 1) * 16, 2)
    alone = operations(replace(GQA, norm_across_heads=True), rank())
    assert not {"qk_norm_all_reduce", "qk_norm_sums"} & set(alone)
    mixed = operations(GQA, rank(), (Group(1, 30, 0), Group.decode(10, 99), Group(2, 5, 7)))
    assert mixed["attention"].groups == (Group(1, 30, 0), Group(2, 5, 7))
    assert mixed["decode_attention"].groups == (Group.decode(10, 99),)


# --- latent attention: 8 heads, ranks 20 and 12, 10 + 4 wide keys, 6 wide values

MLA = Mla(8, 20, 12, 10, 4, 6)
LATENTS = 48 * (20 + 12 + 4)
HEADS = 20 * 8 * 14 + 12 * 8 * 16 + 8 * 6 * 48
MLA_PARAMETERS = LATENTS + 20 + 12 + HEADS  # and the norms of both latents


def test_mla_holds():
    assert MLA.parameters(48) == MLA.linear_parameters(48) == MLA_PARAMETERS
    assert MLA.weight_bytes(rank()) == 2 * MLA_PARAMETERS
    assert MLA.weight_bytes(rank(4)) == 2 * (LATENTS + (20 + 12 + HEADS) / 4)
    assert stored(MLA, "fp8").weight_bytes(rank(4)) == LATENTS + (20 + 12 + HEADS) / 4
    straight = replace(MLA, q_lora_rank=None)
    assert straight.parameters(48) == 48 * 8 * 14 + 48 * 16 + 12 + 12 * 8 * 16 + 8 * 6 * 48
    assert straight.weight_bytes(rank(4)) == 2 * (48 * 16 + (straight.parameters(48) - 48 * 16) / 4)
    assert (MLA.matrices, MLA.attention_heads, MLA.latent_dim, MLA.qk_head_dim) == (5, 8, 16, 14)


@TPS
def test_mla_keeps_and_computes(tp):
    part = rank(tp)
    assert MLA.state(tp, 2.0) == State(16 * 2) and MLA.state(tp, 1.0) == State(16)
    found = operations(MLA, part)
    assert list(found) == ["mla"] + ["all_reduce"] * (tp > 1)
    op = found["mla"]
    assert (op.heads, op.hidden, op.q_lora_rank, op.kv_lora_rank) == (8 // tp, 48, 20, 12)
    assert (op.qk_rope_head_dim, op.qk_nope_head_dim, op.v_head_dim) == (4, 10, 6)
    assert (op.kv_bytes, op.fp8_gemm, op.bytes_per_weight, op.top_k) == (2.0, False, 2.0, None)
    assert MLA.activation_bytes(part, 100) == 2 * 100 * (8 / tp * (3 * 14 + 6) + 48)


def test_mla_in_fp8():
    block = stored(replace(MLA, attended_tokens=7, q_lora_rank=None), "fp8_block")
    op = operations(block, rank(kv_bytes=1.0))["mla"]
    assert op.fp8_gemm and op.bytes_per_weight == 1 + 4 / 16384 and op.kv_bytes == 1.0
    assert op.top_k == 7 and op.q_lora_rank == 0


# --- attention across: as 8 heads of 16 and 2 KV heads

CROSS = Cross(8, 2, 16, 30)


def test_cross_holds_and_keeps():
    assert CROSS.parameters(48) == CROSS.linear_parameters(48) == 48 * 16 * 20 + 30
    assert CROSS.weight_bytes(rank()) == 2 * (48 * 16 * 20 + 30)
    assert CROSS.weight_bytes(rank(4)) == 2 * (48 * 16 * 6 + 30 / 4)
    assert CROSS.state(1, 2.0) == State(source_bytes=128) and CROSS.state(4, 2.0) == State(source_bytes=64)
    assert CROSS.attention_heads == 8


@TPS
def test_cross_computes(tp):
    part, kv, heads = rank(tp), 2 if tp == 1 else 1, 8 // tp
    found = operations(CROSS, part, source=77)
    assert list(found) == ["cross_q_proj", "cross_attention", "cross_o_proj"] + ["all_reduce"] * (tp > 1)
    assert shape(found["cross_q_proj"]) == (16, heads * 16, 48, "bfloat16")
    assert shape(found["cross_o_proj"]) == (16, 48, heads * 16, "bfloat16")
    op = found["cross_attention"]
    assert op.flop == 4 * 10 * 77 * heads * 16 and not op.causal, "each token sees all of the source"
    assert (op.heads, op.kv_heads, op.window) == (heads, kv, None)
    source = dict(CROSS.source_operations(Frame(part, Load((Group(1, 77, 0),), 80, False))))
    assert shape(source["cross_kv_proj"]) == (80, 2 * kv * 16, 48, "bfloat16")
    assert source["cross_kv_write"].hbm_bytes == 2 * 2 * 80 * 2 * kv * 16
    assert CROSS.activation_bytes(part, 100) == 2 * 100 * (heads * 4 * 16 + 48)


# --- feed-forward, 96 wide


@TPS
def test_dense(tp):
    gated, plain, part = Dense(96), Dense(96, gated=False), rank(tp)
    assert gated.parameters(48) == gated.linear_parameters(48) == gated.parameters_per_token(48) == 3 * 48 * 96
    assert plain.parameters(48) == 2 * 48 * 96
    assert gated.weight_bytes(part) == 2 * 3 * 48 * 96 / tp
    assert stored(gated, "fp8").weight_bytes(rank(tp)) == 3 * 48 * 96 / tp
    assert gated.state(tp, 2.0) == State()
    assert (gated.matrices, plain.matrices, gated.tensors, gated.attention_heads) == (3, 2, 3, 0)
    found, width = operations(gated, part), 96 // tp
    assert list(found) == ["mlp_up_proj", "mlp_act", "mlp_down_proj"] + ["all_reduce"] * (tp > 1)
    assert shape(found["mlp_up_proj"]) == (16, 2 * width, 48, "bfloat16")
    assert found["mlp_act"].hbm_bytes == 2 * 16 * 3 * width and found["mlp_act"].rows == 16
    assert shape(found["mlp_down_proj"]) == (16, 48, width, "bfloat16")
    simple = operations(plain, part)
    assert simple["mlp_up_proj"].n == width and simple["mlp_act"].hbm_bytes == 2 * 16 * 2 * width
    assert gated.activation_bytes(part, 100) == 2 * 100 * (3 * 96 / tp + 48)
    assert plain.activation_bytes(part, 100) == 2 * 100 * (2 * 96 / tp + 48)


# --- experts: 2 of 8, 32 wide, a shared one of 24, 40 small parameters

MOE = Moe(8, 2, 32, shared_width=24, extra_parameters=40)
EXPERT, SHARED, ROUTER = 3 * 48 * 32, 3 * 48 * 24, 48 * 8


def test_moe_parameters():
    assert MOE.expert_parameters(48) == EXPERT and MOE.shared_parameters(48) == SHARED
    assert MOE.parameters(48) == 8 * EXPERT + SHARED + ROUTER + 40
    assert MOE.linear_parameters(48) == SHARED
    assert MOE.parameters_per_token(48) == 2 * EXPERT + SHARED
    assert (MOE.matrices, MOE.matrices_per_expert, MOE.tensors) == (3, 3, 24)
    plain = replace(MOE, gated=False, shared_width=0)
    assert (plain.matrices, plain.matrices_per_expert) == (0, 2)
    assert plain.parameters(48) == 8 * 2 * 48 * 32 + ROUTER + 40 and plain.linear_parameters(48) == 0


def test_moe_holds():
    """Slices of every expert under TP, whole ones under EP; the shared expert whole where tokens are exchanged."""
    assert MOE.weight_bytes(rank()) == 2 * (8 * EXPERT + SHARED + ROUTER + 40)
    assert MOE.weight_bytes(rank(4)) == 2 * (8 * EXPERT / 4 + SHARED / 4 + ROUTER + 40 / 4)
    parallel = rank(4, expert_tp=1, ep=4)
    assert MOE.weight_bytes(parallel) == 2 * (2 * EXPERT + SHARED / 4 + ROUTER + 40 / 4)
    exchanged = rank(1, dp=4, ep=4)
    assert MOE.weight_bytes(exchanged) == 2 * (2 * EXPERT + SHARED + ROUTER + 40 / 4)
    both = rank(2, dp=2, ep=2, expert_tp=2)
    assert MOE.weight_bytes(both) == 2 * (4 * EXPERT / 2 + SHARED + ROUTER + 40 * 4 / 8 / 2)
    replicas = rank(1, dp=4, ep=4, redundant=1)
    assert MOE.weight_bytes(replicas) == 2 * (3 * EXPERT + SHARED + ROUTER + 40 * 3 / 8)
    mixed = stored(MOE, "fp8", "mxfp4")
    # triton_kernels keeps widths of multiples of 256 columns.
    assert mixed.weight_bytes(rank()) == 8 * EXPERT * (256 / 32) * (0.5 + 1 / 32) + SHARED + 2 * (ROUTER + 40)


def test_moe_widens_nf4():
    """bitsandbytes writes all experts of a layer out in bfloat16 before every call, and runs what it wrote."""
    narrow = stored(MOE, experts="nf4")
    for part, held in ((rank(), 8 * EXPERT), (rank(4), 2 * EXPERT), (rank(4, expert_tp=1, ep=4), 2 * EXPERT)):
        found = operations(narrow, part)
        assert found["dequantize_experts"].hbm_bytes == held * (0.5 + 4 / 64 + 2)
        assert found["experts"].weights == "bfloat16"
        assert narrow.activation_bytes(part, 100) == MOE.activation_bytes(part, 100) + 2 * held
    assert narrow.weight_bytes(rank()) == 8 * EXPERT * (0.5 + 4 / 64) + 2 * (SHARED + ROUTER + 40)
    assert "dequantize_experts" not in operations(stored(MOE, experts="int4"), rank())


def test_moe_activations():
    """Rows of 2 picks: gate and up (or the hidden states out), and their product; hidden states."""
    hidden = 2 * 100 * 48
    assert MOE.activation_bytes(rank(), 100) == 2 * 200 * (64 + 32) + hidden
    assert MOE.activation_bytes(rank(4), 100) == 2 * 200 * (48 + 8) + hidden
    assert MOE.activation_bytes(replace(rank(), plan=Plan(dp=4, ep=4)), 100) == 2 * 800 * (64 + 32) + hidden
    sent = Plan(dp=4, ep=4, backend="deepep_high_throughput")
    assert MOE.activation_bytes(replace(rank(), plan=sent), 100) == 2 * (400 * 2 / 4) * 96 + hidden
    slots = Plan(dp=4, ep=4, backend="deepep_low_latency")
    assert MOE.activation_bytes(replace(rank(), plan=slots), 100) == 2 * (2 * 400) * 96 + hidden
    plain = replace(MOE, gated=False)
    assert plain.activation_bytes(rank(), 100) == 2 * 200 * (48 + 32) + hidden


@TPS
def test_moe_computes(tp):
    found, width = operations(replace(MOE, shared_gate=True), rank(tp)), 24 // tp
    assert list(found) == [
        "router", "top_k", "experts", "shared_up_proj", "shared_act", "shared_down_proj", "shared_gate", "shared_add",
    ] + ["all_reduce"] * (tp > 1)  # fmt: skip
    assert shape(found["router"]) == (16, 64, 48, "bfloat16"), "a tile of columns at least"
    assert found["top_k"].hbm_bytes == 16 * (2 * 8 + 8 * 2) and found["top_k"].rows == 16
    op = found["experts"]
    assert (op.tokens, op.hidden, op.width, op.num_experts, op.top_k) == (16, 48, 32 // tp, 8, 2)
    assert op.all_experts is None and op.gated and not op.local_only and op.weights == "bfloat16"
    assert shape(found["shared_up_proj"]) == (16, 2 * width, 48, "bfloat16")
    assert found["shared_act"].hbm_bytes == 2 * 16 * 3 * width
    assert shape(found["shared_down_proj"]) == (16, 48, width, "bfloat16")
    assert (found["shared_gate"].hbm_bytes, found["shared_gate"].launches) == (2 * 16 * 48, 2)
    assert found["shared_add"].hbm_bytes == 3 * 2 * 16 * 48
    assert operations(replace(MOE, num_experts=100), rank())["router"].n == 100


def test_how_experts_are_chosen():
    """A router in float32 has its input widened first; group top-k takes a while however few tokens there are."""
    wide = operations(replace(MOE, router="float32"), rank())
    assert list(wide)[:2] == ["router_cast", "router"] and shape(wide["router"]) == (16, 64, 48, "float32")
    assert wide["router_cast"].hbm_bytes == 16 * 48 * (2 + 4)
    assert wide["router"].hbm_bytes == 4 * 64 * 48 + 4 * 16 * 48 + 2 * 16 * 64
    more = replace(MOE, router="float32").weight_bytes(rank()) - MOE.weight_bytes(rank())
    assert more == 2 * 48 * 8
    for scores, version, least_us in (
        ("softmax", "0.25", 0), ("sigmoid", "0.25", 0), ("sigmoid", "0.13", 7), ("biased", "0.25", 4),
        ("biased", "0.17", 4), ("biased", "0.16", 7), ("biased", "0.12", 7),
    ):  # fmt: skip
        part = replace(rank(), engine=load_engine("vllm", version))
        chosen = operations(replace(MOE, scores=scores), part)["top_k"]
        assert chosen.least_s == pytest.approx(least_us * 1e-6, abs=1e-12), (scores, version)


def test_the_kernel_asked_for():
    block, marlin = stored(MOE, experts="mxfp4"), replace(rank(), moe_backend="marlin")
    assert operations(block, marlin)["experts"].backend == "marlin" and not operations(block, marlin)["experts"].others
    unsure = operations(block, rank())["experts"]
    assert (unsure.backend, unsure.others) == ("triton", ("marlin",))
    assert (operations(MOE, rank())["experts"].backend, operations(MOE, rank())["experts"].others) == ("triton", ())


def test_moe_computes_under_expert_parallelism():
    op = operations(MOE, rank(4, expert_tp=1, ep=4))["experts"]
    assert (op.tokens, op.width, op.num_experts, op.all_experts) == (16, 32, 2, 8)
    # 10 tokens of a graph of 16: their share, and 6 rows that all go where expert 0 sits.
    assert float(op.rows) == 10 * 2 / 4 + 6 * 2 and op.rows_around == 32 and not op.local_only
    found = operations(MOE, rank(1, dp=4, ep=4))
    assert (found["experts"].tokens, found["experts"].num_experts) == (64, 2)
    assert found["shared_up_proj"].n == 2 * 24, "whole, on the rank's own tokens"
    sent = operations(MOE, rank(1, dp=4, ep=4, backend="deepep_high_throughput"))["experts"]
    assert sent.local_only and sent.rows_around == 40 * 2 / 4 + 24 * 2
