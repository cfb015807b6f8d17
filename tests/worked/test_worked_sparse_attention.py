"""GLM-5's sparse attention by hand: what it caches, what its indexer computes, how far a query sees.

78 layers, hidden 6144, latents of 512 + 64, 32 index heads of 128 over 2048 picked tokens, queries from rank 2048.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim import load_hardware, load_model
from moesim.cost.forms.mla import SPARSE_PARAMETERS, sparse_seconds
from moesim.cost.gpu import GpuNumbers
from moesim.cost.machine import Machine
from moesim.engines.engine import load_engine
from moesim.inputs.routing import Uniform
from moesim.memory import kv_bytes_per_token, sequence_kv_bytes
from moesim.models.blocks.mla import Mla
from moesim.models.blocks.sparse_mla import Indexer, SparseMla
from moesim.models.frame import Frame
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops import MlaModule
from moesim.ops.load import Group, Load

H200 = GpuNumbers.of(load_hardware("h200-sxm"))


def rank(tp=1, kv_bytes=2.0, weights="bfloat16"):
    model = load_model("GLM-5").formatted(lambda _: weights, lambda _: weights)
    return Rank(model, Plan(tp=tp, expert_tp=tp), kv_bytes, Uniform(), load_engine())


def block() -> SparseMla:
    found = load_model("GLM-5").layers[1].blocks[0]
    assert isinstance(found, SparseMla)
    return found


LONG = (Group.decode(4, 9_999),)


def operations(tp=1, groups=LONG, tokens=4):
    return dict(block().operations(Frame(rank(tp), Load(groups, tokens, True))))


@pytest.mark.parametrize("tp", [1, 4])
def test_cache_of_a_token(tp):
    """bfloat16: 576 x 2 and an index key of 128 fp8 with its float32 scale."""
    assert block().state(tp, 2.0).token_bytes == 1152 + 132
    assert kv_bytes_per_token(rank(tp)) == 78 * 1284 == 100_152
    # fp8 latents, a float32 scale per 128 of them, bfloat16 rope: vLLM's fp8_ds_mla.
    assert block().state(tp, 1.0).token_bytes == 512 + 4 * 4 + 64 * 2 + 132 == 656 + 132
    assert kv_bytes_per_token(rank(tp, 1.0)) == 78 * 788 == 61_464


def test_cache_of_a_sequence_in_blocks():
    assert float(sequence_kv_bytes(rank(), 1000, 16)) == 1008 * 100_152
    assert float(sequence_kv_bytes(rank(kv_bytes=1.0), 1001, 64)) == 1024 * 61_464


def test_the_indexer_limits_what_a_query_sees():
    found = operations()
    mla = found["mla"]
    assert mla.top_k == 2048
    # 2048 keys, absorbed: 2 x (512 + 512 + 64) a head.
    assert mla.attention_flop == 4 * 2048 * 64 * 2 * 1088
    by_hand = 6144 * (2048 + 576) + 64 * (2048 * 256 + 512 * (192 + 256) + 256 * 6144)
    indexer = 2048 * 32 * 128 + 6144 * (128 + 32)
    assert float(mla.weights) == by_hand + indexer and float(mla.index_weights) == indexer
    assert float(mla.hbm_bytes) == (by_hand + indexer) * 2 + 4 * 4 * 6144 + 4 * 2048 * 576 * 2
    assert operations(groups=(Group.decode(4, 99),))["mla"].attention_flop == 4 * 100 * 64 * 2 * 1088


@pytest.mark.parametrize("tp", [1, 4])
def test_what_the_indexer_computes(tp):
    """Whole on every rank: one float32 score a query and past token, one fp8 key with its scale a past token."""
    found = operations(tp)
    assert list(found) == ["mla"] + (["all_reduce"] if tp > 1 else [])
    mla = found["mla"]
    assert (mla.heads, mla.index_heads, mla.index_head_dim) == (64 // tp, 32, 128)
    assert mla.scores == 4 * 10_000 and mla.index_bytes == 4 * 10_000 * 132
    shared = replace(mla, index_heads=0, index_head_dim=0)
    assert shared.scores == shared.index_bytes == shared.index_weights == 0, "another layer's picks"


def test_scores_of_a_prompt_chunk():
    """100 queries after 50 tokens: 100 x 150 scores, masked ones too; the absorbed form over what each sees."""
    mla = operations(groups=(Group(2, 100, 50),), tokens=200)["mla"]
    assert mla.scores == 200 * 150 and mla.index_bytes == 2 * 150 * 132
    assert mla.attention_flop == 2 * (100 * 50 + 5050) * 64 * 2 * 1088


def seconds(op, **constants):
    """By the form alone, with everything that is not named taking next to no time."""
    quick = {q.name: 1e-30 if q.unit == "s" else 1e30 for q in SPARSE_PARAMETERS}
    p = quick | {"p_join": 6.0, "c_act": 0.0, "c_head": 0.0} | constants
    return float(sparse_seconds(p, op, H200).seconds)


def test_attention_over_what_is_seen_or_over_all_slots():
    """512 tokens of a prompt on 8 heads, which fill 64 rows: 131,328 pairs, or 2,048 slots for each token."""
    prompt = MlaModule((Group(1, 512, 0),), 8, 6144, 2048, 512, 64, 192, 256, top_k=2048)
    pair = 2 * 1088 * 64 / H200.bf16_flop_per_s
    assert seconds(prompt, e_absorbed=0.5) == pytest.approx(pair * 131_328 / 0.5, rel=1e-6)
    fp8 = replace(prompt, kv_bytes=1.0)
    assert seconds(fp8, e_slots=0.4, e_absorbed=0.5) == pytest.approx(pair * 512 * 2048 / 0.4, rel=1e-6)
    many = replace(fp8, heads=32)
    assert seconds(many, e_slots=0.4, e_absorbed=0.5) == pytest.approx(pair * 131_328 / 0.5, rel=1e-6), "widened first"
    decode = replace(many, groups=(Group.decode(256, 99),))
    assert seconds(decode, e_slots=0.4, e_absorbed=0.5) == pytest.approx(pair * 256 * 2048 / 0.4, rel=1e-6)
    assert seconds(replace(prompt, heads=65), e_absorbed=0.5) == pytest.approx(2 * pair * 131_328 / 0.5, rel=1e-6)


def test_prompts_and_decodes_share_all_but_attention():
    """A step of both is one module: floor, weights, indexer once; in fp8 decodes read slots, prompts what they see."""
    prompt, decode = Group(1, 512, 0), Group.decode(4, 9_999)
    found = operations(tp=8, groups=(prompt, decode), tokens=516)
    assert list(found) == ["mla", "all_reduce"] and found["mla"].groups == (prompt, decode)
    both = MlaModule((prompt, decode), 32, 6144, 2048, 512, 64, 192, 256, kv_bytes=1.0, top_k=2048)
    pair = 2 * 1088 * 64 / H200.bf16_flop_per_s
    by_hand = pair * (131_328 / 0.5 + 4 * 2048 / 0.4)
    assert seconds(both, e_slots=0.4, e_absorbed=0.5) == pytest.approx(by_hand, rel=1e-6)
    assert both.launches == 10 and replace(both, index_heads=32).launches == 16


def test_a_chunk_after_a_long_past_is_one_doubling_outside():
    """Tables hold at most 128 tokens before a chunk; more is no more unknown, and nothing divides by zero."""
    machine = Machine(load_hardware("h200-sxm"), load_engine())
    module = MlaModule((Group(1, 8192, 0),), 8, 6144, 2048, 512, 64, 192, 256, 1.0, True, 1.0, 2048, 32, 128)

    def half_width(past):
        cost = machine.price("mla", replace(module, groups=(Group(1, 8192, past),)))
        return cost.spread["mla_sparse_prefill"][1] / cost.seconds

    assert half_width(0) < half_width(4096) < 0.4 and half_width(16_384) == pytest.approx(half_width(4096), rel=1e-9)


def test_one_query_reads_its_keys_one_after_the_other():
    one = MlaModule((Group.decode(1, 9_999),), 8, 6144, 2048, 512, 64, 192, 256, top_k=2048)
    assert seconds(one, t_key=2e-8) == pytest.approx(2048 * 2e-8, rel=1e-6)
    assert seconds(replace(one, groups=(Group.decode(1, 99),)), t_key=2e-8) == pytest.approx(100 * 2e-8, rel=1e-6)


def test_the_indexer_takes_its_time():
    module = MlaModule((Group.decode(4, 9_999),), 8, 6144, 2048, 512, 64, 192, 256, top_k=2048)
    indexed = replace(module, index_heads=32, index_head_dim=128)
    assert seconds(indexed, t_index=4e-5) == pytest.approx(4e-5, rel=1e-6)
    assert seconds(indexed, t_score=1e-11) == pytest.approx(40_000 * 1e-11, rel=1e-4)
    assert seconds(indexed, t_index_token=5e-8) == pytest.approx(4 * 5e-8, rel=1e-4)
    assert seconds(indexed, e_keys=0.8) == pytest.approx(40_000 * 132 / (4.8e12 * 0.8), rel=1e-4)
    everything = {"t_index": 4e-5, "t_score": 1e-11, "t_index_token": 5e-8, "e_keys": 0.8}
    assert seconds(module, **everything) < 2e-12, "a layer without an indexer of its own"


def test_parameters():
    """MLA's, and the indexer's: queries, key, its norm's weight and bias, head weights."""
    mla = 6144 * 2048 + 2048 + 2048 * 64 * 256 + 6144 * 576 + 512 + 512 * 64 * 448 + 64 * 256 * 6144
    indexer = 2048 * 32 * 128 + 6144 * 128 + 2 * 128 + 6144 * 32
    assert block().mla.parameters(6144) == mla
    assert block().indexer.parameters(6144, 2048) == indexer
    assert block().parameters(6144) == block().linear_parameters(6144) == mla + indexer
    assert block().parameters_per_token(6144) == mla + indexer
    assert (block().matrices, block().attention_heads) == (5, 64)
    whole = 6144 * (2048 + 576)
    assert block().weight_bytes(rank()) == 2 * (mla + indexer)
    assert block().weight_bytes(rank(4)) == 2 * (whole + (mla - whole) / 4 + indexer)
    packed = block().formatted(lambda _: "int4", lambda _: "int4")
    assert packed.weight_bytes(rank()) == (mla + indexer) * (0.5 + 2 / 128)
    straight = SparseMla(Mla(2, None, 8, 4, 2, 4, 16), Indexer(2, 4))
    assert straight.parameters(10) == straight.mla.parameters(10) + 10 * 8 + 10 * 4 + 8 + 20


@pytest.mark.parametrize("tp", [1, 4])
def test_activations(tp):
    assert block().activation_bytes(rank(tp), 100) == 2 * 100 * (64 / tp * (3 * 256 + 256) + 6144)
