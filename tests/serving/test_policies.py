"""Policies under load: off they change nothing; on they do what they say, and every token is counted."""

from __future__ import annotations

import pytest

from moesim.assembly import assemble
from moesim.errors import SpecError
from moesim.explore.economy import economy
from moesim.hardware.host import load_host
from moesim.inputs.scenario import Scenario, Workload
from moesim.memory import weight_bytes
from moesim.prediction import predict
from moesim.report.load_text import shown

BURSTS = Workload(request_rate=30, num_prompts=150, burstiness=0.3, input_len=256, output_len=64)


def scenario(load=BURSTS, policies=None, model="OLMoE-1B-7B-0924", **settings):
    base = Scenario(model=model, hardware="h100-sxm", workload=load).with_(max_num_seqs=16, **settings)
    return base.with_(policies=policies) if policies is not None else base


@pytest.mark.parametrize(
    "policies",
    [
        {},
        {"top_k": [{"above_waiting": 100_000, "num_experts_per_tok": 1}]},
        {"parking": {"after": "1000 s"}},
        {"fallback": {"above_running": 100_000, "model": "Qwen3-0.6B"}},
    ],
    ids=["empty", "top_k", "parking", "fallback"],
)
def test_a_policy_that_never_acts_changes_nothing(policies):
    plain, found = predict(scenario()), predict(scenario(policies=policies))
    for name, metric in plain.metrics.items():
        other = found.metrics[name]
        assert other is not None and metric is not None
        assert other.value == pytest.approx(metric.value, rel=1e-9), name


def test_top_k_falls_with_the_queue():
    rule = {"top_k": [{"above_waiting": 4, "num_experts_per_tok": 2}]}
    plain, found = predict(scenario()), predict(scenario(policies=rule))
    tokens = found.report.tokens_under
    assert set(tokens) == {"top-8", "top-2"} and min(tokens.values()) > 0
    assert sum(tokens.values()) == pytest.approx(150 * 64, rel=0.02)
    assert found["mean_tpot_ms"] < plain["mean_tpot_ms"] and found["mean_ttft_ms"] < plain["mean_ttft_ms"]
    assert "output tokens by policy: top-8" in shown(found)


def test_lower_thresholds_serve_more_tokens_with_fewer_experts():
    few = []
    for above in (0, 4, 32, 10_000):
        found = predict(scenario(policies={"top_k": [{"above_waiting": above, "num_experts_per_tok": 2}]}))
        few.append(found.report.tokens_under.get("top-2", 0))
    assert few == sorted(few, reverse=True) and few[0] > few[-1] == 0


def test_a_fallback_takes_what_comes_on_top():
    rule = {"fallback": {"above_running": 8, "model": "Qwen3-0.6B"}}
    plain, found = predict(scenario()), predict(scenario(policies=rule))
    tokens = found.report.tokens_under
    assert tokens["own"] + tokens["fallback"] == 150 * 64 and tokens["fallback"] > 0
    assert found["mean_e2el_ms"] < plain["mean_e2el_ms"]
    assert "2 x h100-sxm" in shown(found), "the fallback has a GPU of its own"


RARE = Workload(request_rate=0.01, num_prompts=20, input_len=256, output_len=64)


def test_parking_never_saves_latency_and_saves_energy():
    plain = predict(scenario(RARE))
    for after in (1, 30, 120):
        found = predict(scenario(RARE, {"parking": {"after": after}}))
        assert found.report.wakes > 0 and found.report.parked_s > 0
        for name in ("mean_ttft_ms", "mean_e2el_ms", "p99_e2el_ms"):
            assert found[name] >= plain[name]
        assert economy(found).gpu_w.value < economy(plain).gpu_w.value


def test_waking_up_copies_the_weights():
    parts = assemble(scenario(RARE))
    disk = load_host(parts.hardware.host).disk.bandwidth.value
    wake = 10.0 + max(weight_bytes(parts.rank) / parts.hardware.links.host.value, weight_bytes(parts.rank) / disk)
    found = predict(scenario(RARE, {"parking": {"after": 1}}))
    # The first request finds the engine awake.
    assert found["median_ttft_ms"] == pytest.approx(1e3 * wake, rel=0.02)


BATCH, CLOSED = (
    Workload(**arrivals, input_len=8, output_len=8) for arrivals in ({"batch_size": 1}, {"max_concurrency": 4})
)
PARKING, SMALL = {"parking": {"after": 1}}, {"above_running": 1, "model": "Qwen3-0.6B"}


def falling(*rules):
    return {"top_k": [{"above_waiting": above, "num_experts_per_tok": k} for above, k in rules]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"load": BATCH, "policies": PARKING}, "act under load"),
        ({"policies": falling((1, 8))}, "must fall below the 8"),
        ({"policies": falling((1, 4), (1, 2))}, "rising above_waiting"),
        ({"model": "Qwen3-8B", "policies": falling((1, 4))}, "no experts"),
        ({"load": CLOSED, "policies": PARKING}, "never pause"),
        ({"policies": {"fallback": {**SMALL, "model": "nobodys"}}}, "neither in the catalogue"),
        ({"policies": {"fallback": {**SMALL, "engine": {"tp": 3}}}}, "tp"),
        ({"policies": {"fallback": SMALL, **PARKING}}, "no other policy"),
        ({"policies": {"sleep": 1}}, "not a known key"),
    ],
)
def test_policies_that_cannot_act(changes, said):
    changes = dict(changes)
    with pytest.raises(SpecError, match=said):
        scenario(changes.pop("load", BURSTS), **changes)
