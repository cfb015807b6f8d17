"""Side by side and parameter by parameter: shared errors cancel, elasticities are those of the physics."""

import json
import subprocess
import sys
from math import log

import numpy as np
import pytest

import moesim
from moesim.explore.compare import compare, operation_seconds
from moesim.explore.likelihood import Draws, better, terms, worth_knowing
from moesim.explore.tornado import tornado
from moesim.hardware.catalogue import load_hardware


@pytest.fixture(scope="module")
def mixtral():
    return moesim.load("mixtral_tp4")


# Errors


def test_a_scenario_against_itself_differs_in_nothing(mixtral):
    found = compare(mixtral, mixtral)
    assert found.settings == ()
    for one in found.metrics:
        assert (one.ratio, one.low, one.high) == (1.0, pytest.approx(1.0), pytest.approx(1.0))
    assert all(one.first_s == one.second_s for one in found.times)


def test_shared_errors_cancel(mixtral):
    """The same kernels on a GPU twice as fast: the ratio is known better than either."""
    found = compare(mixtral, mixtral.with_(batch_size=48))
    one = next(m for m in found.metrics if m.metric == "mean_tpot_ms")
    own = log(one.first.high / one.first.low)
    assert log(one.high / one.low) < 0.5 * own


def test_different_kernels_do_not_cancel(mixtral):
    found = compare(mixtral, mixtral.with_(quantization="fp8"))
    one = next(m for m in found.metrics if m.metric == "mean_tpot_ms")
    assert one.low < one.ratio < one.high
    assert log(one.high / one.low) > 0.2
    assert found.settings == (("engine.quantization", None, "fp8"),)
    assert one.chance > 0.9


def test_draws_have_the_interval_of_the_metric(mixtral):
    prediction = moesim.predict(mixtral)
    draws = Draws(20_000)
    values = prediction["mean_tpot_ms"] * draws.factors(terms(prediction, "mean_tpot_ms"))
    low, high = np.quantile(values, [0.05, 0.95])
    metric = prediction.metrics["mean_tpot_ms"]
    assert low == pytest.approx(metric.low, rel=0.02)
    assert high == pytest.approx(metric.high, rel=0.02)


def test_a_throughput_errs_the_other_way(mixtral):
    prediction = moesim.predict(mixtral)
    time, rate = terms(prediction, "mean_e2el_ms"), terms(prediction, "output_throughput")
    assert {name: (-low, -high) for name, (low, high) in time.items()} == rate


def test_operations_add_up(mixtral):
    prediction = moesim.predict(mixtral)
    assert sum(operation_seconds(prediction.cost).values()) == pytest.approx(prediction.cost.seconds)


def test_the_better_of_draws():
    one, other = np.array([1.0, 3.0, np.inf, np.inf]), np.array([2.0, 2.0, 5.0, np.inf])
    assert better([one, other], higher=False).tolist() == [0, 1, 1, -1]
    assert better([-one, -other], higher=True).tolist() == [0, 1, 1, -1]


def test_knowing_what_decides_is_worth_more():
    draws = Draws()
    noise, cause = draws.of("noise"), draws.of("cause")
    values = [np.exp(0.5 * cause), np.exp(0.01 * noise)]
    found = [{"cause": (-0.5, 0.5)}, {"noise": (-0.01, 0.01)}]
    ranked = worth_knowing(values, False, draws, found)
    assert ranked[0][0] == "cause"
    assert ranked[0][1] > 0.85 > ranked[1][1]


# GPUs that do not exist


def test_a_changed_gpu():
    plain, fast = load_hardware("h100-sxm"), load_hardware("h100-sxm[hbm_bandwidth*1.5, dense*2]")
    assert fast.gpu.hbm_bandwidth.value == pytest.approx(1.5 * plain.gpu.hbm_bandwidth.value)
    assert fast.gpu.dense_fp8.value == 2 * plain.gpu.dense_fp8.value
    assert fast.gpu.memory == plain.gpu.memory
    pod = load_hardware("8xh100-sxm[link*2]")
    assert pod.links.gpu_to_gpu.value == 2 * load_hardware("8xh100-sxm").links.gpu_to_gpu.value


def test_a_gpu_keeps_one_processor():
    small = load_hardware("h100-sxm[sm_count*0.001]")
    assert small.gpu.sm_count.value == 1
    slow = moesim.load("olmoe").with_(hardware="h100-sxm[sm_count*0.001]")
    assert moesim.predict(slow)["mean_tpot_ms"] > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("h100-sxm[speed*2]", "'speed' is no figure of a GPU; there are sm_count"),
        ("h100-sxm[hbm_bandwidth]", "FIELD\\*FACTOR"),
        ("h100-sxm[hbm_bandwidth*0]", "FIELD\\*FACTOR"),
        ("h101[hbm_bandwidth*2]", "h101"),
        ("h100-sxm[dense*2, dense*3]", "'dense' is changed twice"),
    ],
)
def test_a_change_that_is_none(name, said):
    with pytest.raises(moesim.SpecError, match=said):
        load_hardware(name)


def test_more_bandwidth_is_never_slower(mixtral):
    before = moesim.predict(mixtral)["mean_tpot_ms"]
    for factor in (1.1, 1.5, 3.0):
        now = moesim.predict(mixtral.with_(hardware=f"h100-sxm[hbm_bandwidth*{factor}]"))
        assert now["mean_tpot_ms"] < before
        assert any("does not exist" in note for note in now.knowledge.notes)
        before = now["mean_tpot_ms"]


# Parameter by parameter


def test_decode_bound_by_memory_moves_with_it(mixtral):
    found = tornado(mixtral, "mean_tpot_ms")
    arms = {arm.parameter: arm for arm in found.arms}
    assert arms["model num_hidden_layers"].elasticity == pytest.approx(1.0, abs=0.05)
    assert -1.0 < arms["GPU hbm_bandwidth"].elasticity < -0.5
    assert abs(arms["GPU dense_bf16"].elasticity) < 0.1
    assert not arms["GPU nic"].moves
    sizes = [abs(arm.elasticity) for arm in found.arms]
    assert sizes == sorted(sizes, reverse=True)


def test_prefill_bound_by_arithmetic_moves_with_it(mixtral):
    arms = {arm.parameter: arm for arm in tornado(mixtral, "mean_ttft_ms").arms}
    assert arms["GPU dense_bf16"].elasticity < -0.3
    assert abs(arms["GPU hbm_bandwidth"].elasticity) < abs(arms["GPU dense_bf16"].elasticity)


def test_tables_of_both(mixtral):
    table = tornado(mixtral, "mean_tpot_ms", by=0.2).to_frame()
    assert {"parameter", "elasticity"} <= set(table.columns)
    assert set(compare(mixtral, mixtral.with_(tp=8)).to_frame()["metric"]) >= {"mean_ttft_ms", "output_throughput"}


def test_what_cannot_be_moved(mixtral):
    with pytest.raises(moesim.SpecError, match="'p99_ttft_ms' is not a metric of this prediction"):
        tornado(mixtral, "p99_ttft_ms")
    with pytest.raises(moesim.SpecError, match="no share"):
        tornado(mixtral, by=1.5)


# The command line


def run(*words):
    return subprocess.run([sys.executable, "-m", "moesim", *words], capture_output=True, text=True, check=False)


def test_compare_says_which_and_why(tmp_path):
    table = tmp_path / "both.csv"
    found = run("compare", "mixtral_tp4", "--b", "tp=8", "--osl", "64", "-o", table)
    assert found.returncode == 0, found.stderr
    assert "engine.tensor_parallel_size  4 -> 8" in found.stdout
    assert "most of it experts in prefill" in found.stdout
    assert table.read_text().startswith("metric,first,second,ratio")
    data = json.loads(run("compare", "mixtral_tp4", "mixtral_tp4_ep4", "--json").stdout)
    assert {one["name"] for one in data["settings"]} >= {"engine.enable_expert_parallel"}


def test_tornado_writes_a_picture(tmp_path):
    picture = tmp_path / "tornado.svg"
    found = run("tornado", "mixtral_tp4", "--osl", "64", "--picture", picture, "--by", "20%", "--jobs", "1")
    assert found.returncode == 0, found.stderr
    assert "GPU hbm_bandwidth" in found.stdout
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "mixtral_tp4"], "nothing to compare"),
        (["compare", "mixtral_tp4", "olmoe", "dbrx"], "'dbrx' is not expected here"),
        (["compare", "mixtral_tp4", "--b", "tpp=8"], "'tpp' is not a setting"),
        (["tornado", "mixtral_tp4", "--by", "much"], "'much' is not a share"),
        (["tornado", "mixtral_tp4", "--picture", "x.gif"], "must end in .png or .svg"),
        (["tornado", "mixtral_tp4", "--top", "0"], "not a number of rows"),
        (["tornado", "mixtral_tp4", "--metric", "p99_ttft_ms"], "'p99_ttft_ms' is not a metric of this prediction"),
    ],
)
def test_bad_words_are_refused(words, said):
    found = run(*words)
    assert found.returncode == 2
    assert said in found.stderr and "Traceback" not in found.stderr


def test_equal_ones_are_called_the_same(capsys):
    from moesim.cli.main import main

    assert main(["compare", "mixtral_tp4", "mixtral_tp4", "--osl", "4"]) == 0
    out = capsys.readouterr().out
    assert "output tok/s the same, TPOT the same, TTFT the same\n" in out and "worse" not in out


def test_a_fitted_link_moves_with_the_card():
    plain = moesim.load("mixtral_offloading_rtx_a6000")
    fast = plain.with_(hardware="rtx-a6000[host_link*2]")
    assert moesim.predict(fast)["mean_tpot_ms"] < moesim.predict(plain)["mean_tpot_ms"]
