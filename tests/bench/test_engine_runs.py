"""Engine runs: what is recorded of an engine, and the run set that comes of it. A fake engine stands in for vLLM."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
import types

import pytest

from moesim import paths
from moesim.bench.engine.plan import batch_points, load_points, read_plan, write_plan
from moesim.bench.engine.runner import measure_engine
from moesim.bench.engine.settings import EngineSettings, memory_point
from moesim.bench.engine.steps import StepLog
from moesim.bench.errors import BenchError, DeviceLost
from moesim.bench.log import Log, rows
from moesim.bench.power import LEAST_S, Meter
from moesim.calibrate import worker
from moesim.calibrate.engine_ask import EngineAsk, model_folder
from moesim.calibrate.engine_measuring import Where, measure_ask
from moesim.calibrate.engine_runs import edge_of, write_runs
from moesim.calibrate.engine_scenario import scenario_data
from moesim.cli import main
from moesim.errors import CalibrationError, SpecError
from moesim.explore.validate import compared_memory, validate
from moesim.inputs.run_file import load_runs
from moesim.report.served import memory_lines
from tests.fake_engine import HERE, STEP_S, FakeEngine, FakeScheduler

SETTINGS = EngineSettings(paths.MODELS / "OLMoE-1B-7B-0924", max_model_len=512, max_num_seqs=16)


def _measured(tmp_path, settings=SETTINGS, grid=((1, 32, 5), (4, 64, 9)), rates=()):
    points = [*batch_points(settings, grid, 2), *(load_points(settings, rates, 6, (40, 8)) if rates else [])]
    path = tmp_path / "points.jsonl"
    with Log(path) as log:
        log.session(HERE)
        measure_engine(settings, points, log, "cuda", time.monotonic() + 60)
    return path, {row["key"]: row for row in rows(path) if "point" in row}, points


def test_a_batch_is_recorded_with_every_step(vllm, tmp_path):
    _, found, points = _measured(tmp_path)
    assert set(found) == {memory_point(SETTINGS).key, *(p.key for p in points)}
    row = found[points[2].key]
    assert len(row["requests"]) == 4 and row["preemptions"] == 0
    steps = row["steps"]
    assert steps["columns"][3] == "prefill_tokens" and len(steps["rows"]) == 9
    first, last = steps["rows"][0], steps["rows"][-1]
    assert first[2:] == [4, 256, 0, 0, 0], "four prompts of 64 tokens, nothing decoding"
    assert last[2:] == [0, 0, 0, 4, 4 * (64 + 7)], "four requests decode after 71 cached tokens each"
    assert all(gap >= STEP_S and latency >= STEP_S for gap, latency, *_ in steps["rows"])
    assert row["mean_itl_s"] >= STEP_S and row["mean_ttft_s"] <= row["mean_e2el_s"]
    assert row["output_throughput"] == pytest.approx(36 / row["took_s"])


def test_a_step_that_checks_drafts_is_no_prompt():
    scheduler = FakeScheduler()
    engine = types.SimpleNamespace(
        engine_core=types.SimpleNamespace(engine_core=types.SimpleNamespace(scheduler=scheduler))
    )
    chosen = types.SimpleNamespace(
        scheduled_new_reqs=[],
        scheduled_cached_reqs=types.SimpleNamespace(req_ids=["a", "b"], num_computed_tokens=[40, 16]),
        num_scheduled_tokens={"a": 4, "b": 8}, total_num_scheduled_tokens=12,
        scheduled_spec_decode_tokens={"a": [1, 2, 3]},
    )  # fmt: skip
    scheduler.schedule, scheduler.update_from_output = (lambda: chosen), (lambda chosen, output: {})
    log = StepLog(engine)
    log.update(log.schedule(), None)
    assert log.rows[0][2:] == [1, 8, 16, 1, 40], "b goes on with its prompt, a checks three drafts"


def test_vllm_is_started_without_weights_or_tokenizer(vllm, tmp_path):
    settings = EngineSettings(tmp_path, "eager", hf_overrides={"num_experts_per_tok": 4})
    arguments = settings.arguments("cuda")
    assert arguments["load_format"] == "dummy" and arguments["skip_tokenizer_init"] and arguments["enforce_eager"]
    assert arguments["hf_overrides"] == {"num_experts_per_tok": 4} and "compilation_config" not in arguments
    graph = SETTINGS.arguments("cuda")["compilation_config"]
    assert not {"moe_backend", "async_scheduling", "speculative_config"} & SETTINGS.arguments("cuda").keys()
    assert graph["cudagraph_mode"] == "FULL_DECODE_ONLY" and max(graph["cudagraph_capture_sizes"]) == 16


def test_what_a_campaign_varies_reaches_vllm_and_the_scenario(vllm, tmp_path, monkeypatch):
    monkeypatch.delenv("VLLM_DISABLE_SHARED_EXPERTS_STREAM", raising=False)
    ask = EngineAsk(
        model="Qwen3-30B-A3B", quantization="fp8_block", moe_backend="deep_gemm", async_scheduling=False,
        disable_shared_experts_stream=True, draft_model="Qwen3-0.6B", num_speculative_tokens=3,
        acceptance_rate=0.5, max_model_len=512, max_num_seqs=16,
    )  # fmt: skip
    settings = ask.settings(tmp_path)
    arguments = settings.arguments("cuda")
    assert (arguments["moe_backend"], arguments["async_scheduling"]) == ("deep_gemm", False)
    drafts = arguments["speculative_config"]
    assert drafts["synthetic_acceptance_rates"] == [0.5, 0.25, 0.125] and drafts["method"] == "draft_model"
    assert drafts["model"].endswith("Qwen3-0.6B") and drafts["rejection_sample_method"] == "synthetic"
    log, _, _ = _measured(tmp_path, settings)
    assert os.environ["VLLM_DISABLE_SHARED_EXPERTS_STREAM"] == "1"
    assert SETTINGS.environment == {"VLLM_DISABLE_SHARED_EXPERTS_STREAM": "0"}, "whatever the user's shell says"
    (about, _) = write_runs(log, "h100-sxm", tmp_path)
    engine = load_runs(about).about.scenario.engine
    assert (engine.moe_backend, engine.cudagraph_mode, engine.version) == ("deepgemm", "full_decode_only", "0.25.1")
    assert engine.async_scheduling is True, "as the engine said of itself"
    assert engine.disable_shared_experts_stream and engine.speculative_config.kept == (0.5, 0.25, 0.125)
    assert about.stem.endswith("moedeep_gemm-asyncoff-sharedoff-draftQwen3-0.6B-drafts3-kept0.5")
    other = EngineAsk(model="OLMoE-1B-7B-0924", moe_backend="cutlass").settings(tmp_path).columns()
    assert "moe_backend" not in scenario_data(other, "OLMoE-1B-7B-0924", "h100-sxm", "0.25.1")["engine"]


def test_a_second_start_measures_only_what_is_missing(vllm, tmp_path):
    path, found, points = _measured(tmp_path)
    before = path.read_bytes()
    with Log(path) as log:
        measure_engine(SETTINGS, points, log, "cuda", time.monotonic() + 60)
    assert path.read_bytes() == before and len(vllm.started) == 1
    assert len(found) == 5


def test_an_engine_without_room_is_a_row_and_another_failure_a_sentence(monkeypatch, tmp_path):
    def fails(words):
        def start(**arguments):
            raise ValueError(words)

        monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=start, SamplingParams=None))

    fails("the estimated maximum model length is 1234")
    _, found, _ = _measured(tmp_path)
    assert "estimated maximum model length is 1234" in found[memory_point(SETTINGS).key]["failed"]
    fails("no such architecture")
    with (
        Log(tmp_path / "other.jsonl") as log,
        pytest.raises(BenchError, match=r"vLLM does not start on .*no such arch"),
    ):
        measure_engine(SETTINGS, batch_points(SETTINGS, [(1, 8, 2)], 1), log, "cuda", time.monotonic() + 60)
    # Both are known by their cause, and not paid for again.
    refused = next(rows(tmp_path / "other.jsonl"))["cause"]
    assert [found[memory_point(SETTINGS).key]["cause"], refused] == ["memory", "refused"]
    with (
        Log(tmp_path / "other.jsonl") as log,
        pytest.raises(BenchError, match="did not start before, and is not tried"),
    ):
        measure_engine(SETTINGS, batch_points(SETTINGS, [(1, 8, 2)], 1), log, "cuda", time.monotonic() + 60)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with (
        Log(tmp_path / "none.jsonl") as log,
        pytest.raises(BenchError, match="engine runs need vLLM, and 'vllm' is not"),
    ):
        measure_engine(SETTINGS, batch_points(SETTINGS, [(1, 8, 2)], 1), log, "cuda", time.monotonic() + 60)


def test_points_that_cannot_fit_are_not_asked_for():
    asked = itertools.product((1, 64), (32, 600), (9,))
    assert [(p.columns["batch"], p.columns["input_len"]) for p in batch_points(SETTINGS, list(asked), 1)] == [(1, 32)]


def test_a_plan_survives_the_way_to_the_other_process():
    settings = EngineSettings(SETTINGS.model, hf_overrides={"num_experts_per_tok": 2}, routing="zipf_1.2")
    points = batch_points(settings, [(1, 8, 2)], 1)
    again, asked = read_plan(write_plan(settings, points))
    assert again.columns() == settings.columns() and [p.key for p in asked] == [p.key for p in points]


def test_runs_become_sets_that_validate_reads(vllm, tmp_path):
    log, _, _ = _measured(tmp_path, rates=(50.0,))
    written = write_runs(log, "h100-sxm", tmp_path)
    assert [p.name for p in written] == [
        f"h100-sxm-vllm-olmoe-1b-7b-0924-graph-len512-seqs16{kind}"
        for kind in (".yaml", ".csv", "-poisson.yaml", "-poisson.csv")
    ]
    batch, poisson = load_runs(written[0]), load_runs(written[2])
    assert [run.scenario.workload.max_concurrency for run in batch.runs] == [1, 4]
    assert batch.runs[1].measured["mean_tpot_ms"] >= 1e3 * STEP_S
    assert batch.about.scenario.engine.front_end == "none" and batch.about.role == "validation"
    assert poisson.runs[0].scenario.workload.request_rate == 50.0
    assert any("random router" in doubt for doubt in batch.about.doubts)
    memory = {what: (theirs, ours) for what, theirs, ours in compared_memory(batch)}
    assert memory["weights"] == pytest.approx((13 << 30, 12.9 * 2**30), rel=0.03) and memory["KV blocks"][0] == 25_000
    assert "weights      measured       13 GiB" in "\n".join(memory_lines([batch]))
    _, compared = validate([written[0]], workers=1)
    assert {c.metric for c in compared} >= {"mean_ttft_ms", "mean_tpot_ms"}


def test_other_formats_models_and_routings_are_said(vllm, tmp_path):
    folder = model_folder("Mixtral-8x7B-v0.1", "fp8_block", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"]["weight_block_size"] == [128, 128] and config["num_local_experts"] == 8
    assert model_folder("OLMoE-1B-7B-0924", None, tmp_path) == paths.MODELS / "OLMoE-1B-7B-0924"
    settings = EngineSettings(folder, hf_overrides={"num_experts_per_tok": 1}, max_model_len=512, max_num_seqs=16)
    log, _, _ = _measured(tmp_path, settings)
    (about, _) = write_runs(log, "h100-sxm", tmp_path)
    scenario = load_runs(about).about.scenario
    assert scenario.engine.hf_overrides == {"num_experts_per_tok": 1} and scenario.model.endswith("-fp8_block")
    assert about.name == "h100-sxm-vllm-mixtral-8x7b-v0.1-fp8_block-graph-num_experts_per_tok1-len512-seqs16.yaml"


def test_a_log_without_runs_and_a_model_nobody_knows(tmp_path):
    with Log(tmp_path / "points.jsonl") as log:
        log.session(HERE)
    with pytest.raises(CalibrationError, match="holds no measured run of an engine"):
        write_runs(tmp_path / "points.jsonl", "h100-sxm", tmp_path)
    with pytest.raises(SpecError, match="'nobody' is neither in the catalogue"):
        model_folder("nobody", None, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batches", "1:2"], "--batches: '1:2' is not batches, tokens in, tokens out"),
        (["--batches", "999:8:8"], "nothing of it fits max_num_seqs and max_model_len"),
        (["--rates", "4:5"], "--rates: '4:5' is not rates, requests"),
        (["--quantization", "int9"], "--quantization: input should be 'fp8' or 'fp8_block' (found 'int9')"),
        (["--repetitions", "0"], "--repetitions: input should be greater than or equal to 1 (found 0)"),
        (["--routing", "zipf"], "--routing: 'zipf' is no routing; uniform, balanced"),
        (["--acceptance-rate", "0.5"], "acceptance_rate is of a draft_model's tokens"),
        (["--num-speculative-tokens", "4"], "draft_model and num_speculative_tokens go together"),
        (["--draft-model", "nobody", "--num-speculative-tokens", "4"], "'nobody' is neither in the catalogue"),
        (["--hf-overrides", "a=b"], "--hf-overrides: 'a=b' is not a field and a whole number"),
        ([], "there is no GPU to measure"),
        (["--device", "cpu"], "say with --hardware what to compare it with"),
    ],
)
def test_bad_input_is_a_sentence(arguments, said, capsys, tmp_path):
    pytest.importorskip("torch")
    assert main(["bench-engine", "OLMoE-1B-7B-0924", "-o", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_the_command_writes_run_sets(vllm, here, tmp_path, capsys):
    """From the command to the run set, the engine's process replaced by this one."""
    arguments = ["bench-engine", "OLMoE-1B-7B-0924", "--batches", "1,2:16:4", "--repetitions", "1"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "nvidia-h100-sxm5-80gb-vllm-olmoe-1b-7b-0924-graph.yaml" in said
    assert len(load_runs(next(tmp_path.glob("*.yaml"))).runs) == 2


def test_the_least_share_of_memory_is_found_and_compared(vllm, here, tmp_path):
    start = vllm.LLM

    def with_little_memory(**arguments):
        if arguments["gpu_memory_utilization"] < 0.31:
            raise ValueError("No available memory for the cache blocks.")
        return start(**arguments)

    vllm.LLM = with_little_memory
    arguments = ["bench-engine", "OLMoE-1B-7B-0924", "--batches", "1:16:4", "--edge", "4", "-o", str(tmp_path)]
    assert main(arguments) == 0
    (group,) = (load_runs(path) for path in tmp_path.glob("*.yaml"))
    memory = group.about.memory
    assert memory and memory.fails_at and memory.starts_at and memory.fails_at < 0.31 <= memory.starts_at
    assert memory.starts_at - memory.fails_at < 0.1
    least = next(ours for what, _, ours in compared_memory(group) if what == "least share")
    assert 0.15 < least < 0.3, "12.9 GiB of weights and a little more, of 79 GiB"
    assert "least share" in "\n".join(memory_lines([group]))


def test_the_search_for_memory_stays_within_its_time(vllm, here, tmp_path, monkeypatch):
    ask = EngineAsk(model="OLMoE-1B-7B-0924", batches=["1:16:4"], edge=20, minutes=5)
    where = Where(tmp_path)
    assert measure_ask(ask, where)[0].warnings == []
    # It starts with anything: eight halvings find the least share to half a per cent, and that is known from then on.
    assert len(vllm.started) == 1 + 8
    measure_ask(ask, where)
    assert len(vllm.started) == 1 + 8
    short = ask.model_copy(update={"minutes": 0.2, "batches": ["2:16:4"], "max_num_seqs": 32})
    assert measure_ask(short, where)[0].warnings == ["20 of 20 starts were not reached"]


def test_points_that_were_not_reached_are_said(vllm, here, tmp_path, monkeypatch):
    ask = EngineAsk(model="OLMoE-1B-7B-0924", batches=["1,2:16:4"], minutes=5)
    assert measure_ask(ask, Where(tmp_path))[0].warnings == []
    more = ask.model_copy(update={"batches": ["1,2,4:16:4"]})
    monkeypatch.setattr(worker, "run_engine", lambda *arguments, **named: worker.Progress(6, 0.0))
    assert measure_ask(more, Where(tmp_path))[0].warnings == ["2 of 6 points were not reached"]


def test_an_engine_that_died_as_it_started_may_start_again(tmp_path):
    place = memory_point(SETTINGS)
    with Log(tmp_path / "points.jsonl") as log:
        log.add(place, {"failed": "the process died", "cause": "died", "at": 1.0})
        assert place.key not in log.done
        log.add(place, {"memory": {}, "unstable": [], "at": 2.0})
    with Log(tmp_path / "points.jsonl") as log:
        assert place.key in log.done and not log.failed
    assert edge_of(tmp_path / "points.jsonl", SETTINGS) == {"starts_at": 0.9}


def test_the_power_of_a_short_batch_is_that_of_many(vllm, tmp_path, monkeypatch):
    """The counter says nothing over a few milliseconds."""
    joules = itertools.count(0, 300)
    monkeypatch.setattr(Meter, "_energy_j", lambda meter: float(next(joules)))
    _, found, points = _measured(tmp_path, grid=((1, 32, 5),))
    first, second = (found[point.key] for point in points)
    assert first["mean_power_w"] > 0 and first["energy_over_s"] >= LEAST_S and first["took_s"] < 0.1
    assert "mean_power_w" not in second


def test_a_request_that_breaks_the_engine_is_a_row_and_the_next_process_goes_on(vllm, tmp_path, monkeypatch):
    points, add = batch_points(SETTINGS, [(1, 32, 5), (2, 40, 5), (4, 64, 9)], 1), FakeEngine.add_request

    def refuses(engine, name, prompt, params):
        if len(prompt["prompt_token_ids"]) == 40:
            raise ValueError("The decoder prompt is longer than the maximum model length")
        add(engine, name, prompt, params)

    monkeypatch.setattr(FakeEngine, "add_request", refuses)
    path = tmp_path / "points.jsonl"
    for again in (True, False):
        with Log(path) as log:
            log.session(HERE)
            if again:
                with pytest.raises(DeviceLost):
                    measure_engine(SETTINGS, points, log, "cuda", time.monotonic() + 60)
            else:
                measure_engine(SETTINGS, points, log, "cuda", time.monotonic() + 60)
    found = {row["key"]: row for row in rows(path) if "point" in row}
    assert "longer than the maximum" in found[points[1].key]["failed"] and found[points[2].key]["mean_ttft_s"] > 0
    assert load_points(SETTINGS, [1.0], 4, (400, 40)) == [], "half again as long would not fit"


def test_another_engine_goes_on_after_a_broken_one(monkeypatch, tmp_path):
    codes, asked = [75, 75, 0], []

    def measuring(*arguments):
        asked.append(arguments)
        return worker._Ended(codes[len(asked) - 1])

    monkeypatch.setattr(worker, "_measuring", measuring)
    progress = worker.run_engine(SETTINGS, [], tmp_path / "points.jsonl", "cuda", 60.0)
    assert len(asked) == 3 and progress.warnings == []
    codes[:] = [-9] * 4
    assert "died (SIGKILL)" in worker.run_engine(SETTINGS, [], tmp_path / "p.jsonl", "cuda", 60.0).warnings[0]
