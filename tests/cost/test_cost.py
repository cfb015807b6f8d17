"""Cost trees add up, and intervals combine by the rule written in docs/intervals.md."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.cost.cost import Cost, interval, leaf_seconds, reduced, summed
from moesim.cost.fits import Residuals


def leaf(name: str, seconds: float, family: str, relative: float, count: int = 1) -> Cost:
    return Cost(name, seconds, {family: (seconds * relative, seconds * relative)}, bound="memory", count=count)


@given(st.lists(st.tuples(st.floats(1e-6, 1.0), st.integers(1, 60)), min_size=1, max_size=8))
def test_a_node_is_the_sum_of_its_leaves(parts):
    tree = summed("all", [leaf(str(i), s, "f", 0.1, n) for i, (s, n) in enumerate(parts)])
    assert tree.seconds == pytest.approx(sum(s * n for s, n in parts))
    assert sum(s for _, s in leaf_seconds(tree)) == pytest.approx(tree.seconds)


def test_one_family_adds_and_families_combine_in_quadrature():
    same = summed("same", [leaf("a", 1.0, "f", 0.1), leaf("b", 2.0, "f", 0.1)])
    assert interval(same.seconds, same.spread) == (pytest.approx(2.7), pytest.approx(3.3))
    mixed = summed("mixed", [leaf("a", 3.0, "f", 0.1), leaf("b", 4.0, "g", 0.1)])
    assert interval(mixed.seconds, mixed.spread) == (pytest.approx(6.5), pytest.approx(7.5))


def test_repeating_a_layer_scales_its_interval():
    layers = summed("layer", [leaf("a", 1.0, "f", 0.2), leaf("b", 1.0, "g", 0.1)], count=10)
    model = summed("model", [layers])
    low, high = interval(layers.seconds, layers.spread)
    assert interval(model.seconds, model.spread) == (pytest.approx(10 * low), pytest.approx(10 * high))


def test_intervals_cover_synthetic_truth():
    """Known error: each family is off by one log-normal factor shared by all its leaves."""
    rng = np.random.default_rng(1)
    half_width = {"f": 0.15, "g": 0.25, "h": 0.1}
    inside = 0
    trials = 2000
    for _ in range(trials):
        factor = {name: np.exp(rng.normal(0, width / 1.645)) for name, width in half_width.items()}
        leaves, truth = [], 0.0
        for i in range(12):
            name = "fgh"[i % 3]
            seconds, count = rng.uniform(0.1, 1.0), int(rng.integers(1, 40))
            width = half_width[name]
            spread = {name: (seconds * -np.expm1(-width), seconds * np.expm1(width))}
            leaves.append(Cost(str(i), seconds, spread, count=count))
            truth += count * seconds * factor[name]
        tree = summed("all", leaves)
        low, high = interval(tree.seconds, tree.spread)
        inside += low <= truth <= high
    assert 0.87 <= inside / trials <= 0.95


def test_reduced_sums_every_array():
    tree = summed("all", [leaf("a", np.arange(3.0), "f", 0.1, 2)])
    total = reduced(tree, lambda x: float(np.sum(x)))
    assert total.seconds == 6.0
    assert total.children[0].seconds == 3.0
    assert total.spread["f"][0] == pytest.approx(0.6)


def test_residual_quantiles_are_conformal():
    rng = np.random.default_rng(0)
    errors = rng.normal(0, 0.1, 5000)
    seconds = np.geomspace(1e-6, 1e-2, 5000)
    residuals = Residuals.of(seconds, errors)
    fresh = rng.normal(0, 0.1, 5000)
    assert 0.88 <= (np.abs(fresh) <= residuals.interval(seconds)).mean() <= 0.92
    few = Residuals.of(seconds[:20], errors[:20])
    assert len(few.half_width) == 1
    assert few.half_width[0] == np.sort(np.abs(errors[:20]))[18]
