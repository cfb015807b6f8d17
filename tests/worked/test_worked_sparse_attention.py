"""GLM-5's sparse attention by hand: what it caches, what its indexer computes, how far a query sees.

78 layers, hidden 6144, latents of 512 + 64, 32 index heads of 128 over 2048 picked tokens, queries from rank 2048.
"""

from __future__ import annotations

import pytest

from moesim import load_model
from moesim.engines.engine import load_engine
from moesim.inputs.scenario import Uniform
from moesim.memory import kv_bytes_per_token, sequence_kv_bytes
from moesim.models.blocks.mla import Mla
from moesim.models.blocks.sparse_mla import Indexer, SparseMla
from moesim.models.frame import Frame
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops.load import Group, Load


def rank(tp=1, kv_bytes=2.0, weights="bfloat16"):
    return Rank(load_model("GLM-5"), Plan(tp=tp, expert_tp=tp), weights, weights, kv_bytes, Uniform(), load_engine())


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
    assert float(mla.weights) == by_hand
    assert float(mla.hbm_bytes) == by_hand * 2 + 4 * 4 * 6144 + 4 * 2048 * 576 * 2
    assert operations(groups=(Group.decode(4, 99),))["mla"].attention_flop == 4 * 100 * 64 * 2 * 1088


@pytest.mark.parametrize("tp", [1, 4])
def test_what_the_indexer_computes(tp):
    """Whole on every rank: products, scores as attention of half as many heads over one fp8 key head, top-k."""
    found = operations(tp)
    names = ["mla", "indexer_q_proj", "indexer_k_proj", "indexer_scores", "indexer_top_k"]
    assert list(found) == names + (["all_reduce"] if tp > 1 else [])
    assert (found["indexer_q_proj"].m, found["indexer_q_proj"].n, found["indexer_q_proj"].k) == (4, 4096, 2048)
    assert (found["indexer_k_proj"].m, found["indexer_k_proj"].n, found["indexer_k_proj"].k) == (4, 160, 6144)
    scores = found["indexer_scores"]
    assert (scores.heads, scores.kv_heads, scores.head_dim, scores.kv_bytes) == (16, 1, 128, 1.0)
    assert scores.related and scores.window is None and scores.causal
    # QK alone of 32 heads: 2 a pair and element.
    assert scores.flop == 2 * 4 * 10_000 * 32 * 128
    top_k = found["indexer_top_k"]
    assert top_k.hbm_bytes == 4 * 10_000 * 4 and top_k.rows == 4 and top_k.of_context
    assert found["mla"].heads == 64 // tp


def test_scores_of_a_prompt_chunk():
    """100 queries after 50 tokens: 100 x 150 scores of float32."""
    found = operations(groups=(Group(2, 100, 50),), tokens=200)
    assert found["indexer_top_k"].hbm_bytes == 4 * 200 * 150
    assert found["indexer_scores"].flop == 2 * 2 * (100 * 50 + 5050) * 32 * 128


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
    assert block().weight_bytes(rank(weights="int4")) == (mla + indexer) * (0.5 + 2 / 128)
    straight = SparseMla(Mla(2, None, 8, 4, 2, 4, 16), Indexer(2, 4))
    assert straight.parameters(10) == straight.mla.parameters(10) + 10 * 8 + 10 * 4 + 8 + 20


@pytest.mark.parametrize("tp", [1, 4])
def test_activations(tp):
    assert block().activation_bytes(rank(tp), 100) == 2 * 100 * (64 / tp * (3 * 256 + 256) + 6144)
