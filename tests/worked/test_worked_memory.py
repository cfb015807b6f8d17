"""Memory of a rank by hand: weights, cache, activations, buffers, what is usable, how many blocks fit."""

from __future__ import annotations

import dataclasses

import pytest

from moesim import load_hardware, load_model
from moesim.engines.engine import Limits, load_engine
from moesim.inputs.routing import Balanced, Uniform
from moesim.memory import (
    activation_bytes,
    communication_bytes,
    fullest_stage,
    kv_bytes_per_token,
    low_latency_buffer_bytes,
    memory_room,
    sequence_kv_bytes,
    weight_bytes,
)
from moesim.models.blocks.cross import Cross
from moesim.models.blocks.dense import Dense
from moesim.models.blocks.gqa import Gqa
from moesim.models.model import Layers, Model
from moesim.models.plan import Plan
from moesim.models.rank import Rank

MIXTRAL, QWEN, V3 = "Mixtral-8x7B-v0.1", "Qwen3-30B-A3B", "DeepSeek-V3"
H100 = load_hardware("h100-sxm")
MiB, GiB = 2**20, 2**30
# Mixtral: 32 layers, hidden 4096, 32 query and 8 KV heads of 128, 8 experts of 14336, vocabulary 32000.
EXPERT = 3 * 4096 * 14336
NORMS = 2 * 4096


def rank(model=MIXTRAL, plan=None, weights="bfloat16", kv_bytes=2.0, routing=None):
    model = load_model(model) if isinstance(model, str) else model
    formatted = model.formatted(lambda _: weights, lambda _: weights)
    return Rank(formatted, plan or Plan(), kv_bytes, routing or Uniform(), load_engine())


def limits(tokens=8192, seqs=1024, utilization=0.92, block=16, captured=512):
    return Limits(tokens, seqs, utilization, block, captured, True)


# --- weights


def test_mixtral_tp4():
    attention = 4096 * 128 * (2 * 32 / 4 + 2 * 8 / 4)
    layer = attention + 8 * EXPERT / 4 + 4096 * 8 + NORMS
    whole = 2 * 32000 * 4096 / 4 + 4096 + 32 * layer
    assert weight_bytes(rank(plan=Plan(tp=4, expert_tp=4))) == 2 * whole


def test_mixtral_ep4():
    """TP4 EP4: two whole experts a rank; DP4 EP4: the same beside whole attention and embeddings."""
    attention = 4096 * 128 * (2 * 32 / 4 + 2 * 8 / 4)
    tensor = 2 * 32000 * 4096 / 4 + 4096 + 32 * (attention + 2 * EXPERT + 4096 * 8 + NORMS)
    assert weight_bytes(rank(plan=Plan(tp=4, ep=4))) == 2 * tensor
    attention = 4096 * 128 * (2 * 32 + 2 * 8)
    data = 2 * 32000 * 4096 + 4096 + 32 * (attention + 2 * EXPERT + 4096 * 8 + NORMS)
    assert weight_bytes(rank(plan=Plan(dp=4, ep=4))) == 2 * data
    # Four replicas of hot experts: three slots a rank.
    assert weight_bytes(rank(plan=Plan(dp=4, ep=4, redundant=4))) == 2 * (data + 32 * EXPERT)


def test_kv_heads_beyond_their_number_are_held_twice():
    """Qwen3-30B: 4 KV heads on 8 ranks, one each."""
    attention = 2048 * 128 * (2 * 32 / 8 + 2 * 1) + 256 / 8
    layer = attention + 128 * 3 * 2048 * 768 / 8 + 2048 * 128 + 2 * 2048
    whole = 2 * 151936 * 2048 / 8 + 2048 + 48 * layer
    assert weight_bytes(rank(QWEN, Plan(tp=8, expert_tp=8))) == 2 * whole


def test_stages_hold_their_ends():
    layer = 4096 * 128 * 80 + 8 * EXPERT + 4096 * 8 + NORMS
    first, last = rank(plan=Plan(pp=2)).stages()
    assert weight_bytes(first) == 2 * (32000 * 4096 + 4096 + 16 * layer)
    assert weight_bytes(last) == 2 * (32000 * 4096 + 16 * layer)


def test_formats_of_experts_and_of_the_rest():
    """mxfp4 experts beside bfloat16 attention; router, embeddings and norms are bfloat16 in any case."""
    mixed = dataclasses.replace(rank(), model=rank().model.formatted(lambda _: "fp8", lambda _: "mxfp4"))
    attention, experts = 4096 * 128 * 80, 8 * EXPERT
    layer = attention * 1.0 + experts * (0.5 + 1 / 32) + (4096 * 8 + NORMS) * 2
    assert weight_bytes(mixed) == (2 * 32000 * 4096 + 4096) * 2 + 32 * layer


DENSE = Gqa(4, 2, 8), Dense(64)
DENSE_LAYER = 32 * 8 * (2 * 4 + 2 * 2) + 3 * 32 * 64 + 64


def toy(**more):
    layers = (Layers(4, DENSE, 64),)
    return Model("toy", "Toy", 32, **({"vocab_size": 100, "layers": layers, "other_parameters": 7} | more))


def test_tied_and_longer_embeddings():
    layers = 4 * DENSE_LAYER
    assert weight_bytes(rank(toy())) == 2 * (2 * 100 * 32 + 7 + layers)
    assert weight_bytes(rank(toy(tie_word_embeddings=True))) == 2 * (100 * 32 + 7 + layers)
    assert weight_bytes(rank(toy(embedding_rows=120))) == 2 * ((120 + 100) * 32 + 7 + layers)
    first, last = rank(toy(tie_word_embeddings=True), Plan(pp=2)).stages()
    assert weight_bytes(first) == 2 * (100 * 32 + 7 + layers / 2)
    assert weight_bytes(last) == 2 * (100 * 32 + layers / 2), "a tied head on another stage is a copy"
    assert toy().parameters == 2 * 100 * 32 + 7 + layers
    assert toy(tie_word_embeddings=True).embedding_parameters == 3200


# --- cache


def test_cache_of_a_token():
    assert kv_bytes_per_token(rank()) == 32 * 2 * 8 * 128 * 2 == 131072
    assert kv_bytes_per_token(rank(plan=Plan(tp=4, expert_tp=4))) == 32768
    assert kv_bytes_per_token(rank(plan=Plan(tp=16))) == 32 * 2 * 1 * 128 * 2
    assert kv_bytes_per_token(rank(kv_bytes=1.0)) == 65536
    assert kv_bytes_per_token(rank(V3, Plan(tp=4))) == 61 * 576 * 2


def test_windows_keep_a_block_more():
    """gpt-oss-120b: 18 layers of window 128, 18 of full attention, 8 KV heads of 64."""
    layer = 2 * 8 * 64 * 2
    oss = rank("gpt-oss-120b")
    assert float(sequence_kv_bytes(oss, 100, 16)) == 36 * layer * 112
    assert float(sequence_kv_bytes(oss, 140, 16)) == 36 * layer * 144
    assert float(sequence_kv_bytes(oss, 1000, 16)) == 18 * layer * 1008 + 18 * layer * 144
    assert float(sequence_kv_bytes(oss, 1000, 64)) == 18 * layer * 1024 + 18 * layer * 192


def test_cache_of_an_encoders_output():
    """Encoder layers cache nothing, decoder layers their own tokens and those of the source once."""
    decoder = Layers(3, (Gqa(4, 2, 8), Cross(4, 2, 8), Dense(64)), 64)
    encoder = Layers(5, (Gqa(4, 2, 8, causal=False), Dense(64)), 64, encoder=True)
    model = toy(layers=(encoder, decoder))
    each = 2 * 2 * 8 * 2
    assert float(sequence_kv_bytes(rank(model), 33, 16, 77)) == 3 * each * 48 + 3 * each * 77
    assert model.kv_bytes_per_token(1, 2.0) == 3 * each and model.source_bytes_per_token(1, 2.0) == 3 * each
    assert model.source_bytes_per_token(2, 1.0) == 3 * each / 4


# --- activations


def test_the_widest_layer_sets_the_peak():
    """Mixtral at 8192 tokens: 16384 rows through two matrices of 14336, and one between; few sequences sampled."""
    stream = 3 * 2 * 8192 * 4096
    moe = 2 * 16384 * (2 * 14336 + 14336) + 2 * 8192 * 4096
    assert activation_bytes(rank(), limits(seqs=256)) == stream + moe
    quarter = 2 * 16384 * (2 * 14336 / 4 + 14336 / 4) + 2 * 8192 * 4096
    assert activation_bytes(rank(plan=Plan(tp=4, expert_tp=4)), limits(seqs=64)) == stream + quarter


def test_the_sampler_sets_the_peak():
    """Qwen3-30B: bfloat16 logits of a rank's slice, and of all gathered what sampling takes: 2 / TP + 12."""
    hidden = 2 * 8192 * 2048
    assert activation_bytes(rank(QWEN), limits()) == 1024 * 151936 * (2 / 1 + 12) + hidden
    sliced = rank(QWEN, Plan(tp=4, expert_tp=4))
    assert activation_bytes(sliced, limits()) == 1024 * 151936 * (2 / 4 + 12) + hidden
    few = rank(QWEN, Plan(tp=8, expert_tp=8))
    assert activation_bytes(few, limits(tokens=100)) == 100 * 151936 * (2 / 8 + 12) + 2 * 100 * 2048
    assert activation_bytes(few, limits(tokens=2048, seqs=300)) == 300 * 151936 * 12.25 + 2 * 2048 * 2048


# --- buffers


def test_buffers_of_groups():
    """NCCL takes 342 MiB between two ranks, 392 among more; vLLM's all-reduce 64 MiB."""

    def mib(model=MIXTRAL, **plan):
        return communication_bytes(rank(model, Plan(**plan)), H100, limits()) / MiB

    assert mib() == 0
    assert mib(tp=2, expert_tp=2) == 342 + 64
    assert mib(tp=4, expert_tp=4) == 392 + 64
    assert mib(tp=2, expert_tp=2, custom_all_reduce=False) == 342
    assert mib(pp=2) == 342 and mib(pp=3) == 392
    assert mib(tp=2, pp=2, expert_tp=2) == 342 + 64 + 342
    assert mib(dp=2, ep=2) == 342 and mib(dp=8, ep=8) == 392
    assert mib(tp=2, dp=2, ep=4) == 342 + 64 + 392, "exchanged among all four"
    assert mib(tp=2, dp=2, expert_tp=4) == 342 + 64 + 342, "gathered between the two replicas"
    assert mib(toy(), dp=4) == 0, "dense replicas do not meet"


def test_buffers_of_deepep():
    v3 = rank(V3, Plan(dp=8, ep=8, backend="deepep_low_latency"))
    # A slot of 14352 bytes (header and bfloat16) for each of 256 tokens and 256 experts; combine's are 14336.
    slots = 2 * (256 * 256 * 14336 + 256 * 256 * 14352 + 4 * 256)
    assert low_latency_buffer_bytes(256, 7168, 256) == slots
    assert communication_bytes(v3, H100, limits(tokens=256)) == 392 * MiB + 1024 * MiB + slots
    high = rank(V3, Plan(dp=8, ep=8, backend="deepep_high_throughput"))
    assert communication_bytes(high, H100, limits()) == 392 * MiB + 1024 * MiB
    two_nodes = rank(V3, Plan(dp=16, ep=16, backend="deepep_high_throughput"))
    assert communication_bytes(two_nodes, H100, limits()) == 392 * MiB + 2 * 1024 * MiB
    one_and_a_half = rank(V3, Plan(dp=12, ep=12, backend="deepep_high_throughput"))
    assert communication_bytes(one_and_a_half, H100, limits()) == 392 * MiB + 2 * 1024 * MiB
    no_experts_shared = rank(V3, Plan(dp=8, expert_tp=8, backend="deepep_low_latency"))
    assert communication_bytes(no_experts_shared, H100, limits()) == 392 * MiB


def test_low_latency_slots():
    """Narrow and few: the dispatch side of the send buffer may be the larger one."""
    dispatch, combine = 16 + max(2 * 128, 128 + 4), 2 * 128
    assert low_latency_buffer_bytes(10, 128, 1) == 2 * (10 * dispatch + 10 * dispatch + 4)
    assert low_latency_buffer_bytes(10, 128, 2) == 2 * (2 * 10 * combine + 2 * 10 * dispatch + 8)


# --- room


def test_usable_bytes():
    engine = load_engine()
    assert engine.usable_bytes(80 * GiB, 0.92) == 0.92 * 80 * GiB
    assert engine.usable_bytes(80 * GiB, 0.999) == 80 * GiB - 0.45 * GiB, "the CUDA context stays outside"


def test_layers_of_stages():
    """What does not divide goes to the stages before the last, from the back (vLLM's get_pp_indices)."""

    def sizes(model, stages):
        return [stage.model.num_hidden_layers for stage in rank(model, Plan(pp=stages)).stages()]

    assert sizes(MIXTRAL, 4) == [8, 8, 8, 8]
    assert sizes(V3, 4) == [15, 15, 16, 15]
    assert sizes(MIXTRAL, 7) == [4, 4, 5, 5, 5, 5, 4]
    assert sizes(V3, 8) == [7, 7, 8, 8, 8, 8, 8, 7]
    first = rank(V3, Plan(pp=4)).stages()[0].model
    assert [g.count for g in first.layers] == [3, 12], "dense layers come first"


@pytest.mark.parametrize("captured", [0, 512])
def test_room_of_mixtral_tp4(captured):
    total = 79.18 * GiB
    part = rank(plan=Plan(tp=4, expert_tp=4))
    room = memory_room(part, H100, limits(seqs=64, captured=captured), 10, 1000)
    weights = 2 * (2 * 32000 * 4096 / 4 + 4096 + 32 * (4096 * 128 * 20 + 2 * EXPERT + 4096 * 8 + NORMS))
    activations = 3 * 2 * 8192 * 4096 + 2 * 16384 * 3 * 14336 / 4 + 2 * 8192 * 4096
    graphs = 0.6 * GiB if captured else 0
    left = 0.92 * total - weights - activations - graphs - 456 * MiB - 128 * MiB
    assert (room.total, room.weights, room.activations) == (pytest.approx(total, rel=1e-12), weights, activations)
    assert room.kv_available == pytest.approx(left, rel=1e-12)
    assert room.other == 128 * MiB and room.communication == 456 * MiB
    assert room.cuda_graphs == pytest.approx(graphs)
    assert room.kv_bytes_per_token == 32768
    assert room.kv_blocks == int(left // (16 * 32768))
    assert room.kv_needed == 10 * 1008 * 32768
    assert room.largest_batch == min(int(left // (1008 * 32768)), 64) == 64
    assert room.longest_alone == 32768, "the model's own limit"
    assert room.fits and room.shortfall == 0


def test_the_longest_context_fills_whole_blocks():
    part = rank(plan=Plan(tp=4, expert_tp=4))
    room = memory_room(part, H100, limits(seqs=1024), 100, 10_000)
    share = room.kv_available / 100
    assert room.longest_context == int(share // (16 * 32768)) * 16
    assert room.largest_batch == int(room.kv_available // (10_000 * 32768)) == 161


def test_too_much_says_by_how_much():
    part = rank(plan=Plan(tp=4, expert_tp=4))
    room = memory_room(part, H100, limits(), 1000, 32000)
    assert not room.fits
    assert room.shortfall == pytest.approx(1000 * 32000 * 32768 - room.kv_available, rel=1e-12)


def test_the_fullest_stage_counts():
    """The last stage holds as many layers and the head, and no final norm of the first: 4096 x 2 bytes less."""
    part = rank(plan=Plan(tp=4, pp=2, expert_tp=4))
    room = memory_room(part, H100, limits(), 1, 1000)
    layer = 4096 * 128 * 20 + 2 * EXPERT + 4096 * 8 + NORMS
    assert room.weights == 2 * (32000 * 4096 / 4 + 4096 + 16 * layer)
    assert fullest_stage(part, H100, limits())[1].weights == room.weights
    assert room.kv_bytes_per_token == 16384


def test_the_fullest_stage_by_what_its_tokens_take():
    """Three stages of 1, 2 and 1 layers behind a long embedding: the first has least left, the second fills first."""
    part = rank(toy(vocab_size=10**8), Plan(pp=3))
    assert [stage.model.num_hidden_layers for stage in part.stages()] == [1, 2, 1]
    stage, room = fullest_stage(part, H100, limits(seqs=1))
    assert stage.stage == 1 and room.kv_bytes_per_token == 2 * 2 * 2 * 8 * 2
    assert memory_room(part, H100, limits(seqs=1), 1, 16).weights > room.weights


def test_nothing_left_does_not_fit():
    room = memory_room(rank(plan=Plan(tp=4, expert_tp=4)), H100, limits(), 1, 16)
    assert not dataclasses.replace(room, kv_available=0.0, kv_needed=0.0).fits
    assert dataclasses.replace(room, kv_available=5.0, kv_needed=5.0).fits


def test_rows_of_batched_experts():
    """Low latency: a slot for each token of every rank and each of the rank's 32 experts of 2048."""
    part = rank(V3, Plan(dp=8, ep=8, backend="deepep_low_latency"), "fp8_block", routing=Balanced(kind="balanced"))
    rows = 32 * 256 * 8
    experts = 2 * rows * (max(2 * 2048, 7168) + 2048) + 2 * 256 * 7168
    assert activation_bytes(part, limits(tokens=256, seqs=64)) == 3 * 2 * 256 * 7168 + experts
