"""Results as benchmark clients save them: one row each, with what is to be said of it, or a sentence."""

from __future__ import annotations

import gzip
import json

import pytest

from moesim import SpecError, paths
from moesim.cli import main
from moesim.inputs.bench_file import write_run_set
from moesim.inputs.run_file import RunSet, load_runs

SERVED = {"model": "Mixtral-8x7B-v0.1", "hardware": "h100-sxm", "engine": {"tensor_parallel_size": 4}}
VLLM = {
    "backend": "vllm", "num_prompts": 80, "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 8,
    "completed": 80, "failed": 0, "total_input_tokens": 8000, "total_output_tokens": 1600, "mean_ttft_ms": 120.5,
    "p99_ttft_ms": 380.0, "mean_tpot_ms": 9.5, "p95_tpot_ms": 9.8,
}  # fmt: skip


@pytest.fixture
def imported(tmp_path):
    def run(text: str | bytes, name: str = "a.json", load: dict[str, object] | None = None) -> RunSet:
        path, target = tmp_path / name, tmp_path / "runs.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        write_run_set([path], SERVED, "mine", target, load)
        return load_runs(target)

    return run


def loads(runs: RunSet) -> list[tuple[int | None, float | None, int | None, int | None]]:
    found = [run.scenario.workload for run in runs.runs]
    return [(load.max_concurrency, load.request_rate, load.input_len, load.output_len) for load in found]


ONE, OTHER = json.dumps(VLLM), json.dumps(VLLM | {"max_concurrency": 16})


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("a.json", ONE, ["a"]),
        ("a.json", f"\ufeff{ONE}\n{OTHER}", ["a#1", "a#2"]),
        ("a.json", ONE + OTHER, ["a#1", "a#2"]),
        ("a.json", f"[{ONE},\r\n{OTHER}]", ["a#1", "a#2"]),
        ("a.jsonl", f"{ONE}\n\n{OTHER}\n", ["a#1", "a#2"]),
        ("a.json", json.dumps(VLLM, indent=2), ["a"]),
        ("a.json.gz", gzip.compress(ONE.encode(), mtime=0), ["a.json"]),
    ],
)
def test_results_lie_in_files_as_clients_save_them(imported, name, text, ids):
    runs = imported(text, name)
    assert [run.id for run in runs.runs] == ids and runs.about.source.startswith("vllm bench serve")
    assert loads(runs) == [(8, None, 100, 20), (16, None, 100, 20)][: len(ids)]
    assert runs.runs[0].measured == {"mean_ttft_ms": 120.5, "p99_ttft_ms": 380.0, "mean_tpot_ms": 9.5}


@pytest.mark.parametrize(
    ("changes", "load"),
    [
        ({"request_rate": float("inf")}, (8, None)),
        ({"max_concurrency": None}, (80, None)),
        ({"max_concurrency": None, "request_rate": "2.5"}, (None, 2.5)),
        ({"request_rate": 4, "burstiness": 0.5}, (8, 4.0)),
    ],
)
def test_how_requests_came(imported, changes, load):
    assert loads(imported(json.dumps(VLLM | changes)))[0][:2] == load


def test_failed_requests_are_counted_and_said(imported):
    runs = imported(json.dumps(VLLM | {"completed": 60, "failed": 20}))
    assert runs.about.doubts == [
        "a: 20 of 80 requests failed; lengths and times are of the 60 that were answered, and only these are predicted."
    ]
    assert runs.runs[0].scenario.workload.num_prompts == 60 and loads(runs)[0][2:] == (133, 27)
    uncounted = {k: v for k, v in VLLM.items() if k != "failed"} | {"completed": 79}
    assert "1 of 80 requests failed" in imported(json.dumps(uncounted)).about.doubts[0]


def test_a_shared_prefix_and_spread_lengths(imported):
    detailed = VLLM | {"random_prefix_len": 50, "input_lens": [80, 120], "output_lens": [20, 20, 0]}
    runs = imported(json.dumps(detailed))
    assert runs.runs[0].scenario.workload.cached_share == 0.5
    assert runs.about.doubts == ["a: prompts of 80 to 120 tokens, taken at their mean."]


@pytest.mark.parametrize("field", ["spec_decode_acceptance_length", "accept_length"])
def test_a_server_that_speculated_is_doubted(imported, field):
    runs = imported(json.dumps(VLLM | {field: 2.8}))
    assert runs.about.doubts == ["a: measured with speculative decoding, which the scenario does not have."]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"model_id": "openai/gpt-oss-120b"}, "is of openai/gpt-oss-120b, and the model of the scenario is Mixtral"),
        ({"hw": "b200"}, "ran on b200, and the hardware of the scenario is h100-sxm"),
    ],
)
def test_a_result_of_something_else(imported, said, message):
    with pytest.raises(SpecError, match=message):
        imported(json.dumps(VLLM | said))
    assert imported(json.dumps(VLLM | {"model_id": "mistralai/Mixtral-8x7B-Instruct-v0.1", "hw": "h100"})).runs


def test_sglang(imported):
    theirs = {"backend": "sglang", "request_rate": 2.0, "max_concurrency": None, "completed": 8,
              "total_input_tokens": 80, "total_output_tokens": 80, "mean_e2e_latency_ms": 90.0,
              "p90_ttft_ms": 3.0}  # fmt: skip
    runs = imported(json.dumps(theirs) + "\n", "a.jsonl")
    assert runs.runs[0].measured == {"mean_e2el_ms": 90.0, "p90_ttft_ms": 3.0}
    assert runs.about.source == "sglang bench_serving, 1 result" and "backend sglang" in runs.about.doubts[0]


def _guidellm(strategy: dict[str, object], **totals: int) -> dict[str, object]:
    def spread(mean: float) -> dict[str, object]:
        return {"successful": {"mean": mean, "median": mean, "percentiles": {"p90": 2 * mean, "p95": 3 * mean}}}

    return {"config": {"strategy": strategy}, "metrics": {
        "request_totals": {"successful": 40} | totals, "prompt_token_count": spread(512),
        "output_token_count": spread(8), "time_to_first_token_ms": spread(60), "inter_token_latency_ms": spread(8),
        "time_per_output_token_ms": spread(9), "request_latency": spread(1.5)}}  # fmt: skip


def test_guidellm(imported):
    ways = [{"type_": "concurrent", "streams": 8}, {"type_": "poisson", "rate": 2.5}, {"type_": "constant", "rate": 3},
            {"type_": "synchronous"}, {"type_": "throughput", "max_concurrency": None}]  # fmt: skip
    report = {"benchmarks": [_guidellm(way) for way in ways]}
    report["benchmarks"][1] = _guidellm(ways[1], errored=2, incomplete=3)
    runs = imported(json.dumps(report))
    assert [load[:2] for load in loads(runs)] == [(8, None), (None, 2.5), (None, 3.0), (1, None), (40, None)]
    assert runs.runs[2].scenario.workload.burstiness > 1e3 and runs.runs[1].scenario.workload.burstiness == 1
    assert runs.runs[0].measured["p90_tpot_ms"] == 16 and runs.runs[0].measured["mean_e2el_ms"] == 1500
    assert "2 of 42 requests failed" in runs.about.doubts[0] and "3 requests were under way" in runs.about.doubts[1]
    text = "benchmarks:\n- " + json.dumps(report["benchmarks"][0])
    assert loads(imported(text, "a.yaml")) == [(8, None, 512, 8)]
    with pytest.raises(SpecError, match=r"entry 1: requests came by the strategy 'replay'"):
        imported(json.dumps({"benchmarks": [_guidellm({"type_": "replay"})]}))


AIPERF = {
    "request_count": {"unit": "requests", "avg": 95.0}, "error_request_count": {"unit": "requests", "avg": 5.0},
    "time_to_first_token": {"unit": "sec", "avg": 0.25, "p50": 0.2, "p99": 1}, "input_sequence_length": {"avg": 500.0},
    "inter_token_latency": {"unit": "ms", "avg": 8, "p90": 9}, "output_sequence_length": {"avg": 100.0},
    "input_config": {"endpoint": {"type": "chat"}, "loadgen": {"concurrency": 64, "request_rate_mode": "burst"}},
}  # fmt: skip
PHASES = {
    "phases": [{"exclude_from_results": True, "type": "concurrency", "concurrency": 2}, {"type": "poisson", "rate": 9}]
}


@pytest.mark.parametrize(
    ("settings", "load"),
    [
        (AIPERF["input_config"], (64, None)),
        (PHASES, (None, 9)),
        ({"loadgen": {"request_rate": 4, "request_rate_mode": "constant"}}, (None, 4)),
        ({"concurrency": [10]}, (10, None)),
    ],
)
def test_aiperf(imported, settings, load):
    runs = imported(json.dumps(AIPERF | {"input_config": settings}))
    assert loads(runs) == [(*load, 500, 100)] and "5 of 100 requests failed" in runs.about.doubts[0]
    assert runs.runs[0].measured == {
        "mean_ttft_ms": 250, "median_ttft_ms": 200, "p99_ttft_ms": 1000, "mean_tpot_ms": 8, "p90_tpot_ms": 9
    }  # fmt: skip


def test_a_unit_that_is_not_known(imported):
    slow = {"time_to_first_token": {"unit": "minutes", "avg": 1.0}}
    with pytest.raises(SpecError, match="gives time_to_first_token in 'minutes'; s, sec"):
        imported(json.dumps(AIPERF | slow))


def test_a_table_of_aiperf_takes_its_load_from_the_scenario(imported):
    table = ('Metric,avg,min,p99,p50\r\nTime To First Token (ms),"1,146.31",2,"3,457.97",640\r\n'
             'Output Sequence Length (tokens),174,1,1,1\r\nInput Sequence Length (tokens),"3,000.05",1,1,1\r\n\r\n'
             "Metric,Value\r\nRequest Count (count),40.00\r\n")  # fmt: skip
    runs = imported(table, "a.csv", {"max_concurrency": 4})
    assert loads(runs) == [(4, None, 3000, 174)] and runs.runs[0].measured["p99_ttft_ms"] == 3457.97
    with pytest.raises(SpecError, match="does not say how requests came; say max_concurrency or request_rate"):
        imported(table, "a.csv")


AGGREGATE = {"hw": "h100", "conc": 8, "framework": "vllm", "tp": 4, "isl": 1024, "osl": 512, "mean_ttft": 0.25,
             "p99_tpot": 0.0125, "tput_per_gpu": 9.0}  # fmt: skip


def test_inferencex(imported):
    runs = imported(json.dumps(AGGREGATE))
    load = runs.runs[0].scenario.workload
    assert (load.max_concurrency, load.num_prompts, load.lengths.kind) == (8, 80, "uniform")
    assert runs.runs[0].measured == {"mean_ttft_ms": 250, "p99_tpot_ms": 12.5} and not runs.about.doubts
    drafted = imported(json.dumps(AGGREGATE | {"framework": "sglang", "spec_decoding": "mtp"}))
    assert len(drafted.about.doubts) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(VLLM | {"completed": 0}), "a.json: none of 80 requests was completed, so nothing was measured"),
        (json.dumps(VLLM | {"total_output_tokens": 0}), "80 requests were completed without a token"),
        (
            json.dumps(VLLM | {"ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "ramp_up_end_rps": 5}),
            "its rate rose",
        ),
        (f"{ONE}\n{json.dumps(VLLM | {'completed': 0})}", "a.json:2: none of 80"),
        ('{"completed": 4, "total_input_tokens": 4, "total_token_throughput": 1}', "embeddings or pooling"),
        (
            '{"completed": 4, "total_input_tokens": 40, "total_output_tokens": 4, "mean_tpot_ms": NaN}',
            "holds no latency",
        ),
        ('{"avg_latency": 1.5, "latencies": [1.5]}', "is a result of vllm bench latency"),
        ('{"elapsed_time": 30.0, "requests_per_second": 33.3}', "is a result of vllm bench throughput"),
        ('{"metadata": {}, "metrics": {}, "error": null}', "holds single requests of AIPerf"),
        ('{"metrics": {"request_count_avg": {"mean": 2}}}', "is AIPerf's summary of several runs"),
        ('{"timestamp": 0, "input_length": 3}', "is a trace of requests"),
        ('{"hello": 1}', "is no result of serving: it holds hello; a result of vllm bench serve"),
        (json.dumps(AGGREGATE | {"tp": 8}), "ran on 8 GPUs, and the engine of the scenario takes 4"),
        (json.dumps(AGGREGATE | {"disagg": True}), "ran on prefill and decode engines apart"),
        (json.dumps({k: v for k, v in AGGREGATE.items() if k != "isl"}), "does not say its lengths"),
        (json.dumps([VLLM, AGGREGATE]), "drawn in some of these results and fixed in others"),
        ('{"benchmarks": []}', "holds no result"),
        ("[1]", "entry 1: is no result of a benchmark: no JSON object is there"),
        ("{", "a.json:1: is not JSON"),
        (f"{ONE}\n{ONE[:30]}", "a.json:2: is not JSON"),
        ("============ Serving Benchmark Result ============\n", "is not JSON but what vllm bench serve prints"),
        ("a,b\n1,2\n", "is not JSON but a table"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_what_is_no_result_says_what_it_is(imported, tmp_path, text, said):
    with pytest.raises(SpecError) as raised:
        imported(text)
    assert said in str(raised.value) and len(raised.value.problems) == 1
    assert not (tmp_path / "runs.yaml").exists() and not (tmp_path / "runs.csv").exists()


def test_every_bad_file_is_named_at_once(tmp_path, capsys):
    for name, text in (("a.json", "{"), ("b.json", ONE), ("c.json", '{"avg_latency": 1, "latencies": []}')):
        (tmp_path / name).write_text(text)
    scenario, target = str(paths.SCENARIOS / "mixtral_tp4.yaml"), str(tmp_path / "r.yaml")
    given = [str(tmp_path / name) for name in ("a.json", "b.json", "c.json")]
    assert main(["import-bench", *given, "--scenario", scenario, "-o", target]) == 2
    error = capsys.readouterr().err
    assert "a.json:1: is not JSON" in error and "c.json: is a result of vllm bench latency" in error
    assert "b.json" not in error and "Traceback" not in error
