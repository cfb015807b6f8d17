"""Distinct experts and block padding: golden numbers, both limits, and bounds under any routing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import SpecError
from moesim.experts import routing
from moesim.experts.trace import read_trace
from moesim.inputs.routing import Balanced, Correlated, Histogram, Identical, PowerLaw, Trace, Uniform, Zipf


@pytest.mark.parametrize(
    ("experts", "k", "tokens", "distinct"),
    [(8, 2, 4, 5.469), (64, 6, 16, 50.75), (128, 8, 16, 82.42), (256, 8, 64, 222.44)],
)
def test_distinct_uniform(experts, k, tokens, distinct):
    assert float(routing.loads(Uniform(), experts, k).distinct(tokens)) == pytest.approx(distinct, abs=5e-3)


def test_distinct_zipf_uses_inclusion_probabilities():
    assert float(routing.loads(Zipf(kind="zipf", s=1.0), 64, 8).distinct(4)) == pytest.approx(21.5, abs=0.05)


@pytest.mark.parametrize(
    ("experts", "k", "tokens", "block", "factor"),
    [(8, 2, 16, 16, 3.96), (128, 8, 16, 16, 10.3), (128, 8, 256, 16, 1.43), (128, 8, 1024, 64, 1.47),
     (8, 2, 1024, 128, 1.24)],
)  # fmt: skip
def test_padding_factor(experts, k, tokens, block, factor):
    blocks = routing.loads(Uniform(), experts, k).blocks(tokens, block)
    assert float(blocks) * block / (tokens * k) == pytest.approx(factor, rel=5e-3)


@pytest.mark.parametrize("batch", [1, 8])
def test_verifying_speculated_tokens(batch):
    golden = {1: {1: 8.0, 4: 29.1, 6: 41.1}, 8: {1: 51.6, 4: 111.8, 6: 122.2}}[batch]
    for tokens, distinct in golden.items():
        found = routing.loads(Uniform(), 128, 8).distinct(batch * tokens)
        assert float(found) == pytest.approx(distinct, abs=0.06)


def test_inclusion_probabilities_match_sampling():
    shares = np.arange(1, 33.0) ** -0.8
    q = routing.inclusion_probabilities(shares, 4)
    rng = np.random.default_rng(0)
    draws = 200_000
    picks = np.argpartition(-(np.log(shares) + rng.gumbel(size=(draws, 32))), 3, axis=1)[:, :4]
    sampled = np.bincount(picks.ravel(), minlength=32) / draws
    assert np.abs(q - sampled).max() < 4.5 * np.sqrt(0.25 / draws)


@given(
    experts=st.integers(2, 300), share=st.floats(0.01, 1), tokens=st.integers(1, 5000), s=st.floats(0, 10),
    rho=st.floats(0, 1), block=st.sampled_from([16, 64, 128]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_bounds_under_any_routing(experts, share, tokens, s, rho, block):
    k = max(1, min(int(share * experts), 24))
    for spec in (Uniform(), Balanced(kind="balanced"), Zipf(kind="zipf", s=s), Correlated(kind="correlated", rho=rho),
                 Identical(kind="identical")):  # fmt: skip
        loads = routing.loads(spec, experts, k)
        distinct, blocks = float(loads.distinct(tokens)), float(loads.blocks(tokens, block))
        assert k - 1e-6 <= distinct <= min(experts, tokens * k) + 1e-6
        assert blocks >= tokens * k / block - 1e-6
        assert distinct - 1e-6 <= blocks or spec.kind == "correlated"
        assert float(loads.distinct(tokens + 1)) >= distinct - 1e-9


def test_both_ends_of_correlation():
    uniform, same = routing.loads(Uniform(), 64, 8), routing.loads(Identical(kind="identical"), 64, 8)
    none = routing.loads(Correlated(kind="correlated", rho=0.0), 64, 8)
    full = routing.loads(Correlated(kind="correlated", rho=1.0), 64, 8)
    tokens = np.array([1, 7, 300])
    assert np.allclose(none.distinct(tokens), uniform.distinct(tokens))
    assert np.allclose(full.distinct(tokens), 8) and np.allclose(same.distinct(tokens), 8)
    assert np.allclose(same.blocks(tokens, 16), 8 * np.ceil(tokens / 16))


def test_skew_lowers_distinct_experts():
    distinct = [float(routing.loads(Zipf(kind="zipf", s=s), 128, 8).distinct(16)) for s in (0, 0.5, 1, 2)]
    assert distinct == sorted(distinct, reverse=True)
    assert distinct[0] == pytest.approx(82.42, abs=0.01)


def test_even_histogram_is_uniform_and_a_hot_expert_saturates():
    even = routing.loads(Histogram(kind="histogram", counts=[5.0] * 16), 16, 2)
    assert float(even.distinct(8)) == pytest.approx(float(routing.loads(Uniform(), 16, 2).distinct(8)))
    hot = routing.loads(Histogram(kind="histogram", counts=[100.0] + [1.0] * 15), 16, 2)
    assert sum(q * many for q, many in hot.inclusion) == pytest.approx(2)
    assert max(q for q, _ in hot.inclusion) == 1.0


def test_trace_counts_what_it_holds(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("# token: experts\n0,1\n0,2\n3,1\n0,1\n")
    loads = routing.loads(Trace(kind="trace", file=str(path)), 4, 2)
    assert float(loads.distinct(1)) == 2
    assert float(loads.distinct(2)) == np.mean([3, 3])
    assert float(loads.blocks(4, 16)) == 4
    assert 2 <= float(loads.distinct(100)) <= 4


@pytest.mark.parametrize("line", ["0,0", "0,9", "0", "a,b", "0,1,2", "-1,0"])
def test_bad_trace_lines_name_the_line(tmp_path, line):
    path = tmp_path / "trace.csv"
    path.write_text(f"0,1\n{line}\n")
    with pytest.raises(SpecError, match=r"trace\.csv:2: is .* accepted: 2 different numbers from 0 to 3"):
        read_trace(str(path), 4, 2)


def test_power_law_counts_keep_every_token():
    counts = routing.power_law_counts(64, 8, 256, 1.2)
    assert (counts <= 256).all() and (counts >= 0).all()
    assert np.allclose(counts.sum(1), 256 * 8)
    loads = routing.loads(PowerLaw(kind="power_law", alpha=1.2), 64, 8)
    assert float(loads.distinct(256)) <= 64
