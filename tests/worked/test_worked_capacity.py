"""Pinned arithmetic of slots: how many, how many tokens find none, what is computed for nothing."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest

from moesim.experts.capacity import BlockSparse, Capacity, Dropping, StaticCapacity, dropped_share, waste
from moesim.experts.placement import GroupLoads
from moesim.experts.routing import Loads, loads
from moesim.inputs.routing import Balanced, Correlated, PowerLaw, Uniform, Zipf


def test_slots_of_an_expert():
    assert Capacity(1.25, None).slots(4096, 1, 128) == 40
    assert Capacity(1.0, None).slots(10, 2, 8) == 3  # 2.5, rounded up
    assert Capacity(None, 0.05).slots(1000, 2, 512) == 50
    assert Capacity(1e6, None).slots(7, 2, 8) == 7, "an expert sees a token once"
    assert Capacity(0.001, None).slots(7, 2, 8) == 1
    # Four groups of 25 tokens have ceil(1.25 x 25 / 8) = 4 slots each.
    assert Capacity(1.25, None, 4).slots(100, 1, 8) == 16


@pytest.mark.parametrize(
    ("experts", "k", "share", "tokens", "expected"),
    [(512, 2, 0.05, 1000, 12.8), (128, 2, 1.0, 4096, 64.0)],
    ids=["LM 52B", "MT 54.5B"],
)
def test_waste_of_the_static_gates_of_fairseq(experts, k, share, tokens, expected):
    """Huang et al. (arXiv 2303.06182): slots computed over tokens that ask for one."""
    assert waste(loads(Uniform(), experts, k), tokens, Capacity(None, share)) == pytest.approx(expected, rel=1e-12)


def test_drops_by_hand():
    """Eight experts, one each of 16 tokens, two slots: E[(X - 2)+] / 2 of a binomial(16, 1/8)."""
    chance = [comb(16, x) * (1 / 8) ** x * (7 / 8) ** (16 - x) for x in range(17)]
    expected = sum(p * max(x - 2, 0) for x, p in enumerate(chance)) / 2
    assert dropped_share(loads(Uniform(), 8, 1), 16, Capacity(1.0, None)) == pytest.approx(expected, rel=1e-9)


def test_drops_against_all_outcomes():
    """Three tokens, each two of four experts, one slot: every combination counted."""
    pairs = list(itertools.combinations(range(4), 2))
    kept = 0.0
    for picks in itertools.product(pairs, repeat=3):
        counts = np.bincount(np.ravel(picks), minlength=4)
        kept += np.minimum(counts, 2).sum() / len(pairs) ** 3
    found = loads(Uniform(), 4, 2).kept(3, 2)
    assert found == pytest.approx(kept)


def test_an_even_load_drops_nothing():
    even = loads(Balanced(kind="balanced"), 128, 1)
    assert dropped_share(even, 4096, Capacity(1.0, None)) == 0
    assert dropped_share(even, 4096, Capacity(0.5, None)) == pytest.approx(0.5)
    # Switch (arXiv 2101.03961): below 1 % at 1.25 where the load is balanced.
    assert dropped_share(loads(Uniform(), 128, 1), 4096, Capacity(1.25, None)) < 0.01


ROUTINGS = [
    Uniform(), Balanced(kind="balanced"), Zipf(kind="zipf", s=0.8), PowerLaw(kind="power_law", alpha=1.2),
    Correlated(kind="correlated", rho=0.1),
]  # fmt: skip


@pytest.mark.parametrize("routing", ROUTINGS, ids=lambda r: r.kind)
@pytest.mark.parametrize("tokens", [3, 64, 1000])
def test_more_capacity_never_drops_more(routing, tokens):
    of = loads(routing, 32, 4)
    found = [dropped_share(of, tokens, Capacity(f, None)) for f in (0.1, 0.5, 1.0, 1.25, 2.0, 8.0, 1e6)]
    assert all(0 <= share < 1 for share in found)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(found))
    assert found[-1] == pytest.approx(0.0, abs=1e-9)


def test_what_ranks_compute():
    of = loads(Uniform(), 8, 2)
    fixed = StaticCapacity(of, 8, Capacity(1.0, None))
    assert fixed.rows(64) == 128 and fixed.distinct(64) == 8 and fixed.blocks(64, 16) == 8
    half = StaticCapacity(GroupLoads(of, 2), 4, Capacity(1.0, None))
    assert half.rows(64) == 64 and half.imbalance(64) == 1
    assert BlockSparse(of, 8).rows(64) == pytest.approx(8 * 128) and BlockSparse(of, 8).blocks(64, 16) == pytest.approx(
        64
    )
    unbounded = Dropping(of, 8, Capacity(1e6, None))
    assert float(unbounded.rows(64)) == pytest.approx(128) and unbounded.distinct(64) == of.distinct(64)
    tight = Dropping(of, 8, Capacity(1.0, None))
    assert float(tight.rows(64)) == pytest.approx(of.kept(64, 16)) and float(tight.blocks(64, 16)) == pytest.approx(8)


@pytest.mark.parametrize("tokens", [64, 256, 1024])
@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_ranks_compute_what_their_experts_keep(tokens, factor):
    """The busiest of four ranks, against draws; each expert drops for itself."""
    experts, k, ranks, random = 64, 8, 4, np.random.default_rng(1)
    capacity = Capacity(factor, None)
    slots = capacity.slots(tokens, k, experts)
    picked = random.random((200, tokens, experts)).argsort(2)[:, :, :k].reshape(200, -1)
    counts = np.array([np.bincount(row, minlength=experts) for row in picked]).reshape(200, ranks, -1)
    busiest = counts[np.arange(200), counts.sum(2).argmax(1)]
    found = Dropping(GroupLoads(loads(Uniform(), experts, k), ranks), experts // ranks, capacity)
    assert float(found.rows(tokens)) == pytest.approx(np.minimum(busiest, slots).sum(1).mean(), rel=0.02)
    blocks = np.ceil(np.minimum(busiest, slots) / 16).sum(1).mean()
    assert float(found.blocks(tokens, 16)) == pytest.approx(blocks, rel=0.05)
    free = Dropping(GroupLoads(loads(Uniform(), experts, k), ranks), experts // ranks, Capacity(1e6, None))
    assert float(free.rows(tokens)) == float(found.loads.rows(tokens)) > float(found.rows(tokens))


def test_a_cluster_keeps_or_drops_its_tokens_together():
    same = Loads(4, 1, "identical", ((0.25, 4),), (0.25,) * 4, rho=1.0)
    assert same.kept(8, 2) == pytest.approx(2.0)
