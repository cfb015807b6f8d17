"""recommend: floors are floors, nothing is lost from the count, and the answer is what predict says."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moesim
from moesim import paths
from moesim.explore.likelihood import Draws, worth_knowing
from moesim.explore.recommend import bounds, recommend
from moesim.explore.recommend.asked import asked
from moesim.explore.recommend.chances import _drawn, chances
from moesim.explore.recommend.estimate import Estimate, Excluded, estimates
from moesim.explore.recommend.measures import MEASURES, canonical, limit, objective
from moesim.explore.recommend.simulate import broken, simulated
from moesim.explore.recommend.space import Deployment, Engine, Space, deployments, engines
from moesim.inputs.model_of import model_of
from moesim.inputs.prices_file import Price, prices_of
from moesim.metrics import Metric
from moesim.prediction import predict_steady


@pytest.fixture(scope="module")
def base():
    return moesim.Scenario.model_validate({
        "model": "Qwen3-30B-A3B", "hardware": "h100-sxm",
        "workload": {"max_concurrency": 16, "input_len": 512, "output_len": 64},
    })  # fmt: skip


def question(scenario, **changes):
    given = {
        "minimize": "cost", "maximize": None, "where": [], "models": [], "hardware": ["h100-sxm", "l40s"],
        "gpus": (1, 4), "formats": ["published", "fp8"], "drafts": [], "settings": {}, "apart": True, "prices": None,
        "usd_per_gpu_hour": None, "whole_instances": True, "quality": None,
    }  # fmt: skip
    return asked(scenario, **(given | changes))


@pytest.fixture(scope="module")
def small(base):
    return recommend(
        base, hardware=["h100-sxm", "l40s"], gpus=(1, 4), formats=["published", "fp8"], where=["tpot <= 7 ms"],
        finalists=6,
    )  # fmt: skip


# What is considered


def test_every_legal_plan_is_considered_once(base):
    space = question(base).space
    found = list(engines(space, base))
    assert len(found) == len(set(found))
    shapes = {(e.tp, e.pp, e.dp) for e in found if e.gpu == "nvidia-h100-sxm5-80gb"}
    assert shapes == {(t, p, d) for t in range(1, 5) for p in range(1, 5) for d in range(1, 5)
                      if t * p * d <= 4 and t in (1, 2, 4)}  # fmt: skip
    backends = {e.backend for e in found if e.gpu == "nvidia-l40s-48gb"}
    assert backends == {None, "allgather_reducescatter"}


def test_a_format_the_checkpoint_has_already_is_not_tried_twice(base):
    space = Space(("gpt-oss-120b",), (None, "mxfp4", "fp8"), ("nvidia-h100-sxm5-80gb",), 1, 1, (0,), True)
    assert {e.quantization for e in engines(space, base)} == {None, "fp8"}


def test_deployments_of_an_engine(base):
    space = question(base).space
    engine = Engine("Qwen3-30B-A3B", None, "nvidia-h100-sxm5-80gb", 1, 1, 1, False, None, 0)
    found = list(deployments(space, engine))
    assert [d.replicas for d in found if not d.prefill] == [1, 2, 3, 4]
    apart = {(d.prefill, d.replicas) for d in found if d.prefill}
    assert apart == {(p, d) for p in range(1, 4) for d in range(1, 4) if p + d <= 4}
    assert all(d.gpus <= 4 for d in found)


def test_engines_beyond_a_node_are_whole_nodes(base):
    space = question(base, gpus=(1, 16)).space
    worlds = {e.world for e in engines(space, base)}
    assert worlds == {1, 2, 3, 4, 5, 6, 7, 8, 16}
    beyond = next(e for e in engines(space, base) if e.world == 16)
    assert Deployment(beyond).hardware == f"16x{beyond.gpu}"


def test_a_peer_s_plans_are_among_them(base):
    """What aggregated and disaggregated tuners propose for eight H100: TP, TP+EP, attention DP with EP, xPyD."""
    space = question(base, gpus=(1, 8)).space
    names = {d.describe() for e in engines(space, base) for d in deployments(space, e)}
    for plan in (
        "TP8", "TP4", "2 x TP4", "TP4 EP4", "DP8 EP8 deepep_low_latency", "TP2 DP4 EP8 allgather_reducescatter",
        "1P1D of TP4", "2P1D of TP2", "1P3D of TP2 EP2",
    ):  # fmt: skip
        assert plan in names


# Bounds


@settings(max_examples=25, deadline=None)
@given(
    pick=st.integers(0, 10_000),
    load=st.sampled_from([{"max_concurrency": 16}, {"request_rate": 5.0, "max_concurrency": None}]),
)
def test_no_estimate_is_better_than_its_floor(base, pick, load):
    scenario = base.with_(**load)
    asked_for = question(scenario, minimize="energy")
    found = list(engines(asked_for.space, scenario))
    engine = found[pick % len(found)]
    model = model_of(scenario).under(engine.quantization)
    for one in estimates(asked_for, engine, list(deployments(asked_for.space, engine))):
        if isinstance(one, Excluded):
            continue
        price = asked_for.usd_per_hour(one.deployment)
        for measure, value in one.values.items():
            if measure in {"gpu_memory", "watts"}:
                continue
            best = bounds.optimistic(measure, one.deployment, model, scenario.workload, price)
            if MEASURES[measure].higher:
                assert value <= best * (1 + 1e-9), (measure, one.deployment)
            else:
                assert value >= best * (1 - 1e-9), (measure, one.deployment)


def test_weights_that_exceed_the_memory_do_not_fit(base):
    model = model_of(base.with_(model="Qwen3-235B-A22B"))
    one = Engine("Qwen3-235B-A22B", None, "nvidia-h100-sxm5-80gb", 4, 1, 1, False, None, 0)
    assert not bounds.fits(one, model)
    assert bounds.fits(one._replace(tp=8), model)
    assert bounds.weights(model).held == pytest.approx(2 * (235.1e9 - 2 * 151936 * 4096), rel=0.001)


# Estimates


def test_an_estimate_is_the_steady_state(base):
    long = base.with_(output_len=512)
    asked_for = question(long)
    engine = Engine("Qwen3-30B-A3B", None, "nvidia-h100-sxm5-80gb", 2, 1, 1, False, None, 0)
    one, two = estimates(asked_for, engine, [Deployment(engine), Deployment(engine, 2)])
    assert isinstance(one, Estimate) and isinstance(two, Estimate)
    steady = predict_steady(long.with_(tensor_parallel_size=2))
    assert one.values["mean_tpot"] == pytest.approx(steady["mean_tpot_ms"] / 1e3, rel=0.01)
    assert one.values["output_throughput"] == pytest.approx(steady["output_throughput"], rel=0.01)
    half = predict_steady(long.with_(tensor_parallel_size=2, max_concurrency=8))
    assert two.values["output_throughput"] == pytest.approx(2 * half["output_throughput"], rel=0.01)
    assert two.values["usd_per_hour"] == 2 * one.values["usd_per_hour"]


@pytest.mark.parametrize("prefill", [0, 1])
def test_estimates_are_near_simulations(base, prefill):
    asked_for = question(base)
    engine = Engine("Qwen3-30B-A3B", None, "nvidia-h100-sxm5-80gb", 1, 1, 1, False, None, 0)
    deployment = Deployment(engine, 2, prefill)
    (one,) = estimates(asked_for, engine, [deployment])
    run = simulated(asked_for, deployment)
    for name in ("mean_tpot", "output_throughput", "mean_e2el"):
        assert one.values[name] == pytest.approx(run.values[name].value, rel=0.15), name
    assert one.values["p99_ttft"] == pytest.approx(run.values["p99_ttft"].value, rel=0.6)


def test_a_rate_beyond_an_engine_is_excluded(base):
    asked_for = question(base.with_(request_rate=500.0, max_concurrency=None))
    engine = Engine("Qwen3-30B-A3B", None, "nvidia-l40s-48gb", 2, 1, 1, False, None, 0)
    (found,) = estimates(asked_for, engine, [Deployment(engine)])
    assert isinstance(found, Excluded)
    assert found.reason == "cannot keep up with the request rate"


# The answer


def test_nothing_is_lost_from_the_count(small):
    assert small.considered == small.priced + sum(one.count for one in small.exclusions)
    assert small.priced >= len(small.finalists) == 6


def test_the_first_is_the_cheapest_that_keeps_the_limits(small):
    best = small.best
    assert best is not None
    assert best.values["mean_tpot"].value <= 7e-3
    kept = [one for one in small.finalists if one.keeps]
    assert best.values["usd_per_hour"].value == min(one.values["usd_per_hour"].value for one in kept)
    for one in small.finalists[1:]:
        assert one.reason
    assert all(one.broken for one in small.finalists if not one.keeps)


def test_a_finalist_is_what_predict_says(small):
    one = small.finalists[0]
    again = moesim.predict(one.scenario)
    assert one.values["mean_tpot"].value == pytest.approx(again["mean_tpot_ms"] / 1e3)
    assert one.values["output_throughput"].value == pytest.approx(one.engines_like_it * again["output_throughput"])


def test_chances_are_shares(small):
    assert 0.0 <= sum(one.chance for one in small.finalists) <= 1.0 + 1e-9
    assert all(0.0 <= one.chance_kept <= 1.0 for one in small.finalists)
    assert all(chance > max(one.chance for one in small.finalists) for _, chance in small.measure_next)


def test_the_front_falls(small):
    prices = [one.values["usd_per_hour"] for one in small.front]
    latencies = [one.values["mean_e2el"] for one in small.front]
    assert prices == sorted(prices)
    assert latencies == sorted(latencies, reverse=True)


def test_processes_do_not_change_the_answer(base, small):
    again = recommend(
        base, hardware=["h100-sxm", "l40s"], gpus=(1, 4), formats=["published", "fp8"], where=["tpot <= 7 ms"],
        finalists=6, jobs=2,
    )  # fmt: skip
    assert again.rows() == small.rows()
    assert again.exclusions == small.exclusions


def test_a_frame_has_units(small):
    table = small.to_frame()
    assert len(table) == 6
    assert table.attrs["units"]["mean_ttft"] == "s"
    assert table.attrs["units"]["usd_per_hour_low"] == "$"


def test_limits_that_nothing_keeps_say_what_would(base):
    found = recommend(
        base, hardware=["h100-sxm"], gpus=(1, 2), formats=["fp8"], where=["p99_ttft <= 30 ms"], finalists=4
    )
    assert found.best is None
    assert any(text.startswith("relax p99_ttft <= 30 ms to p99_ttft <= ") for text in found.advice)


def test_quality_decides_where_a_table_says(base, tmp_path):
    table = tmp_path / "quality.csv"
    table.write_text(
        "model,experts_format,attention_format,metric,value,source\n"
        "Qwen3-30B-A3B,bfloat16,bfloat16,mmlu,81.4,made up\nQwen3-30B-A3B,fp8,fp8,mmlu,81.0,made up\n"
        "OLMoE-1B-7B-0924,bfloat16,bfloat16,mmlu,54.1,made up\n"
    )
    asked_of = dict(hardware=["h100-sxm"], gpus=(1, 1), models=["Qwen3-30B-A3B", "OLMoE-1B-7B-0924"], finalists=3)
    cheap = recommend(base, quality=table, formats=["published", "fp8"], minimize="tpot", **asked_of)
    assert cheap.best.deployment.engine.model == "OLMoE-1B-7B-0924"
    good = recommend(
        base, quality=table, formats=["published", "fp8"], minimize="tpot", where=["mmlu >= 81.2"], **asked_of
    )
    assert {one.deployment.engine.model for one in good.finalists} == {"Qwen3-30B-A3B"}
    assert good.best.deployment.engine.quantization is None
    best = recommend(base, quality=table, formats=["published"], maximize="quality", **asked_of)
    assert best.question.objective == "mmlu"
    assert best.best.values["mmlu"].value == 81.4


def test_drafts_are_tried_where_acceptance_is_given(base):
    drafting = {"method": "ngram", "num_speculative_tokens": 2, "acceptance_rate": 0.8}
    scenario = base.with_(speculative_config=drafting)
    found = recommend(scenario, hardware=["h100-sxm"], gpus=(1, 1), formats=["published"], minimize="tpot", finalists=4)
    assert found.considered == 6
    assert found.best.deployment.engine.drafts > 0


# Words


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("p99_ttft <= 1 s", "p99_ttft", 1.0),
        ("p99_ttft_ms <= 1000", "p99_ttft", 1.0),
        ("TTFT<=300 ms", "mean_ttft", 0.3),
        ("cost <= $12", "usd_per_hour", 12.0),
        ("usd_per_million_tokens < 0.5", "usd_per_million_tokens", 0.5),
        ("watts <= 3 kW", "watts", 3000.0),
        ("throughput >= 2000", "output_throughput", 2000.0),
        ("gpu_memory <= 60 GiB", "gpu_memory", 60 * 2**30),
    ],
)
def test_limits_as_people_write_them(text, name, value):
    found = limit(text, ())
    assert (found.metric, found.limit) == (name, pytest.approx(value))


def test_short_names():
    assert canonical("goodput") == "request_throughput"
    assert canonical("mean-ttft") == "mean_ttft"
    with pytest.raises(moesim.SpecError, match="'beauty' is not a measure"):
        objective("beauty", (), "--minimize")
    with pytest.raises(moesim.SpecError, match="--quality"):
        objective("quality", (), "--maximize")


def test_every_problem_at_once(base):
    with pytest.raises(moesim.SpecError) as error:
        question(
            base.with_(batch_size=4), hardware=["h101"], gpus=(4, 2), formats=["fp3"], drafts=[2], where=["joy <= 1"]
        )
    text = str(error.value)
    for said in (
        "static batch",
        "h101",
        "4-2 is no range",
        "'fp3' is not a weight format",
        "speculative_config",
        "joy",
    ):
        assert said in text


def test_broken_limits_are_sentences(small):
    found = broken(small.finalists[0].values, (limit("p99_ttft <= 1 ms", ()),))
    assert found[0].startswith("p99_ttft is ") and found[0].endswith(", above 1 ms")


# The command line


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "moesim", "recommend", *words], capture_output=True, text=True, check=False
    )


def test_the_command_answers_and_writes(tmp_path):
    scenario, table = tmp_path / "best.yaml", tmp_path / "all.csv"
    words = ["--model", "Qwen3-30B-A3B", "--users", "16", "--isl", "512", "--osl", "64", "--gpu", "h100-sxm"]
    found = run(*words, "--gpus", "1-2", "--formats", "fp8", "--simulate", "3", "-o", scenario, "--table", table)
    assert found.returncode == 0, found.stderr
    assert "configurations considered" in found.stdout
    assert "vllm serve Qwen3-30B-A3B" in found.stdout and "docker run" in found.stdout
    assert "flags that matter there" in found.stdout
    assert moesim.load(scenario).engine.quantization == "fp8"
    assert table.read_text().startswith("model,quantization,gpu,gpus,plan")


def test_the_command_as_data():
    words = ["--model", "Qwen3-30B-A3B", "--users", "16", "--gpu", "h100-sxm", "--gpus", "1", "--formats", "fp8"]
    found = run(*words, "--simulate", "2", "--json", "--no-flags", "--minimize", "tpot")
    assert found.returncode == 0, found.stderr
    data = json.loads(found.stdout)
    assert data["considered"] == data["priced"] + sum(x["count"] for x in data["excluded"])
    assert data["best"]["serve"].startswith("vllm serve")
    assert "assumed: --input-len 1024, --output-len 256" in found.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--users", "4"], "no scenario"),
        (["--model", "Qwen3-30B-A3B", "--gpu", "h100-sxm", "--gpus", "x"], "'x' is not a number of GPUs"),
        (["--model", "Qwen3-30B-A3B", "--gpu", "h100-sxm", "-o", "nowhere/best.yaml"], "there is no folder"),
        (["--model", "Qwen3-30B-A3B", "--gpu", "h100-sxm", "--backend", "dusk"], "'dusk' is not a backend"),
        (["--model", "Qwen3-30B-A3B", "--gpu", "h20", "--minimize", "cost"], "no price is known"),
    ],
)
def test_bad_questions_are_refused(words, said):
    found = run(*words)
    assert found.returncode == 2
    assert said in found.stderr
    assert "Traceback" not in found.stderr


def test_a_gpu_that_does_not_exist_keeps_what_makes_it_so(base):
    cards = ["h100-sxm", "h100-sxm[hbm_bandwidth*2]"]
    found = recommend(base, hardware=cards, gpus=(1, 1), formats=["fp8"], minimize="tpot", finalists=2)
    first, second = found.finalists
    assert first.deployment.engine.gpu == "h100-sxm[hbm_bandwidth*2]"
    assert first.values["mean_tpot"].value < second.values["mean_tpot"].value
    assert first.values["usd_per_hour"].value == second.values["usd_per_hour"].value


def test_where_nothing_can_be_it_says_why(base):
    found = recommend(base.with_(request_rate=900.0, max_concurrency=None), hardware=["h100-sxm"], gpus=(1, 1))
    assert found.finalists == () and found.best is None
    assert "cannot keep up with the request rate" in found.advice[0]
    assert str(found).count("configurations considered") == 1


def test_a_gpu_without_a_price_is_counted(base):
    found = recommend(base, hardware=["h100-sxm", "h20"], gpus=(1, 1), formats=["fp8"], finalists=2)
    reasons = {one.reason: one.count for one in found.exclusions}
    assert reasons["usd_per_hour is not known"] == 1
    assert found.considered == found.priced + sum(reasons.values())


# How sure


def _run(question, gpus, watts=(500.0, 450.0, 550.0)):
    """A run of so many GPUs, all else alike."""
    engine = Engine("Qwen3-30B-A3B", None, "nvidia-h100-sxm5-80gb", 1, 1, 1, False, None, 0)
    one = simulated(question, Deployment(engine))
    values = one.values | {
        "gpus": Metric(gpus, gpus, gpus), "watts": Metric(*watts),
        "usd_per_hour": Metric(2.0 * gpus, 2.0 * gpus, 2.0 * gpus),
    }  # fmt: skip
    return one._replace(deployment=Deployment(engine, gpus), values=values)


@pytest.fixture(scope="module")
def alone(base):
    return question(base, formats=["published"], apart=False)


@pytest.mark.parametrize(("text", "kept"), [("gpus > 1", (0.0, 1.0)), ("gpus >= 1", (1.0, 1.0)),
                                            ("gpus < 2", (1.0, 0.0)), ("gpus <= 2", (1.0, 1.0))])  # fmt: skip
def test_a_strict_limit_is_drawn_as_one(alone, text, kept):
    asked_for = replace(alone, limits=(limit(text, ()),))
    found = chances(asked_for, [_run(asked_for, 1), _run(asked_for, 2)])
    assert found.kept == kept
    # The cheapest of those that keep it.
    first = kept.index(1.0)
    assert found.best[first] == 1.0


def test_a_limit_on_watts_hangs_on_what_is_known_of_power(alone):
    asked_for = replace(alone, limits=(limit("watts <= 500 W", ()),))
    found = chances(asked_for, [_run(asked_for, 1)])
    assert found.kept[0] == pytest.approx(0.5, abs=0.03)
    sure = replace(alone, limits=(limit("watts <= 550 W", ()),))
    assert chances(sure, [_run(sure, 1)]).kept[0] == pytest.approx(0.95, abs=0.02)


def test_power_and_speed_both_move_joules(alone):
    of: dict = {}
    run, draws = _run(alone, 1), Draws()
    drawn = _drawn(run, "joules_per_output_token", draws, of)
    assert set(of) == {"watts", "output_throughput"}
    low, high = np.quantile(drawn / run.values["joules_per_output_token"].value, [0.05, 0.95])
    assert low < 0.9 and high > 1.1


def test_what_was_measured_has_no_power_of_nothing():
    """Where nothing keeps the limits nothing chosen is right, and a term that decides nothing is worth nothing."""
    draws = Draws()
    z, other = draws.of("decides"), {"decides": (-0.1, 0.1), "idle": (-0.1, 0.1)}
    never = np.full(draws.count, np.inf)
    found = dict(worth_knowing([np.where(z > 1.0, 1.0, np.inf), never], False, draws, [other]))
    share = float(np.mean(z > 1.0))
    assert found["idle"] == pytest.approx(share, abs=0.005)
    assert found["decides"] == pytest.approx(share, abs=0.005)
    values = [np.where(z > 0, 1.0, 2.0), np.full(draws.count, 1.5)]
    found = dict(worth_knowing(values, False, draws, [other]))
    assert found["decides"] > 0.85
    assert found["idle"] == pytest.approx(0.5, abs=0.02)


# Which way is better


def test_a_flag_says_which_way_a_quality_is_better(base, tmp_path):
    table = tmp_path / "quality.csv"
    table.write_text(
        "model,experts_format,attention_format,metric,value,source\n"
        "Qwen3-30B-A3B,bfloat16,bfloat16,gsm8k,90,mine\nQwen3-30B-A3B,fp8,fp8,gsm8k,80,mine\n"
    )
    best = [
        recommend(base, hardware=["h100-sxm"], gpus=(1, 2), formats=["published", "fp8"], quality=table, finalists=3,
                  apart=False, **way).finalists[0].deployment.engine.quantization
        for way in ({"maximize": "gsm8k"}, {"maximize": "quality"}, {"minimize": "gsm8k"})
    ]  # fmt: skip
    assert best == [None, None, "fp8"]


@pytest.mark.parametrize(("way", "said"), [
    ({"maximize": "ttft"}, "'ttft' is better the lower it is; give --minimize"),
    ({"minimize": "throughput"}, "'throughput' is better the higher it is; give --maximize"),
    ({"minimize": "quality"}, "give --maximize"),
])  # fmt: skip
def test_a_flag_that_contradicts_a_measure_is_refused(base, way, said):
    with pytest.raises(moesim.SpecError, match=said):
        question(base, **{"minimize": None} | way)


# What is asked


def test_a_user_s_own_gpu_is_found_again(base, tmp_path):
    own = tmp_path / "mine.yaml"
    text = (paths.HWSPECS / "nvidia-h100-sxm5-80gb.yaml").read_text()
    own.write_text(re.sub(r"(?m)^name:.*$", "name: my-card", text))
    asked_for = question(base, hardware=[str(own), "h100-sxm"], usd_per_gpu_hour=2.0)
    assert asked_for.space.gpus == (str(own), "nvidia-h100-sxm5-80gb")
    found = recommend(base, hardware=[str(own)], gpus=(1, 2), formats=["published"], usd_per_gpu_hour=2.0, finalists=2)
    assert found.best is not None


def test_quality_is_of_the_model_as_it_runs(base):
    mixtral = base.with_(model="mixtral-8x7b")
    whole = question(mixtral, models=["mixtral-8x7b"]).quality["mixtral-8x7b"]
    assert whole
    for changed in ({"variant": {"pruned_experts": 0.5}}, {"engine__hf_overrides": {"num_hidden_layers": 16}}):
        assert not question(mixtral.with_(**changed), models=["mixtral-8x7b"]).quality["mixtral-8x7b"]


def test_a_model_named_twice_is_one(base):
    assert question(base, models=["Qwen3-30B-A3B", "qwen3-30b-a3b", "mixtral-8x7b"]).space.models == (
        "Qwen3-30B-A3B", "mixtral-8x7b",
    )  # fmt: skip


def test_drafts_beyond_what_is_known_are_refused_each(base):
    drafting = base.with_(engine__speculative_config={
        "method": "draft_model", "model": "Qwen3-1.7B", "num_speculative_tokens": 2, "acceptance_rates": [0.8, 0.6],
    })  # fmt: skip
    assert question(drafting).space.drafts == (0, 1, 2)
    assert question(drafting, drafts=[1, 1, 2]).space.drafts == (1, 2)
    with pytest.raises(moesim.SpecError) as refused:
        question(drafting, drafts=[1, 3, 4])
    assert [p.message[:8] for p in refused.value.problems] == ["3 drafts", "4 drafts"]


def test_engines_without_work_are_counted(base):
    few = base.with_(max_concurrency=None, request_rate=2.0, num_prompts=2)
    asked_for = question(few, formats=["published"], apart=False)
    engine = Engine("Qwen3-30B-A3B", None, "nvidia-h100-sxm5-80gb", 1, 1, 1, False, None, 0)
    _, two, three = estimates(asked_for, engine, [Deployment(engine, n) for n in (1, 2, 3)])
    assert isinstance(two, Estimate)
    assert isinstance(three, Excluded) and "without" in three.reason
    run = simulated(asked_for, two.deployment)
    assert run.engines_like_it == 2


def test_a_prompt_passes_the_head_once(base):
    model = model_of(base)
    need = bounds.weights(model)
    assert need.prompt_flop(1) == need.flop
    body = need.flop - 2.0 * model.vocab_size * model.hidden_size
    assert need.prompt_flop(1000) == pytest.approx(1000 * body + need.head_flop)


def test_whole_numbers_are_suggested_whole(base):
    found = recommend(base, hardware=["h100-sxm"], gpus=(1, 2), formats=["published"], where=["gpus > 2"], finalists=2)
    assert found.advice == ("relax gpus > 2 to gpus >= 2",)


# Other settings of the engine


def test_other_settings_are_choices(base):
    axes = {"kv_cache_dtype": ["auto", "fp8"], "max_num_batched_tokens": [2048, 8192, 2048]}
    space = question(base, settings=axes, formats=["published"], gpus=(1, 1)).space
    assert len(space.settings) == 4
    found = recommend(base, hardware=["h100-sxm"], gpus=(1, 1), formats=["published"], settings=axes,
                      minimize="usd_per_million_tokens", finalists=4)  # fmt: skip
    assert found.considered == 4
    assert {(row["kv_cache_dtype"], row["max_num_batched_tokens"]) for row in found.rows()} == {
        (kv, tokens) for kv in ("auto", "fp8") for tokens in (2048, 8192)
    }
    assert found.best is not None
    assert found.best.scenario.engine.kv_cache_dtype == dict(found.best.deployment.engine.own)["kv_cache_dtype"]


@pytest.mark.parametrize(("axes", "said"), [
    ({"tp": [1, 2]}, "the plan decides it"), ({"quantization": ["fp8"]}, "--formats decides it"),
    ({"users": [4]}, "not a setting of an engine"), ({"kv_cache_dtype": ["fp9"]}, "found 'fp9'"),
    ({"kv_cache_dtype": []}, "no values"),
])  # fmt: skip
def test_settings_that_are_no_choice(base, axes, said):
    with pytest.raises(moesim.SpecError, match=said):
        question(base, settings=axes)


def test_all_priced_gpus_where_none_is_named(capsys):
    from moesim.cli.main import main

    words = [
        "recommend",
        "--model",
        "OLMoE-1B-7B-0924",
        "--users",
        "4",
        "--osl",
        "16",
        "--gpus",
        "1",
        "--simulate",
        "2",
    ]
    assert main([*words, "--formats", "published", "--no-flags", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["considered"] > 5


# Rent, and rates


def test_instances_are_rented_whole(base):
    whole, alone = question(base, hardware=["h200-sxm"]), question(base, hardware=["h200-sxm"], whole_instances=False)
    engine = Engine("Qwen3-30B-A3B", None, "nvidia-h200-sxm-141gb", 1, 1, 1, False, None, 0)
    each = alone.usd_per_hour(Deployment(engine))
    assert all(price.gpus == 8 for price in prices_of("nvidia-h200-sxm-141gb"))
    assert [whole.usd_per_hour(Deployment(engine, n)) for n in (1, 8, 9)] == pytest.approx(
        [8 * each, 8 * each, 16 * each]
    )
    assert alone.usd_per_hour(Deployment(engine, 3)) == pytest.approx(3 * each)


def test_the_cheapest_rent_depends_on_how_many():
    one, eight = Price("x", "A", "1 GPU", 4.0, "", "s", 1), Price("x", "B", "8x", 2.0, "", "s", 8)
    assert [min((one, eight), key=lambda price: price.hourly(n)).provider for n in (1, 3, 4, 5, 8)] == list("AAABB")


def test_a_rate_that_is_kept_up_with_is_the_throughput(base):
    """Ramp and tail of a simulated run are nobody's service."""
    rate = question(base.with_(request_rate=4.0, max_concurrency=None), formats=["published"])
    engine = Engine("Qwen3-30B-A3B", None, "nvidia-h100-sxm5-80gb", 1, 1, 1, False, None, 0)
    found = {n: simulated(rate, Deployment(engine, n)).values for n in (1, 2)}
    for values in found.values():
        assert values["output_throughput"].value == 4.0 * 64
        assert values["output_throughput"].low == values["output_throughput"].high
        dollars = values["usd_per_hour"].value / 3600 / (4.0 * (512 + 64)) * 1e6
        assert values["usd_per_million_tokens"].value == pytest.approx(dollars)
    watts = found[1]["watts"].value
    assert found[1]["joules_per_output_token"].value == pytest.approx(watts / (4.0 * 64), rel=0.02)


def test_gpus_may_be_one_number(base):
    assert question(base, gpus=3).space.most == 3
    with pytest.raises(moesim.SpecError, match="no range of GPUs"):
        question(base, gpus=0)
