"""Who holds which experts, and the busiest rank: golden numbers, Monte Carlo, and what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.experts import placement
from moesim.experts.placement import expected_maximum, group_loads, placed
from moesim.experts.routing import loads
from moesim.inputs.routing import Balanced, Correlated, Histogram, Identical, PowerLaw, Trace, Uniform, Zipf
from moesim.report.accuracy_parallel import BUSIEST_CASES, busiest_form, busiest_monte_carlo


@pytest.mark.parametrize(("ranks", "golden"), [(8, 1.021), (16, 1.038), (64, 1.095)])
def test_busiest_rank_of_the_formula_card(ranks, golden):
    assert busiest_form(64, 8, 4096, ranks) == pytest.approx(golden, rel=0.01)
    assert busiest_form(64, 8, 64, 8) == pytest.approx(1.170, rel=0.01)


@pytest.mark.parametrize("case", BUSIEST_CASES, ids=str)
def test_busiest_rank_is_within_a_percent_of_drawing(case):
    draws = 20_000 if case[2] < 100 else 1500
    assert busiest_form(*case) == pytest.approx(busiest_monte_carlo(*case, draws=draws), rel=0.01)


def test_busiest_rank_needs_no_drawing_at_a_million_tokens():
    assert 1.0 < busiest_form(64, 8, 1_000_000, 8) < 1.002


def test_counts_by_hand():
    """Two tokens of one expert each on two ranks of one expert: 2 rows at odds 1/2, else 1."""
    assert placement.counted_maximum(2, 1, 2, 2)[0] == pytest.approx(1.5)
    assert placement.counted_maximum(1, 3, 9, 3)[0] == pytest.approx((27 * 1 + 54 * 2 + 3 * 3) / 84)
    assert expected_maximum(np.array([1.0, 5.0]), np.array([0.0, 0.0])) == (5.0, 0.0)
    two = expected_maximum(np.zeros(2), np.full(2, 1 / np.sqrt(2)))[0]
    assert two == pytest.approx(np.sqrt(1 / np.pi), rel=1e-3), "largest of two standard normals"


KINDS = (
    Uniform(), Balanced(kind="balanced"), Zipf(kind="zipf", s=1.0), PowerLaw(kind="power_law", alpha=1.2),
    Correlated(kind="correlated", rho=0.3), Identical(kind="identical"),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS), ranks=st.sampled_from([2, 4, 8]), tokens=st.integers(1, 300), k=st.integers(1, 4),
    strategy=st.sampled_from(placement.STRATEGIES),
)  # fmt: skip
def test_the_busiest_rank_does_its_share_and_no_more_than_all(kind, ranks, tokens, k, strategy):
    whole = loads(kind, 32, k)
    group = group_loads(kind, 32, k, ranks, strategy, 0)
    rows, distinct, blocks = (float(x) for x in (group.rows(tokens), group.distinct(tokens), group.blocks(tokens, 16)))
    assert tokens * k / ranks - 1e-6 <= rows <= tokens * k + 1e-6 or rows == pytest.approx(1.0)
    assert 0 < distinct <= min(32 / ranks, np.ceil(rows)) + 1e-6
    if kind.kind != "power_law":  # there the rank with most rows may touch fewer experts than another
        assert float(whole.distinct(tokens)) / ranks - 0.05 <= distinct
    assert blocks >= max(rows / 16, distinct) - 1e-6 or kind.kind == "correlated"
    assert float(group.imbalance(tokens)) >= 1.0
    assert float(group.deviation(tokens)) >= 0.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), ranks=st.sampled_from([2, 4, 8]), redundant=st.sampled_from([0, 8, 16]))
def test_a_balanced_placement_never_loses(seed, ranks, redundant):
    load = np.random.default_rng(seed).pareto(1.0, 32) + 0.01
    shares = placed("load_sorted", load, ranks, redundant)
    assert np.allclose(shares.sum(0), 1.0), "every token of every expert is served once"
    assert (np.count_nonzero(shares, axis=1) <= (32 + redundant) // ranks).all()
    busiest = (shares @ load).max()
    assert busiest <= (placement.linear(32, ranks) @ load).max() + 1e-9
    assert busiest >= load.sum() / ranks - 1e-9


def test_replicas_lower_the_busiest_rank_by_what_the_placement_gives():
    counts = [64.0] + [1.0] * 15
    spec = Histogram(kind="histogram", counts=counts)
    alone, helped = (group_loads(spec, 16, 1, 4, "linear", r) for r in (0, 4))
    q = np.asarray(alone.whole.popularity)
    expected = [(placed("linear", q, 4, r) @ q).max() for r in (0, 4)]
    measured = [float(g.rows(100_000)) / 100_000 for g in (alone, helped)]
    assert measured == pytest.approx(expected, rel=0.01)
    assert measured[1] < 0.6 * measured[0]


def test_round_robin_spreads_neighbours_that_are_hot():
    spec = Histogram(kind="histogram", counts=tuple(1.0 / (i + 1) for i in range(64)))
    linear, spread = (float(group_loads(spec, 64, 4, 8, s, 0).imbalance(4096)) for s in ("linear", "round_robin"))
    assert spread < linear


def test_uneven_experts_fill_the_first_ranks():
    assert placement.linear(10, 4).sum(1).tolist() == [3, 3, 2, 2]
    assert placement.linear(8, 4).sum(1).tolist() == [2, 2, 2, 2]


def test_a_trace_gives_the_busiest_rank_it_holds(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("0,1\n0,1\n2,3\n0,2\n")
    group = group_loads(Trace(kind="trace", file=str(path)), 4, 2, 2, "linear", 0)
    assert float(group.rows(4)) == 5
    assert float(group.rows(2)) == np.mean([4, 3])


def test_one_rank_is_the_whole_layer():
    assert group_loads(Uniform(), 64, 8, 1, "linear", 0) is loads(Uniform(), 64, 8)


def test_a_rank_reads_its_replicas_whatever_the_load():
    """256 experts on 32 ranks: 8 weights a rank, 9 with 32 replicas, 16 with 256; the rows stay the same."""
    many = np.array([8192])
    groups = [group_loads(Uniform(kind="uniform"), 256, 8, 32, "linear", redundant) for redundant in (0, 32, 256)]
    assert [float(group.distinct(many)[0]) for group in groups] == pytest.approx([8, 9, 16], rel=1e-3)
    rows = [float(group.rows(many)[0]) for group in groups]
    assert rows == pytest.approx([rows[0]] * 3, rel=2e-3)
