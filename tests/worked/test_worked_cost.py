"""Trees of costs and their intervals, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from moesim.cost.cost import Cost, interval, leaf_seconds, reduced, relative_interval, summed
from moesim.cost.reasons import EXPERT_MAP

EXACT = 1e-12


def exactly(x):
    return pytest.approx(x, rel=EXACT)


def tree() -> Cost:
    """Twice (2 s of f and three times 1 s of g), and 5 s of f and h."""
    a = Cost("a", 2.0, {"f": (0.1, 0.2)}, variance=0.5)
    b = Cost("b", 1.0, {"g": (0.3, 0.4)}, count=3, variance=0.25)
    layer = summed("layer", [a, b], 2)
    c = Cost("c", 5.0, {"f": (0.5, 0.6), "h": (0.7, 0.8)})
    return summed("step", [layer, c])


def test_sums():
    step = tree()
    layer = step.children[0]
    assert (layer.name, layer.count, layer.bound) == ("layer", 2, "sum")
    assert layer.seconds == 2.0 + 3 * 1.0 and layer.total == 10.0
    assert layer.spread["f"] == exactly((0.1, 0.2)) and layer.spread["g"] == exactly((0.9, 1.2))
    assert layer.variance == 0.5 + 3 * 0.25
    assert step.seconds == step.total == 15.0 and step.count == 1
    assert step.spread["f"] == exactly((2 * 0.1 + 0.5, 2 * 0.2 + 0.6))
    assert step.spread["g"] == exactly((1.8, 2.4)) and step.spread["h"] == exactly((0.7, 0.8))
    assert step.variance == 2.5
    assert [child.name for child in step.children] == ["layer", "c"]


def test_families_in_quadrature():
    step = tree()
    low, high = interval(step.seconds, step.spread)
    assert low == exactly(15 - math.sqrt(0.7**2 + 1.8**2 + 0.7**2))
    assert high == exactly(15 + math.sqrt(1.0**2 + 2.4**2 + 0.8**2))
    assert relative_interval(step) == (exactly(float(low) / 15), exactly(float(high) / 15))


def test_no_time_below_zero():
    assert interval(1.0, {"f": (3.0, 4.0)}) == (0.0, 5.0)
    assert interval(2.0, {}) == (2.0, 2.0)
    assert relative_interval(Cost("nothing", 0.0, {}))[0] == 0.0


def test_leaves_with_their_seconds():
    assert [(leaf.name, s) for leaf, s in leaf_seconds(tree())] == [("a", 4.0), ("b", 6.0), ("c", 5.0)]
    assert [(leaf.name, s) for leaf, s in leaf_seconds(tree(), 10.0)] == [("a", 40.0), ("b", 60.0), ("c", 50.0)]
    assert leaf_seconds(Cost("x", 1.5, {}, count=4))[0][1] == 6.0


def test_reduced_over_steps():
    """Every array is summed, everything else stays."""
    op = object()
    leaf = Cost(
        "a", np.array([1.0, 2.0]), {"f": (np.array([0.1, 0.2]), np.array([0.3, 0.4]))}, "memory", "x / y", "fit:f",
        "extrapolated", 3, op, [], (EXPERT_MAP,), ("a remark",), np.array([5.0, 6.0]),
    )  # fmt: skip
    found = reduced(summed("all", [leaf], 2), lambda x: float(np.sum(x)))
    assert found.seconds == 9.0 and found.count == 2 and found.total == 18.0
    assert found.spread["f"] == (exactly(0.9), exactly(2.1)) and found.variance == 33.0
    child = found.children[0]
    assert child.seconds == 3.0 and child.spread["f"] == (exactly(0.3), exactly(0.7)) and child.variance == 11.0
    assert (child.name, child.bound, child.formula, child.source) == ("a", "memory", "x / y", "fit:f")
    assert (child.tag, child.count, child.op, child.reasons, child.remarks) == (
        "extrapolated", 3, op, (EXPERT_MAP,), ("a remark",),
    )  # fmt: skip
    assert child.notes == ("a part of the experts on each rank was never fitted", "a remark")
