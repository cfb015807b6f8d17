"""Expert caches: golden hit rates, bounds no policy passes, closed forms against simulation, traces, locality."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import paths
from moesim.calibrate.locality import Curve, fit_drifting, fit_locality, predicted
from moesim.calibrate.offload import hit_rate_curves
from moesim.calibrate.offload_compared import (
    hit_rate_errors,
    lfu_below_lru,
    other_policies,
    simulated_against_closed,
)
from moesim.experts.routing import loads
from moesim.files import yaml
from moesim.inputs.offload import Policy
from moesim.inputs.offload_fits import offload_fits
from moesim.inputs.routing import Locality as LocalityRouting
from moesim.inputs.routing import Zipf
from moesim.offload.hit_rates import hit_rate
from moesim.offload.locality import Locality
from moesim.offload.misses import DRAWS, Requests, drawn_misses
from moesim.offload.policies import POLICIES, drawn_requests, hits, replayed_hit_rates, trace_requests
from moesim.report.accuracy_offload import CLOSED_TARGET, HIT_RATE_TARGET

LOCALITIES = st.builds(
    Locality.zipf,
    num_experts=st.sampled_from([4, 8, 16]),
    top_k=st.integers(1, 4),
    persistence=st.floats(0, 0.6),
    skew=st.floats(0, 2),
    drift=st.sampled_from([0.0, 0.01, 0.3]),
)
REQUESTS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((4, 60, 8)) < 0.3)


@pytest.mark.parametrize(("skew", "lru", "static"), [(0.0, 0.250, 0.250), (0.5, 0.323, 0.456), (1.0, 0.592, 0.713)])
def test_golden_hit_rates(skew, lru, static):
    """docs/model/offload.md: 64 experts asked for one at a time, 16 slots."""
    locality = Locality.zipf(64, 1, 0.0, skew)
    assert hit_rate("lru", locality, 16) == pytest.approx(lru, abs=3e-3)
    assert hit_rate("static", locality, 16) == pytest.approx(static, abs=1e-3)


@given(LOCALITIES, st.floats(0.5, 15), st.floats(0, 6), st.sampled_from([1.0, 3.0]))
@settings(deadline=None, max_examples=60)
def test_a_larger_cache_never_hits_less(locality, slots, more, sequences):
    for policy in ("lru", "static"):
        small, large = (hit_rate(policy, locality, n, sequences) for n in (slots, slots + more))
        assert 0 <= small <= large + 1e-9 <= 1 + 1e-9
    assert hit_rate("lru", locality, locality.num_experts) == 1.0
    assert hit_rate("lru", locality, 0) == hit_rate("none", locality, 3) == 0.0


@given(REQUESTS, st.integers(1, 7))
@settings(deadline=None, max_examples=25)
def test_stack_policies_and_belady(requests, slots):
    """On any requests: LRU, static sets and Belady gain by every slot; nothing beats Belady."""
    rates = {p: [hits(p, requests, n, warm_up=0) for n in (slots, slots + 1)] for p in POLICIES}
    for policy in ("static", "belady"):
        assert rates[policy][0] <= rates[policy][1] + 1e-12, policy
    for policy in POLICIES:
        assert rates[policy][0] <= rates["belady"][0] + 1e-12, policy


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
@settings(deadline=None, max_examples=20)
def test_lru_is_a_stack_policy(seed, slots):
    """One expert a step: what a smaller LRU cache holds, a larger one holds too."""
    picks = np.random.default_rng(seed).integers(0, 8, (3, 80))
    requests = np.eye(8, dtype=bool)[picks]
    small, large = (hits("lru", requests, n, warm_up=0) for n in (slots, slots + 1))
    assert small <= large + 1e-12


def test_closed_forms_agree_with_simulation():
    """The gate: independent requests."""
    gaps = simulated_against_closed()
    print(f"\nsimulated against closed form: {max(gap for *_, gap in gaps):.4f}, target {CLOSED_TARGET}")
    assert max(gap for *_, gap in gaps) <= CLOSED_TARGET


def test_locality_of_eighteen_models():
    """The gate: two numbers a model, all cache sizes."""
    errors = hit_rate_errors()
    reached = np.mean([rmse for rmse, _ in errors.values()])
    print(f"\nLRU hit rates: RMSE {reached:.4f} over {len(errors)} models, target {HIT_RATE_TARGET}")
    assert len(errors) == 18 and reached <= HIT_RATE_TARGET


@pytest.mark.parametrize("name", ["Mixtral-8x7B", "OLMoE", "Qwen1.5-MoE"])
def test_stored_locality_has_not_drifted(name):
    redraws = yaml.read(paths.OFFLOAD / "meta.yaml").data["drift"]["redraws_per_repeat"]
    found, stored = fit_drifting(hit_rate_curves()[name], redraws), offload_fits()["locality"][name]
    for key in ("persistence", "skew", "drift", "rmse"):
        assert found[key] == pytest.approx(stored[key], abs=2e-3), "run `moesim fit-offload`"


def test_the_fit_recovers_what_made_the_data():
    slots = np.array([2.0, 4, 6, 8, 12, 16, 24, 32])
    random = np.random.default_rng(0)
    for persistence, skew in ((0.05, 1.2), (0.2, 0.5), (0.4, 0.9)):
        noisy = predicted(64, 8, persistence, skew, slots) + random.normal(0, 1e-3, len(slots))
        found = fit_locality(Curve(64, 8, slots, noisy))
        assert abs(found["persistence"] - persistence) <= max(3 * found["persistence_error"], 5e-3)
        assert abs(found["skew"] - skew) <= max(3 * found["skew_error"], 2e-2)


@given(LOCALITIES, st.floats(1, 8))
@settings(deadline=None, max_examples=40)
def test_unions_of_steps_behave(locality, sequences):
    """They grow from the experts of one step to all, and a cache that holds one hits what the next does not add."""
    size = locality.union(np.arange(0, 200), sequences)
    assert size[0] == 0 and size[1] == pytest.approx(sum(1 - (1 - q) ** sequences for q in locality.inclusion))
    assert np.all(np.diff(size) >= -1e-12) and size[-1] <= locality.num_experts + 1e-9
    assert np.all(np.diff(np.diff(size[1:])) <= 1e-9), "each step adds less than the one before"


@pytest.mark.slow
def test_lfu_hits_less_than_lru_where_popularity_drifts():
    """Signs published of 18 models; two numbers within what a figure can be read to (0.002) are no sign."""
    below = lfu_below_lru()
    rates = {name: other_policies(name) for name in below}
    gap = {name: rates[name]["lru"] - rates[name]["lfu"] for name in below}
    said = sum(gap[name] > 0 for name, yes in below.items() if yes)
    wrong = sum(gap[name] > 0.002 for name, yes in below.items() if not yes)
    print(f"\nLFU below LRU: {said} of {sum(below.values())} reproduced, {wrong} of the others wrongly")
    assert said >= 10 and wrong <= 2
    still = Locality.zipf(64, 6, 0.09, 0.82)
    assert hit_rate("lfu", still, 12) > hit_rate("lru", still, 12), "what stays popular is worth counting"


def test_drift_in_closed_form_is_what_simulation_finds():
    for sequences in (1, 3):
        locality = Locality.zipf(32, 4, 0.1, 1.2, 0.05)
        requests = drawn_requests(locality, sequences, chains=400, steps=60)
        for steps in (1, 2, 5, 20, 40):
            seen = requests[:, 20 : 20 + steps].any(1).sum(-1).mean()
            assert float(locality.union(np.array([steps]), sequences)[0]) == pytest.approx(seen, rel=0.025)
    slow, fast = (Locality.zipf(32, 4, 0.1, 1.2, drift).union(np.array([60]), 1)[0] for drift in (0.0, 0.05))
    assert fast > slow, "in the end every expert has its turn"


def test_drawn_requests_hold_a_tokens_experts():
    for persistence, drift in ((0.0, 0.0), (0.3, 0.0), (0.3, 0.2)):
        locality = Locality.zipf(16, 3, persistence, 0.8, drift)
        requests = drawn_requests(locality, 1)
        assert set(requests.sum(-1).ravel()) == {3}
        assert drift or np.allclose(requests.mean((0, 1)), locality.inclusion, atol=0.05)
    many = drawn_requests(Locality.zipf(16, 3, 0.0, 0.0), 4)
    assert many.sum(-1).max() <= 12 and many.sum(-1).mean() == pytest.approx(16 * (1 - (13 / 16) ** 4), rel=0.02)


def test_a_trace_is_replayed_step_by_step():
    trace = ((0, 1), (0, 2), (0, 2), (3, 1), (0, 2), (0, 1))
    assert trace_requests(trace, 4, 2).sum() == 3 + 4 + 3
    requests = trace_requests(trace, 4, 1)
    rates = replayed_hit_rates("belady", trace, 4, 1)
    assert rates[0] == 0 and rates[4] == 1, "it begins with the most popular ones"
    assert all(a <= b for a, b in itertools.pairwise(rates))
    assert hits("lru", requests, 2, warm_up=0) <= hits("belady", requests, 2, warm_up=0)


def test_a_users_trace_decides_the_hits(tmp_path):
    """The same tokens over and over: a cache that holds them never misses again; a drawn routing would."""
    path = tmp_path / "trace.csv"
    path.write_text("0,1\n" * 400)
    from moesim.inputs.routing import Trace

    same = Requests(loads(Trace(kind="trace", file=str(path)), 8, 2), Policy(cache="lru"))
    zipf = Requests(loads(Zipf(kind="zipf", s=0.5), 8, 2), Policy(cache="lru"))
    assert float(same.hit_rate(1, 2)) > 0.99 > float(zipf.hit_rate(1, 2))


def test_a_set_placed_once_knows_less_than_one_chosen_for_the_text():
    routing = LocalityRouting(kind="locality", persistence=0.1, skew=0.8)
    requests = Requests(loads(routing, 8, 2), Policy(cache="static"), 0.1, corpus_skew=0.15)
    assert float(requests.hit_rate(1, 3.9)) == pytest.approx(0.53, abs=0.01), "Fiddler: 125 of 256 experts take 53 %"
    own = Requests(loads(routing, 8, 2), Policy(cache="static"), 0.1)
    assert float(own.hit_rate(1, 3.9)) > float(requests.hit_rate(1, 3.9))


@given(st.floats(0.3, 90), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_drawn_misses_have_the_right_mean_and_grow_with_the_chance(asked, hit, less):
    found = drawn_misses(asked, hit, 32)
    assert np.broadcast_shapes(found.shape, (32, 1, DRAWS)) == (32, 1, DRAWS)
    assert found.mean() == pytest.approx(asked * (1 - hit), rel=0.05, abs=0.12)
    assert np.all(drawn_misses(asked, hit * less, 32) >= found - 1e-9)
    assert found.min() >= 0 and found.max() <= asked + 1e-9
