"""What users bring: traces, tables of lengths, vllm commands, results of vllm bench, run sets of their own."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from moesim import SpecError, load, paths
from moesim.cli import main
from moesim.inputs.request_trace import check_requests, read_lengths, read_requests, trace_extent
from moesim.inputs.run_file import load_runs, run_sets
from moesim.inputs.vllm_command import scenario_from_vllm
from moesim.models.catalogue import load_model

MIXTRAL = str(paths.SCENARIOS / "mixtral_tp4.yaml")
HARDWARE = "model: Mixtral-8x7B-v0.1\nhardware: h100-sxm\nengine: {tp: 4}\n"
HEAD = "arrival_s,input_len,output_len\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "0,10,5\n3,10,5\n1,10,5\n", ":4: arrival 1 s is earlier than the line before (3 s); sort the trace"),
        (HEAD + "-1,10,5\n", ":2: arrival -1 s is negative"),
        (HEAD + "0,0,5\n", ":2: input_len is 0; whole numbers from 1"),
        (HEAD + "0,10,-5\n", ":2: output_len is -5"),
        (HEAD + "0,ten,5\n", ":2: '0,ten,5' is not a request"),
        (HEAD + "0,10\n", ":2: '0,10' is not a request"),
        (HEAD + "nan,10,5\n", ":2: arrival nan is not a time"),
        ("# only a comment\n" + HEAD + "# and another\n5,1,1\n4,1,1\n", ":5: arrival 4 s is earlier"),
        ("when,input_len,output_len\n0,1,1\n", ":1: lacks the column arrival_s"),
        (HEAD, "the trace holds no request"),
        ("", "the trace holds no request"),
    ],
)
def test_bad_traces_are_told_where(tmp_path, capsys, text, said):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    scenario = tmp_path / "s.yaml"
    scenario.write_text(f"{HARDWARE}workload: {{trace_file: trace.csv}}\n")
    assert main(["predict", str(scenario)]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_missing_trace_is_named(capsys):
    arguments = ["predict", MIXTRAL, "--trace-file", "nowhere.csv", "--set", "batch_size=null"]
    assert main(arguments) == 2
    assert "nowhere.csv: cannot be read" in capsys.readouterr().err


def test_mooncake_lines_carry_their_blocks(tmp_path):
    path = tmp_path / "trace.jsonl"
    lines = [
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 3]},
        {"timestamp": 1500, "input_length": 600, "output_length": 7, "hash_ids": [1, 9]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    first, second = read_requests(str(path))
    assert first.segments == ((1, 512), (2, 512), (3, 76))
    assert second.arrival_s == 1.5 and second.segments == ((1, 512), (9, 88))
    path.write_text("[1, 2]\n")
    assert "is not a request" in check_requests(str(path))[0].message


def test_long_traces_are_read_in_flat_memory(tmp_path):
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write(HEAD)
        file.writelines(f"{i * 0.01:.2f},100,20\n" for i in range(200_000))
    tracemalloc.start()
    assert trace_extent(str(path)).requests == 200_000
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_memory_of_a_run_does_not_grow_with_its_requests(tmp_path):
    """Ten times the requests of an open loop: the same memory."""
    from moesim import predict

    scenario = load(MIXTRAL).with_(
        batch_size=None, request_rate=50.0, input_len=64, output_len=4, num_prompts=500, enable_prefix_caching=False
    )
    predict(scenario)
    peaks = []
    for count in (1000, 10_000):
        tracemalloc.start()
        assert predict(scenario.with_(num_prompts=count)).report.answered == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_naming_another_way_to_arrive_replaces_the_first():
    static = load(MIXTRAL)
    clients = load(MIXTRAL, {"conc": 4})
    assert clients.workload.batch_size is None and clients.workload.max_concurrency == 4
    served = load(paths.SCENARIOS / "mixtral_closed_loop.yaml")
    assert served.with_(batch_size=3).workload.arrivals == "batch"
    assert static.with_(request_rate=2.0).workload.arrivals == "open_loop"


def test_a_trace_longer_than_the_model_holds_is_refused(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(HEAD + "0,40000,10\n")
    with pytest.raises(SpecError, match="longest request takes 40,010 tokens"):
        load(MIXTRAL, {"trace_file": str(path)})


def test_lengths_come_from_a_file(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("# pairs\ninput_len,output_len\n10,20\n30,40\n")
    assert read_lengths(str(path)) == ((10, 20), (30, 40))
    path.write_text("input_len,output_len\n10,0\n")
    with pytest.raises(SpecError, match="lengths are 10 and 0"):
        read_lengths(str(path) + "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("{batch_size: 4, max_concurrency: 2, input_len: 8, output_len: 8}", "batch_size is a static batch"),
        ("{max_concurrency: 2, input_len: 8}", "output_len is missing"),
        ("{input_len: 8, output_len: 8, lengths: {kind: uniform}}", "a static batch has one length"),
        ("{request_rate: -2, input_len: 8, output_len: 8}", "greater than or equal to 0.000001"),
        ("{request_rate: 2, trace_file: x.csv}", "both say when requests come"),
        ("{max_concurrency: 2, input_len: 8, output_len: 8, lengths: {kind: uniform, low: 1, high: 0.5}}", "below low"),
        ("{max_concurrency: 2, input_len: 8, output_len: 8, lengths: {kind: normal}}", "kind"),
        ("{max_concurrency: 2, input_len: 8, output_len: 8, cached_share: 1.5}", "less than 1"),
    ],
)
def test_workloads_that_contradict_themselves(tmp_path, capsys, changes, said):
    path = tmp_path / "s.yaml"
    path.write_text(f"{HARDWARE}workload: {changes}\n")
    assert main(["predict", str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error and "s.yaml:" in error


# vLLM


def test_a_vllm_command_is_a_scenario():
    command = """VLLM_USE_V1=1 vllm serve openai/gpt-oss-120b --host 0.0.0.0 --port 8000 -tp 4 \\
        --max-num-batched-tokens=8192 --max-num-seqs 64 --no-enable-prefix-caching --kv-cache-dtype fp8_e4m3 \\
        --gpu-memory-utilization 0.9 --enable-expert-parallel --cuda-graph-sizes 1,2,256 --mystery 7"""
    data, notes = scenario_from_vllm(command)
    assert data["model"] == "openai/gpt-oss-120b"
    assert data["engine"] == {
        "tensor_parallel_size": 4, "max_num_batched_tokens": 8192, "max_num_seqs": 64, "enable_prefix_caching": False,
        "kv_cache_dtype": "fp8", "gpu_memory_utilization": 0.9, "enable_expert_parallel": True,
        "max_cudagraph_capture_size": 256,
    }  # fmt: skip
    assert len(notes) == 2 and "its largest, 256" in notes[0] and "--mystery" in notes[1]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python serve.py", "is no vLLM command"),
        ("vllm serve -tp 4", "names no model"),
        ("vllm serve 'x", "cannot be read"),
        ("vllm serve m --cpu-offload-gb ten", "'ten'"),
        ("vllm serve m --hf-overrides '{x'", "is no map"),
    ],
)
def test_commands_that_cannot_be_read(command, said):
    with pytest.raises(SpecError, match=said):
        scenario_from_vllm(command)


def test_predicting_a_command(capsys):
    command = "vllm serve Mixtral-8x7B-v0.1 --tensor-parallel-size 4"
    given = ["--hardware", "h100-sxm", "--conc", "4", "--isl", "128", "--osl", "16"]
    assert main(["predict", "--from-vllm", command, *given]) == 0
    assert "4 clients, 128 in, 16 out" in capsys.readouterr().out
    assert main(["predict", "--from-vllm", command, MIXTRAL, "--batch-size", "2"]) == 0
    assert "batch 2, 2048 in" in capsys.readouterr().out
    assert main(["predict", "--from-vllm", command]) == 2
    assert "says no GPU" in capsys.readouterr().err
    assert main(["predict", "--conc", "4"]) == 2
    assert "no scenario" in capsys.readouterr().err


# Measured runs


RESULT = {
    "completed": 40, "total_input_tokens": 40 * 512, "total_output_tokens": 40 * 128, "max_concurrency": 4,
    "request_rate": "inf", "mean_ttft_ms": 60.0, "mean_tpot_ms": 8.5, "median_itl_ms": 8.4, "p99_e2el_ms": 1300.0,
}  # fmt: skip


def test_bench_results_become_a_run_set_that_validate_reads(tmp_path, capsys):
    result = tmp_path / "a.json"
    result.write_text(json.dumps(RESULT))
    target = tmp_path / "mine.yaml"
    assert main(["import-bench", str(result), "--scenario", MIXTRAL, "-o", str(target), "--title", "My H100s"]) == 0
    runs = load_runs(target)
    assert runs.about.title == "My H100s" and runs.runs[0].measured["mean_tpot_ms"] == 8.5
    assert runs.runs[0].scenario.workload.max_concurrency == 4
    capsys.readouterr()
    assert main(["validate", str(target), "-o", str(tmp_path)]) == 0
    assert "My H100s (1)" in capsys.readouterr().out
    page = (tmp_path / "served.md").read_text()
    assert "## The ten worst rows" in page and "experts" in page
    assert (tmp_path / "plots" / "served.png").stat().st_size > 1000
    figures = json.loads((tmp_path / "served.json").read_text())["mine"]
    assert figures["tpot"]["rows"] == 1 and 0 <= figures["tpot"]["mean_absolute_error"] < 2


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is not JSON"), ("[]", "holds no result"), ('{"completed": 3}', "lacks 'total_input_tokens'")],
)
def test_files_that_are_no_bench_result(tmp_path, capsys, text, said):
    result = tmp_path / "a.json"
    result.write_text(text)
    assert main(["import-bench", str(result), "--scenario", MIXTRAL, "-o", str(tmp_path / "r.yaml")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "r.yaml").exists() and not (tmp_path / "r.csv").exists()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("max_concurrency,speed\n4,1\n", "'speed' is neither a setting nor a metric"),
        ("max_concurrency\n4\n", "no measured column"),
        ("max_concurrency,mean_ttft_ms\n4,fast\n", ":2: holds a figure that is no positive number"),
        ("max_concurrency,mean_ttft_ms\n0,12\n", ":2: "),
        ("max_concurrency,mean_ttft_ms\n", "holds no row"),
    ],
)
def test_run_sets_that_cannot_be_read(tmp_path, capsys, table, said):
    text = "title: t\nrole: validation\nsource: s\nscenario:\n  model: Mixtral-8x7B-v0.1\n  hardware: h100-sxm\n"
    text += "  engine: {tensor_parallel_size: 4}\n"
    text += "  workload: {max_concurrency: 1, input_len: 8, output_len: 8}\n"
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "r.csv").write_text(table)
    assert main(["validate", str(tmp_path / "r.yaml")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("path", run_sets(), ids=lambda path: path.stem)
def test_every_shipped_run_set_loads(path):
    runs = load_runs(path)
    assert runs.runs and runs.about.source
    fitted = {"h100-vllm-qwen3-32b", "h100-vllm-0.15.1-meta-llama-3.1-8b", "h100-vllm-0.15.1-qwen3-14b",
              "h100-vllm-0.15.1-codellama-34b-instruct-hf"}  # fmt: skip
    dense = load_model(runs.about.scenario.model).moe is None
    assert runs.about.role == ("fit" if path.stem in fitted else "control" if dense else "validation")
    assert any(run.fitted for run in runs.runs) == (path.stem == "h200-vllm-qwen3-235b")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", MIXTRAL, "--slo", "ttft:300"], "means nothing to a static batch"),
        (["predict", MIXTRAL, "--steady"], "means nothing to a static batch"),
        (["predict", MIXTRAL, "--slo", "ttft=3", "--conc", "2"], "is not NAME:MILLISECONDS"),
        (["predict", MIXTRAL, "--timeline", "x.txt", "--conc", "2"], "must end in .json"),
        (["capacity", MIXTRAL, "--slo", ""], "holds no limit"),
        (["validate", "nothing.yaml"], "is no run set"),
        (["validate", "-o", "nowhere"], "there is no folder"),
    ],
)
def test_bad_words_on_the_command_line(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
