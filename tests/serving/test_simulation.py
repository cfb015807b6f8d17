"""Runs under load: what must hold whatever the figures are."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import DoesNotFit, SpecError, load, paths, predict, sweep
from moesim.assembly import assemble
from moesim.engines.kv_cache import CachedBlocks, CountedBlocks
from moesim.engines.request import Request
from moesim.explore.capacity import capacity
from moesim.inputs.scenario import Scenario
from moesim.memory import fullest_stage
from moesim.prediction import predict_steady
from moesim.report.as_json import prediction_data
from moesim.report.timeline import ChromeTimeline
from moesim.serving.engine import simulated, step_table
from moesim.serving.measures import Distribution
from moesim.serving.priced_steps import relative_lengths
from moesim.serving.report import LoadReport, Slo
from moesim.serving.requests import requests
from moesim.serving.steady import most_of
from moesim.steps.table import Composition


@pytest.fixture
def served(mixtral) -> Scenario:
    """Eight clients, short lengths that differ."""
    lengths = {"kind": "uniform", "low": 0.5, "high": 1.0}
    return mixtral.with_(
        batch_size=None, max_concurrency=8, input_len=512, output_len=96, num_prompts=120, lengths=lengths
    )


def test_every_request_is_answered_and_every_token_counted(served):
    report = predict(served).report
    asked = list(requests(served.workload))
    assert report.answered == len(asked) == 120
    assert report.input_tokens == sum(r.prompt_len for r in asked)
    assert report.output_tokens == sum(r.output_len for r in asked)
    assert report.itl.count == report.output_tokens - report.answered
    assert report.running.peak <= 8 and report.kv_used.peak <= 1
    assert report.busy_s <= report.duration_s * (1 + 1e-9)


def test_equal_seeds_give_equal_runs_and_others_do_not(served):
    first, again, other = (predict(served.with_(seed=seed))["mean_ttft_ms"] for seed in (1, 1, 2))
    assert first == again != other


def test_stretches_are_the_steps_they_stand_for(served):
    """Pricing equal decode steps at once changes nothing but the time it takes."""
    fast, slow = predict(served), predict(served, timeline=ChromeTimeline())
    for name in ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "output_throughput"):
        assert fast[name] == pytest.approx(slow[name], rel=1e-9), name
    assert fast.report.steps == slow.report.steps
    for name in ("median_itl_ms", "p99_itl_ms"):
        assert fast[name] == pytest.approx(slow[name], rel=3e-3), name


@pytest.mark.parametrize("asynchronous", [True, False])
def test_both_pools_give_the_same_run_where_nothing_is_shared(served, asynchronous):
    scenario = served.with_(async_scheduling=asynchronous, num_prompts=60)
    with_cache, without = (predict(scenario.with_(enable_prefix_caching=on)) for on in (True, False))
    for name in ("mean_ttft_ms", "mean_tpot_ms", "p99_itl_ms"):
        assert with_cache[name] == pytest.approx(without[name], rel=1e-12)


def test_skipping_ahead_misses_no_arrival(served):
    poisson = served.with_(max_concurrency=None, request_rate=5.0, num_prompts=80)
    fast, slow = predict(poisson), predict(poisson, timeline=ChromeTimeline())
    assert fast["mean_ttft_ms"] == pytest.approx(slow["mean_ttft_ms"], rel=1e-9)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_pipeline_makes_no_lone_token_faster(mixtral, asynchronous):
    """With one request each token must have left the last stage before the next enters the first."""
    lone = mixtral.with_(batch_size=None, max_concurrency=1, num_prompts=3, async_scheduling=asynchronous)
    single, two = (predict(lone.with_(pipeline_parallel_size=n))["mean_tpot_ms"] for n in (1, 2))
    assert two >= single
    static = mixtral.with_(batch_size=1, pipeline_parallel_size=2, async_scheduling=asynchronous)
    assert two == pytest.approx(predict(static)["mean_tpot_ms"], rel=0.05)


def test_replicas_of_a_dense_model_add_up():
    dense = load(paths.SCENARIOS / "qwen3_32b_dense.yaml").with_(
        max_concurrency=8, input_len=256, output_len=32, num_prompts=32, tensor_parallel_size=2
    )
    double = dense.with_(data_parallel_size=2, max_concurrency=16, num_prompts=64)
    assert predict(double)["output_throughput"] == pytest.approx(2 * predict(dense)["output_throughput"], rel=1e-6)
    steady = predict_steady(double)["output_throughput"] / predict_steady(dense)["output_throughput"]
    assert steady == pytest.approx(2, rel=1e-3)


def test_drawn_lengths_stay_within_the_model(served):
    long = served.with_(lengths={"kind": "lognormal", "sigma": 1.5}, max_model_len=800)
    assert all(r.prompt_len + r.output_len <= 800 for r in requests(long.workload, 800))
    assert predict(long).report.answered == 120


def test_whole_prompts_must_fit_a_step(served):
    with pytest.raises(SpecError, match="never fits a step"):
        served.with_(enable_chunked_prefill=False, max_num_batched_tokens=128)


def test_little_s_law(served):
    """Requests inside, on average, are rate times latency."""
    result = predict(served.with_(num_prompts=400))
    inside = result["request_throughput"] * result["mean_e2el_ms"] / 1e3
    assert inside == pytest.approx(8, rel=0.03)


def test_more_clients_share_the_engine(served):
    few, many = (predict(served.with_(max_concurrency=n, num_prompts=10 * n)) for n in (4, 32))
    assert many["output_throughput"] > few["output_throughput"]
    assert many["mean_tpot_ms"] > few["mean_tpot_ms"]


def test_one_lone_client_sees_the_static_batch(mixtral):
    """One request at a time: prefill and decode steps of a batch of one, and the front end."""
    lone = mixtral.with_(batch_size=None, max_concurrency=1, num_prompts=4, input_len=1024, output_len=64)
    alone = mixtral.with_(batch_size=1, input_len=1024, output_len=64)
    assert predict(lone)["mean_tpot_ms"] == pytest.approx(predict(alone)["mean_tpot_ms"], rel=0.01)
    front_ms = 5.0 + 1.5e-3 * 1024
    assert predict(lone)["mean_ttft_ms"] == pytest.approx(predict(alone)["mean_ttft_ms"] + front_ms, rel=0.02)


def test_hidden_host_time_makes_asynchronous_steps_shorter(served):
    ahead, plain = (predict(served.with_(async_scheduling=on))["mean_tpot_ms"] for on in (True, False))
    assert ahead < plain < ahead + 2.0


def test_a_full_cache_queues_and_preempts():
    scenario = load(paths.SCENARIOS / "minimax_cache_limited.yaml")
    result = predict(scenario)
    assert result.report.cache_limited and result.report.kv_used.peak > 0.98
    assert result["mean_ttft_ms"] > 5 * predict(scenario.with_(max_concurrency=8))["mean_ttft_ms"]
    assert not predict(scenario.with_(max_concurrency=8)).report.cache_limited


def test_shared_beginnings_are_computed_once(served):
    shared = predict(served.with_(cached_share=0.75))
    assert shared.report.cached_tokens > 0.6 * shared.report.input_tokens
    assert shared["mean_ttft_ms"] < predict(served)["mean_ttft_ms"]


def test_an_open_loop_keeps_its_rate_and_a_cap(served):
    poisson = served.with_(max_concurrency=None, request_rate=5.0, num_prompts=600)
    assert predict(poisson)["request_throughput"] == pytest.approx(5.0, rel=0.1)
    assert predict(poisson.with_(max_concurrency=2)).report.running.peak <= 2
    bursty = poisson.with_(burstiness=0.1)
    assert predict(bursty)["p99_ttft_ms"] > predict(poisson)["p99_ttft_ms"]


def test_a_request_that_never_fits_is_named():
    huge = load(paths.SCENARIOS / "minimax_cache_limited.yaml").with_(
        max_concurrency=1, num_prompts=1, tensor_parallel_size=4, input_len=190_000, output_len=4096
    )
    with pytest.raises((SpecError, DoesNotFit), match="fit"):
        predict(huge.with_(gpu_memory_utilization=0.72))


def test_goodput_counts_answers_that_keep_the_slo(served):
    ttft = predict(served)["median_ttft_ms"]
    report = predict(served, Slo(ttft_s=ttft / 1e3)).report
    assert 0.3 * report.answered < report.good < 0.7 * report.answered
    assert predict(served, Slo(tpot_s=1e-6)).report.good == 0


def test_json_carries_the_names_of_a_vllm_bench_result(served):
    data = json.loads(json.dumps(prediction_data(predict(served, Slo(ttft_s=1.0)))))
    for name in ("duration", "completed", "total_input_tokens", "request_throughput", "request_goodput",
                 "mean_ttft_ms", "median_tpot_ms", "p99_itl_ms", "std_e2el_ms", "p90_e2el_ms"):  # fmt: skip
        assert data["bench"][name] > 0, name
    assert data["load"]["kv_used_share_peak"] > 0


def test_the_timeline_is_a_chrome_trace(served, tmp_path):
    timeline = ChromeTimeline()
    report = predict(served, timeline=timeline).report
    events = json.loads(timeline.write(tmp_path / "run.json").read_text())["traceEvents"]
    steps = [e for e in events if e["ph"] == "X" and e["pid"] == 0]
    assert len(steps) == report.steps
    ends = [e["ts"] + e["dur"] for e in steps]
    assert all(b["ts"] >= end - 1e-2 for end, b in zip(ends, steps[1:], strict=False))
    assert len([e for e in events if e["ph"] == "X" and e["pid"] == 1]) == 2 * report.answered


# Closed form


CASES = [
    {"max_concurrency": 8},
    {"max_concurrency": 32},
    {"max_concurrency": 64, "input_len": 512, "output_len": 256},
    {"max_concurrency": 4, "input_len": 8192, "output_len": 512},
    {"max_concurrency": 32, "input_len": 1024, "output_len": 512, "async_scheduling": False},
    {"max_concurrency": None, "request_rate": 2.0},
    {"max_concurrency": None, "request_rate": 20.0, "input_len": 512, "output_len": 256},
    {"max_concurrency": None, "request_rate": 8.0, "input_len": 512, "output_len": 256, "async_scheduling": False},
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()))
def test_closed_form_and_simulation_agree(case, capsys):
    """Where both apply (lengths that differ, long runs): 5 % a token, 10 % to the first one."""
    scenario = load(paths.SCENARIOS / "mixtral_tp4.yaml").with_(batch_size=None, **case)
    clients = scenario.workload.max_concurrency
    count = 40 * clients if clients else 1200
    scenario = scenario.with_(num_prompts=count, lengths={"kind": "uniform", "low": 0.5, "high": 1.0})
    form, run = predict_steady(scenario), predict(scenario)
    tpot, ttft = (form[n] / run[n] - 1 for n in ("mean_tpot_ms", "mean_ttft_ms"))
    with capsys.disabled():
        print(f"\nclosed form against simulation: TPOT {tpot:+.1%}, TTFT {ttft:+.1%}")
    assert abs(tpot) <= 0.05 and abs(ttft) <= 0.10


@pytest.mark.parametrize("output_len", [256, 512])
@pytest.mark.parametrize("clients", [1, 16, 32])
def test_the_steady_state_keeps_little_s_law(served, clients, output_len):
    long = served.with_(max_concurrency=clients, output_len=output_len, num_prompts=100_000, input_len=1000)
    state = predict_steady(long).state
    assert state.request_rate * state.e2el_s == pytest.approx(clients, rel=1e-6)


def test_answers_of_one_token_have_no_gap(served):
    single = served.with_(output_len=1, num_prompts=200, max_concurrency=None, request_rate=1.0)
    form, run = predict_steady(single), predict(single)
    assert form.metrics["mean_tpot_ms"] is None and run.metrics["mean_tpot_ms"] is None


def test_the_steady_state_names_what_limits_it(served):
    assert predict_steady(served).state.limited_by == "clients"
    assert predict_steady(served.with_(max_concurrency=None, request_rate=0.5)).state.limited_by == "rate"


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("mixtral_tp4", {"max_concurrency": 64, "max_num_seqs": 8, "input_len": 256}, "seats"),
        ("mixtral_tp4", {"max_concurrency": None, "request_rate": 1000.0, "batch_size": None}, "KV cache is full"),
        ("minimax_cache_limited", {"max_concurrency": 200}, "KV cache is full"),
        ("mixtral_tp2_pp2", {"max_concurrency": 8}, "pipeline"),
        ("qwen3_235b_dp8_ep8", {"max_concurrency": 256, "input_len": 1024, "output_len": 256}, "prompts take"),
        ("mixtral_tp4", {"max_concurrency": 256, "input_len": 1000, "output_len": 4}, "prompts take"),
        ("mixtral_tp4", {"max_concurrency": 32, "num_prompts": 20}, "fewer requests than clients"),
        ("mixtral_tp4", {"max_concurrency": 4, "request_rate": 1000.0}, "clients hold back the rate"),
        ("mixtral_tp4", {"request_rate": 0.1, "burstiness": 0.1}, "burstiness 0.1"),
        ("deepseek_v3_overlap", {"max_concurrency": 1, "input_len": 64, "output_len": 40}, "replicas in lockstep"),
    ],
)
def test_what_the_closed_form_does_not_see_it_refuses(name, changes, why):
    scenario = load(paths.SCENARIOS / f"{name}.yaml").with_(**{"batch_size": None, **changes})
    with pytest.raises(SpecError, match=why):
        predict_steady(scenario)


def test_where_the_cache_saturates_is_refused_not_guessed():
    changes = {"tp": 1, "quantization": "fp8", "kv_cache_dtype": "fp8", "max_num_seqs": 896, "conc": 2500,
               "num_prompts": 2500, "isl": 427, "osl": 145, "hardware": "h100-pcie"}  # fmt: skip
    with pytest.raises(SpecError, match="KV cache is full"):
        predict_steady(load(paths.SCENARIOS / "mixtral_tp4.yaml", changes))


def test_lockstep_replicas_take_prompts_side_by_side():
    random = np.random.default_rng(0)
    for replicas, mean in ((8, 0.1), (8, 0.5), (4, 3.0), (2, 0.02)):
        drawn = random.poisson(mean, (200_000, replicas))
        assert most_of(replicas, mean) == pytest.approx(drawn.max(1).mean(), rel=0.02)
        drawn[:, 0] += 1
        assert most_of(replicas, mean, mine=1) == pytest.approx(drawn.max(1).mean(), rel=0.02)
    assert most_of(1, 0.7) == 0.7


@pytest.mark.parametrize("change", [{"trace_file": "x.csv"}, {"batch_size": 4}])
def test_what_has_no_steady_state_says_so(served, change):
    with pytest.raises(SpecError):
        predict_steady(served.with_(**{"max_concurrency": None, **change}))


def test_sweeps_under_load_use_it(served):
    table = sweep(served, {"max_concurrency": [1, 8], "tensor_parallel_size": [4, 3]})
    assert table["fits"].tolist() == [True, False, True, False]
    assert "divide" in table["problem"][1]
    good = table[table["fits"]]
    assert (good["mean_tpot_ms"].diff().dropna() > 0).all()


# Capacity


def test_capacity_brackets_the_slo(served):
    tpot = predict(served.with_(max_concurrency=12, num_prompts=180))["p90_tpot_ms"]
    found = capacity(served.with_(num_prompts=None), Slo(tpot_s=tpot / 1e3))
    assert found.value >= 12 and found.next_value == found.value + 1
    assert found.prediction["p90_tpot_ms"] <= tpot and "TPOT" in found.broken[0]
    none = capacity(served, Slo(tpot_s=1e-6))
    assert none.value == 0 and none.prediction is None


def test_capacity_of_a_rate(served):
    scenario = served.with_(max_concurrency=None, request_rate=1.0, num_prompts=100)
    found = capacity(scenario, Slo(ttft_s=0.2))
    assert found.of == "request_rate" and 1 < found.value < found.next_value <= 1.05 * found.value


# Prefill and decode apart


def test_engines_apart_answer_everything():
    scenario = load(paths.SCENARIOS / "mixtral_disaggregated.yaml").with_(num_prompts=80)
    result = predict(scenario)
    assert result.report.answered == 80
    assert result.report.output_tokens == 80 * 256
    slow = scenario.model_copy(
        update={"disaggregation": scenario.disaggregation.model_copy(update={"kv_transfer_bandwidth": 1e9})}
    )
    sent = 65536.0 * 2048 * (1e-9 - 1 / 50e9) * 1e3
    assert predict(slow)["median_ttft_ms"] - result["median_ttft_ms"] == pytest.approx(sent, rel=0.1)
    assert predict(slow)["mean_tpot_ms"] == pytest.approx(result["mean_tpot_ms"], rel=0.05)


def test_decode_engines_apart_never_stall_for_prompts():
    apart = predict(load(paths.SCENARIOS / "mixtral_disaggregated.yaml").with_(num_prompts=80))
    together = load(paths.SCENARIOS / "mixtral_disaggregated.yaml").with_(
        disaggregation=None, tensor_parallel_size=4, num_prompts=80
    )
    assert apart["p99_itl_ms"] < predict(together)["p99_itl_ms"]


def test_engines_apart_hold_what_littles_law_says():
    """All but what is on its way between the engines, and what their front end reads."""
    result = predict(load(paths.SCENARIOS / "mixtral_disaggregated.yaml"))
    report = result.report
    present = report.answered * result["mean_e2el_ms"] / 1e3 / report.duration_s
    assert 0.97 * present < report.running.mean + report.waiting.mean <= present


# Prices


@given(
    prefill=st.lists(st.tuples(st.integers(2, 2000), st.integers(0, 4000)), max_size=2),
    decodes=st.integers(0, 64),
    context=st.integers(1, 8000),
)
@settings(max_examples=25, deadline=None)
def test_fast_prices_are_the_step_model_s(prefill, decodes, context):
    if not prefill and not decodes:
        return
    scenario = load(paths.SCENARIOS / "mixtral_tp4.yaml")
    parts = assemble(scenario)
    held = Composition(tuple(prefill), decodes, float(context), decodes + len(prefill))
    fast = float(step_table(parts.steps).time([held]).through)
    steps = parts.steps
    exact = float(np.sum(steps.cost("step", steps.load(held.groups()), held.sampled).seconds))
    assert fast == pytest.approx(exact, rel=0.02)


def test_quantiles_are_within_their_bins():
    values = np.random.default_rng(0).lognormal(-4, 1, 20_000)
    found = Distribution()
    found.add_all(values[:10_000])
    for value in values[10_000:]:
        found.add(float(value))
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.std == pytest.approx(values.std(), rel=1e-9)
    for share in (0.01, 0.5, 0.9, 0.99):
        assert found.quantile(share) == pytest.approx(np.quantile(values, share), rel=3e-3)


# Blocks


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 300), st.booleans()), max_size=60))
@settings(max_examples=60, deadline=None)
def test_blocks_are_never_lost_or_held_twice(moves):
    """Whatever is admitted, grown and released: free and held blocks are all there are."""
    pools = CachedBlocks(40, 16), CountedBlocks(40, 16, float)
    for pool in pools:
        live: dict[int, Request] = {}
        for number, tokens, release in moves:
            request = live.get(number)
            if request is None:
                request = Request(number, tokens, 10)
                if pool.admit(request, pool.found(request), tokens, tokens, 0.0):
                    live[number] = request
                    pool.commit(request, tokens)
            elif release:
                pool.release(live.pop(number))
            elif pool.grow(request, tokens):
                pool.commit(request, min(tokens, len(request.blocks) * 16))
        held = sum(len(r.blocks) if isinstance(pool, CachedBlocks) else r.blocks[0] for r in live.values())
        assert pool.used_share == pytest.approx(held / 40)
        if isinstance(pool, CachedBlocks):
            distinct = {block for request in live.values() for block in request.blocks}
            assert pool.free + len(distinct) == 40
        for request in live.values():
            pool.release(request)
        assert pool.used_share == pytest.approx(0, abs=1e-12)


def test_windows_free_what_they_passed():
    """gpt-oss keeps 128 tokens in half of its layers: its cache holds almost twice as many sequences."""
    scenario = load(paths.SCENARIOS / "gpt_oss_120b_served.yaml").with_(num_prompts=32)
    parts = assemble(scenario)
    fullest = fullest_stage(parts.rank, parts.hardware, parts.limits)
    report = simulated(parts.steps, scenario.engine, parts.limits, fullest, scenario.workload, LoadReport())
    room = fullest[1]
    whole = 16 * 2048 * room.kv_bytes_per_token / room.kv_available
    assert 0.3 * whole < report.kv_used.peak < 0.7 * whole


@pytest.mark.parametrize(
    ("law", "least", "most"),
    [
        ({"kind": "uniform", "low": 0.5, "high": 1.0}, (0.5 + 0.5 / 12) / 0.75, (1.0 - 0.5 / 12) / 0.75),
        ({"kind": "lognormal", "sigma": 0.6}, math.exp(-0.6 * 1.3830) / 1.15185, math.exp(0.6 * 1.3830) / 1.15185),
        ({"kind": "fixed"}, 1.0, 1.0),
    ],
)
def test_prompt_lengths_that_a_mean_is_taken_over(law, least, most):
    """Six of equal chance, their mean one: the middles of sixths of the law."""
    scenario = load(paths.SCENARIOS / "mixtral_tp4.yaml").with_(batch_size=None, max_concurrency=8, lengths=law)
    found = relative_lengths(scenario.workload)
    assert found.mean() == pytest.approx(1.0) and len(found) == (1 if law["kind"] == "fixed" else 6)
    assert (found.min(), found.max()) == pytest.approx((least, most), rel=2e-3)
