"""Speed, measured with pytest-benchmark: ``pytest benchmarks --benchmark-enable -n 0``.

Aims: a warm predict of Mixtral TP4 2048/2048 within 5 ms, 100,000 sweep points in seconds, all plans of eight GPUs in a
second, a cold ``moesim predict`` at most 2.5 times ``python -c "import numpy, pydantic"``, a steady state within
10 ms, a simulated run of 1,000 requests within 5 s and a search over 2,000 configurations within 5 s.
"""

import subprocess
import sys

import moesim
from moesim import paths
from moesim.prediction import predict_steady

SCENARIO = paths.SCENARIOS / "mixtral_tp4.yaml"


def test_warm_predict(benchmark):
    scenario = moesim.load(SCENARIO)
    moesim.predict(scenario)
    benchmark(moesim.predict, scenario)


def test_load(benchmark):
    benchmark(moesim.load, SCENARIO)


def test_sweep_of_100_000_points(benchmark):
    scenario = moesim.load(SCENARIO)
    axes = {
        "batch_size": list(range(1, 41)),
        "input_len": list(range(64, 64 * 51, 64)),
        "output_len": list(range(64, 64 * 51, 64)),
    }
    table = benchmark.pedantic(moesim.sweep, (scenario, axes), rounds=3)
    assert len(table) == 100_000


def test_all_plans_of_eight_gpus(benchmark):
    scenario = moesim.load(SCENARIO)
    moesim.explore.plans(scenario, 8)
    found = benchmark.pedantic(moesim.explore.plans, (scenario, 8), rounds=5)
    assert len(found) == 31


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def test_cold_predict(benchmark):
    benchmark.pedantic(_run, ("-m", "moesim", "predict", str(SCENARIO)), rounds=10)


def test_cold_baseline_import_of_numpy_and_pydantic(benchmark):
    benchmark.pedantic(_run, ("-c", "import numpy, pydantic"), rounds=10)


def test_steady_state(benchmark):
    scenario = moesim.load(paths.SCENARIOS / "mixtral_closed_loop.yaml")
    predict_steady(scenario)
    benchmark(predict_steady, scenario)


def test_a_simulated_run_of_1000_requests(benchmark):
    scenario = moesim.load(paths.SCENARIOS / "mixtral_closed_loop.yaml").with_(num_prompts=1000)
    found = benchmark.pedantic(moesim.predict, (scenario,), rounds=3)
    assert found.report.answered == 1000


OFFLOADED = paths.SCENARIOS / "offload" / "mixtral_offloading_rtx_a6000.yaml"


def test_offloaded_predict(benchmark):
    scenario = moesim.load(OFFLOADED)
    moesim.predict(scenario)
    benchmark(moesim.predict, scenario)


def test_search_of_2_000_configurations(benchmark):
    scenario = moesim.load(OFFLOADED)
    found = benchmark.pedantic(moesim.search, (scenario, "tpot", ["gpu_memory <= 16 GiB"]), rounds=3)
    assert len(found.configurations) >= 2000
