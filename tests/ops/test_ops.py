"""Work in FLOP and bytes: arithmetic redone by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.experts import routing
from moesim.inputs.routing import Uniform
from moesim.ops import Attention, Collective, FusedExperts, Gemm, MlaModule, attended_pairs
from moesim.ops.attention import virtual_batches
from moesim.ops.load import Group


def test_gemm():
    op = Gemm(4, 8, 16)
    assert op.flop == 2 * 4 * 8 * 16
    assert op.hbm_bytes == 2 * (8 * 16 + 4 * 16 + 4 * 8)
    assert Gemm(4, 8, 16, "fp8").hbm_bytes == 8 * 16 + 4 * 16 + 2 * 4 * 8


def test_fused_experts_stream_distinct_experts():
    op = FusedExperts(4, 4096, 14336, 8, 2, routing.loads(Uniform(), 8, 2))
    assert op.expert_bytes == 3 * 4096 * 14336 * 2
    assert float(op.weight_bytes) == pytest.approx(5.46875 * op.expert_bytes)
    assert op.flop == 2 * 4 * 2 * 3 * 4096 * 14336
    assert FusedExperts(4, 10, 10, 8, 2, None, gated=False).matrices == 2


def _pairs_by_counting(query, past, window):
    return sum(min(past + i, window or 10**9) for i in range(1, query + 1))


@given(st.integers(1, 60), st.integers(0, 60), st.one_of(st.none(), st.integers(1, 80)))
def test_attended_pairs_are_exact(query, past, window):
    assert float(attended_pairs(query, past, window)) == _pairs_by_counting(query, past, window)


@given(st.integers(1, 200), st.integers(0, 200), st.integers(1, 50), st.integers(1, 4))
def test_chunks_cover_every_query_once(query, past, chunk, sequences):
    groups = virtual_batches((Group(sequences, np.array([query]), np.array([past])),), chunk)
    tokens = sum(np.sum(np.where(g.sequences > 0, g.sequences * g.query, 0)) for g in groups)
    assert tokens == sequences * query
    pairs = sum(float(np.sum(g.sequences * attended_pairs(g.query, g.past))) for g in groups)
    by_hand = sum((past + i - 1) % chunk + 1 for i in range(1, query + 1))
    assert pairs == sequences * by_hand


def test_decode_attention_reads_the_cache_once():
    op = Attention((Group.decode(3, 99),), 32, 8, 128)
    assert op.flop == 4 * 3 * 100 * 32 * 128
    assert op.hbm_bytes == 3 * (2 * 100 * 8 * 128 * 2 + 4 * 32 * 128)


def test_mla_weights_of_deepseek_v3():
    op = MlaModule((Group.decode(1, 0),), 128, 7168, 1536, 512, 64, 128, 128)
    by_hand = 7168 * (1536 + 576) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168
    assert float(op.weights) == by_hand


def test_all_reduce_volume():
    assert Collective(1000.0, 4).link_bytes == pytest.approx(2 * 3 / 4 * 1000)
    assert Collective(1000.0, 1).link_bytes == 0
