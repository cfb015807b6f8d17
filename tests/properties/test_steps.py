"""One pricer: a step's table and its tree agree over every shipped scenario, halves and pipelines included."""

import numpy as np
import pytest

from moesim import DoesNotFit, load, paths, predict
from moesim.assembly import assemble
from moesim.serving.engine import step_table
from moesim.steps.pipeline import whole_step
from moesim.steps.table import Composition, StepTable

SCENARIOS = sorted(paths.SCENARIOS.rglob("*.yaml"))
STEPS = (
    Composition((), 1, 100, 1),
    Composition((), 33, 1000.5, 33),
    Composition((), 200, 5000.0, 200),
    Composition(((700, 0),), 20, 3000, 21),
    Composition(((2048, 0), (100, 4096)), 0, 0, 1),
    Composition(((1, 5),), 5, 100, 6),
    Composition(((1537, 0),), 64, 2000.0, 65),
)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_table_and_tree_agree(path):
    steps = assemble(load(path)).steps.resident
    if steps.rank.model.has_encoder:
        pytest.skip("an encoder-decoder model runs static batches alone, which use no table")
    table = step_table(steps)
    for held in STEPS:
        tree = whole_step(steps, "step", steps.load(held.groups()), held.sampled)
        assert float(table.time([held]).through) == pytest.approx(float(tree.seconds), rel=1e-3), held
        assert float(table.time([held]).through) == pytest.approx(float(tree.seconds), rel=1e-12), held


@pytest.mark.parametrize("overrides", [{}, {"enforce_eager": True}, {"enforce_eager": True, "async_scheduling": False}])
def test_a_stretch_of_steps_is_its_steps(overrides):
    table = StepTable(assemble(load(paths.SCENARIOS / "mixtral_tp2_pp2.yaml", overrides)).steps)
    contexts = np.array([10.0, 700.0, 9000.0])
    together = table.time([Composition((), 4, contexts, 4)])
    for i, context in enumerate(contexts):
        alone = table.time([Composition((), 4, context, 4)])
        assert together.through[i] == pytest.approx(float(alone.through)) and alone.slowest <= alone.through


def test_lockstep_takes_the_slowest_replica():
    table = StepTable(assemble(load(paths.SCENARIOS / "qwen3_235b_dp8_ep8.yaml")).steps)
    small, large = Composition((), 4, 100.0, 4), Composition(((900, 0),), 4, 100.0, 5)
    both, alone = table.time([small, large]).through, table.time([large]).through
    assert table.time([large, large]).through == pytest.approx(float(alone))
    # Dense parts wait for the fuller replica; what is routed comes from both.
    assert table.time([small]).through < both < alone


# Dual-batch overlap under load: attention leaves two halves and comes back in halves.


def test_overlap_under_load_is_that_of_the_step_model():
    table = StepTable(assemble(load(paths.SCENARIOS / "deepseek_v3_overlap.yaml")).steps)
    assert 1e3 * table.time([Composition(((4000, 0),), 0, 0, 1)]).through == pytest.approx(721.47, abs=0.01)
    # A prompt of 400 tokens is below the threshold of prompts, above that of decodes: not split.
    assert 1e3 * table.time([Composition(((400, 0),), 0, 0, 1)]).through == pytest.approx(122.34, abs=0.01)


# Pipelines


@pytest.mark.parametrize("stages", [2, 4])
def test_time_to_first_token_never_falls_when_tokens_are_added(stages):
    lengths = (1, 64, 4000, 8191, 8192, 8200, 8400, 12_000, 16_384, 16_385, 20_000, 24_600)
    base = load(paths.SCENARIOS / "mixtral_tp2_pp2.yaml", {"pp": stages, "batch_size": 1, "output_len": 2})
    times = [predict(base.with_(input_len=n))["mean_ttft_ms"] for n in lengths]
    assert times == sorted(times)


@pytest.mark.parametrize("stages", [2, 3, 4, 8])
def test_a_pipeline_with_one_client_drains_and_goes_on(stages):
    overrides = {"pp": stages, "tp": 1, "conc": 1, "input_len": 256, "output_len": 16}
    result = predict(load(paths.SCENARIOS / "mixtral_tp2_pp2.yaml", overrides))
    assert result.report.answered == 10
    alone = load(paths.SCENARIOS / "mixtral_tp2_pp2.yaml", overrides | {"conc": None, "batch_size": 1})
    assert result["mean_tpot_ms"] == pytest.approx(predict(alone)["mean_tpot_ms"], rel=0.05)


def test_eager_pipelines_are_monotone_in_batch_and_bandwidth(tmp_path):
    base = load(paths.SCENARIOS / "mixtral_tp2_pp2.yaml", {"enforce_eager": True, "output_len": 16, "pp": 4, "tp": 1})
    times = [predict(base.with_(batch_size=n))["mean_tpot_ms"] for n in (1, 2, 4, 8, 16, 64)]
    assert np.all(np.diff(times) >= -1e-9)
    slow = (paths.HWSPECS / "nvidia-h100-sxm5-80gb.yaml").read_text().replace("3.35 TB/s", "2.35 TB/s")
    path = tmp_path / "slow.yaml"
    path.write_text(slow)
    for batch in (1, 64):
        fast = predict(base.with_(batch_size=batch))["mean_tpot_ms"]
        assert predict(base.with_(batch_size=batch, hardware=str(path)))["mean_tpot_ms"] >= fast * (1 - 1e-9)


def test_every_stage_waits_for_its_own_launches():
    """Stages launch side by side: an eager pipeline of n stages waits for an n-th of the launches at a time."""
    base = load(paths.SCENARIOS / "mixtral_tp2_pp2.yaml", {"enforce_eager": True, "batch_size": 8, "output_len": 16})
    one, four = (predict(base.with_(pp=n, tp=1, quantization="fp8"))["mean_tpot_ms"] for n in (1, 4))
    assert four < 1.3 * one


# Load


@pytest.mark.parametrize("dp", [1, 2, 4, 8])
def test_replicas_of_a_dense_model_multiply_no_work(dp):
    changes = {"tp": 1, "dp": dp, "conc": 1, "isl": 1024, "osl": 64, "hardware": "dgx-h100"}
    one = predict(load(paths.SCENARIOS / "qwen3_32b_dense.yaml", changes | {"dp": 1}))
    many = predict(load(paths.SCENARIOS / "qwen3_32b_dense.yaml", changes))
    assert many["request_throughput"] == pytest.approx(one["request_throughput"])
    single = predict(load(paths.SCENARIOS / "qwen3_32b_dense.yaml", changes | {"num_prompts": 1}))
    assert single.report.answered == 1


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mixtral_closed_loop", {}),
        ("mixtral_closed_loop", {"conc": 5}),
        ("qwen3_32b_dense", {"tp": 1, "dp": 4, "conc": 6, "isl": 512, "osl": 64, "hardware": "dgx-h100"}),
        ("qwen3_32b_dense", {"tp": 1, "dp": 8, "conc": 3, "isl": 512, "osl": 64, "hardware": "dgx-h100"}),
        ("qwen3_235b_dp8_ep8", {"conc": 32, "isl": 256, "osl": 64}),
        ("mixtral_tp2_pp2", {"conc": 12, "isl": 256, "osl": 64}),
    ],
)
def test_littles_law(name, changes):
    """Requests on the way = answers a second x their end-to-end latency, and no more than there are clients."""
    scenario = load(paths.SCENARIOS / f"{name}.yaml", changes)
    result = predict(scenario)
    on_the_way = result["request_throughput"] * result["mean_e2el_ms"] / 1e3
    clients = scenario.workload.max_concurrency
    assert 0.8 * clients < on_the_way <= clients * (1 + 1e-9)


def test_a_trace_is_shared_out_among_dense_replicas(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_len,output_len\n" + "".join(f"{i * 0.01},200,20\n" for i in range(11)))
    changes = {"tp": 1, "dp": 4, "hardware": "dgx-h100", "workload.trace_file": str(trace)}
    report = predict(load(paths.SCENARIOS / "qwen3_32b_dense.yaml", changes)).report
    assert report.answered == 11 and report.output_tokens == 220


# Intervals of throughput


def relative_width(result):
    metric = result.metrics["request_throughput"]
    return (metric.high - metric.low) / metric.value


def test_arrivals_that_come_at_once_leave_the_pace_to_the_engine(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_len,output_len\n" + "0,500,64\n" * 64)
    burst = predict(load(paths.SCENARIOS / "mixtral_tp4.yaml", {"workload.trace_file": str(trace)}))
    loop = predict(load(paths.SCENARIOS / "mixtral_tp4.yaml", {"conc": 64, "num_prompts": 64, "isl": 500, "osl": 64}))
    assert relative_width(burst) == pytest.approx(relative_width(loop), rel=0.1)


def test_rates_above_capacity_are_as_uncertain_as_the_engine():
    base = {"isl": 512, "osl": 128, "num_prompts": 600, "max_num_seqs": 16}
    over = predict(load(paths.SCENARIOS / "mixtral_tp4.yaml", base | {"request_rate": 100}))
    below = predict(load(paths.SCENARIOS / "mixtral_tp4.yaml", base | {"request_rate": 2}))
    loop = predict(load(paths.SCENARIOS / "mixtral_tp4.yaml", base | {"conc": 16}))
    assert relative_width(over) == pytest.approx(relative_width(loop), rel=0.1)
    assert relative_width(below) < 0.1 * relative_width(over)


def test_does_not_fit_is_still_said():
    with pytest.raises(DoesNotFit):
        predict(load(paths.SCENARIOS / "mixtral_does_not_fit.yaml"))
