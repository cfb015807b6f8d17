"""Power fitted on the rows that are marked, held against the others; energy and price by hand."""

from __future__ import annotations

import json

import pytest

from moesim.calibrate.power import power_rows
from moesim.cli.main import main
from moesim.cost.power import FIT, Utilisation, power_fit, power_w
from moesim.errors import SpecError
from moesim.explore.economy import economy
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.loading import load
from moesim.inputs.prices_file import prices_of
from moesim.inputs.scenario import Scenario
from moesim.inputs.workload import Workload
from moesim.models.catalogue import load_model
from moesim.paths import SCENARIOS
from moesim.prediction import predict, predict_steady


def test_held_out_power():
    """gpt-oss on H100: fitted on TP8 1024/1024, the others within 20 % (InferenceX issue 828)."""
    data, limit = json.loads(FIT.read_text()), load_hardware("h100-sxm").gpu.power.value
    fit = power_fit()
    for row, stored in zip(power_rows(), data["rows"], strict=True):
        watts = row.predicted(fit.idle_w, limit, fit.hbm, fit.tensor)
        assert watts == pytest.approx(stored["predicted_w"], rel=0.01), "run: moesim fit-power"
        print(row.title, f"{watts:.0f} W, measured {row.watts:.0f}")
        assert row.fitted == row.title.startswith("TP8, 1024/1024")
        if not row.fitted:
            assert abs(watts / row.watts - 1) <= 0.20, row.title
    assert data["parameters"]["idle_w"]["standard_error"] > 0


def test_power_by_hand():
    h100, fit = load_hardware("h100-sxm"), power_fit()
    assert power_w(h100, Utilisation(0, 0, 0)) == pytest.approx(fit.idle_w)
    half = power_w(h100, Utilisation(0.0, 0.5, 0.0))
    assert half == pytest.approx(fit.idle_w + (700 - fit.idle_w) * fit.hbm * 0.5)
    assert power_w(h100, Utilisation(1.0, 1.0, 0.0)) == 700, "never above the limit"
    l40s = load_hardware("l40s")
    assert power_w(l40s, Utilisation(0, 0, 0)) == pytest.approx(fit.idle_w / 700 * l40s.gpu.power.value)


def test_energy_and_price_by_hand():
    found = predict(load(SCENARIOS / "mixtral_tp4.yaml"))
    costs = economy(found)
    assert costs.gpus == 4 and costs.fitted and 0.3 < costs.used.hbm < 1
    assert costs.joules_per_output_token.value == pytest.approx(4 * costs.gpu_w.value / found["output_throughput"])
    prompt, answer, either = costs.usd_per_million(2.0)
    assert either == pytest.approx(4 * 2.0 / 3600 / found["total_token_throughput"] * 1e6)
    # As many prompt as answer tokens: their mean is the price of either.
    assert (prompt + answer) / 2 == pytest.approx(either) and prompt < answer


def test_a_busier_gpu_draws_more():
    base = load(SCENARIOS / "mixtral_tp4.yaml")
    watts = [economy(predict(base.with_(batch_size=n))).gpu_w.value for n in (1, 8, 64)]
    assert watts == sorted(watts)
    steady = predict_steady(load(SCENARIOS / "mixtral_closed_loop.yaml"))
    assert economy(steady).gpu_w.value > power_fit().idle_w


def of(clients: int | None = None, rate: float | None = None, steady: bool = False, **changes):
    load = Workload(
        max_concurrency=clients, request_rate=rate, input_len=512, output_len=64, num_prompts=60,
        lengths={"kind": "uniform", "low": 0.5, "high": 1.5},
    )  # fmt: skip
    scenario = Scenario(model="Mixtral-8x7B-v0.1", hardware="h100-sxm", workload=load)
    changes = {"tensor_parallel_size": 4, **changes}
    return economy((predict_steady if steady else predict)(scenario.with_(**changes)))


@pytest.mark.parametrize("load", [{"clients": 4}, {"rate": 0.1}, {"rate": 2.0}])
def test_a_steady_state_costs_what_its_simulation_costs(load):
    steady, served = of(steady=True, **load), of(**load)
    print(load, f"{steady.gpu_w.value:.0f} W, simulated {served.gpu_w.value:.0f}")
    assert steady.gpu_w.value == pytest.approx(served.gpu_w.value, rel=0.10)
    assert steady.busy == pytest.approx(served.busy, rel=0.25)
    assert steady.input_share == pytest.approx(served.input_share, abs=0.05)


def test_engines_apart_are_busy_each_for_itself():
    dense = {"model": "Qwen3-32B", "tensor_parallel_size": 2}
    one, four = of(rate=0.4, **dense), of(rate=1.6, **dense, num_prompts=240, data_parallel_size=4)
    assert four.busy == pytest.approx(one.busy, rel=0.15) and four.gpus == 4 * one.gpus
    apart = Scenario(
        model="Mixtral-8x7B-v0.1", hardware="h100-sxm", engine={"tensor_parallel_size": 2},
        disaggregation={"prefill_replicas": 2, "decode_replicas": 2},
        workload=Workload(request_rate=2.0, input_len=512, output_len=64, num_prompts=60),
    )  # fmt: skip
    found = economy(predict(apart))
    assert found.gpus == 8 and 0.0 < found.busy < 0.7 and found.input_share == 0.5


def test_stages_of_a_pipeline_work_in_turn():
    load = Workload(batch_size=1, input_len=512, output_len=256)
    base = Scenario(model="Mixtral-8x7B-v0.1", hardware="h100-sxm", workload=load)
    found = economy(predict(base.with_(pipeline_parallel_size=4)))
    assert found.busy == pytest.approx(0.25, abs=0.02)
    full = economy(predict(base.with_(pipeline_parallel_size=4, batch_size=4)))
    assert full.busy > 0.95 and full.gpu_w.value > found.gpu_w.value


def test_prices_name_their_source(tmp_path):
    found = prices_of("nvidia-h100-sxm5-80gb")
    assert [p.usd_per_gpu_hour for p in found] == sorted(p.usd_per_gpu_hour for p in found)
    assert all(p.source and p.date for p in found)
    head = "gpu,provider,instance,usd_per_hour,gpus,date,source\n"
    table = tmp_path / "prices.csv"
    for row, said in (
        ("nobodys,x,y,1,1,2026-01-01,s", "is not known"),
        ("h100-sxm,x,y,-1,1,2026-01-01,s", "needs dollars an hour"),
        ("h100-sxm,x,y,1,1,yesterday,s", "needs dollars an hour"),
        ("h100-sxm,x,y,1,1,2026-01-01,", "names no source"),
        ("h100-sxm,x", "has 2 cells"),
    ):
        table.write_text(head + row + "\n")
        with pytest.raises(SpecError, match=f"prices.csv:2: .*{said}"):
            prices_of("h100-sxm", table)
    table.write_text(head + "h100-sxm,a,b,16,8,2026-01-01,s\n")
    assert prices_of("nvidia-h100-sxm5-80gb", table)[0].usd_per_gpu_hour == 2.0


def test_the_flag(capsys, tmp_path):
    scenario = str(SCENARIOS / "mixtral_tp4.yaml")
    assert main(["predict", scenario, "--economy", "--price-per-gpu-hour", "2"]) == 0
    out = capsys.readouterr().out
    assert "power of each GPU" in out and "at $2 a GPU-hour" in out and "J an output token" in out
    assert main(["predict", scenario, "--economy", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["economy"]
    assert data["gpus"] == 4 and data["prices"][0]["usd_per_million"]["output"] > 0
    assert main(["predict", scenario, "--price-per-gpu-hour", "2"]) == 2
    assert main(["predict", scenario, "--economy", "--price-per-gpu-hour", "-2"]) == 2


def test_flop_of_a_token():
    """Mixtral: 12.9 billion active parameters, two operations each but for norms and the router."""
    model = load_model("Mixtral-8x7B-v0.1")
    assert model.flop_per_token == pytest.approx(2 * 12.75e9, rel=0.01)
    assert model.active_parameters == pytest.approx(12.75e9, rel=0.01)
