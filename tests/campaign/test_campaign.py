"""The measuring campaign: what is predicted of it and never written over, its runs, how both are held together."""

from __future__ import annotations

import json
import math
import subprocess
import types
from dataclasses import replace

import pytest

from moesim import paths
from moesim.bench.engine.plan import arrivals_of
from moesim.bench.engine.settings import memory_point
from moesim.bench.log import Log
from moesim.bench.point import Point
from moesim.bench.rotation import copies_of
from moesim.calibrate import worker
from moesim.calibrate.engine_ask import EngineAsk
from moesim.calibrate.engine_scenario import scenario_data
from moesim.campaign import registration
from moesim.campaign.comparison import Compared, Quality, compare
from moesim.campaign.contrasts import Figure, ratios
from moesim.campaign.engines import predicted_engines
from moesim.campaign.file import Contrast, load_campaign
from moesim.campaign.kernels import predicted_kernels
from moesim.campaign.predicted import Predicted, Value, asked
from moesim.campaign.registration import register, registrations
from moesim.campaign.running import Run, preregister, run
from moesim.campaign.sheet import COMPARED, KERNELS, RUNS, SHEET, digest_of, predicted_by
from moesim.cli import main
from moesim.cost.forms import gemm
from moesim.cost.machine import Machine
from moesim.engines.engine import load_engine
from moesim.errors import CalibrationError, SpecError
from moesim.files import yaml
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.scenario import Scenario
from moesim.memory import kv_range
from moesim.ops import Gemm
from moesim.prediction import predict
from moesim.report.campaign_page import campaign_page, rows_csv
from tests.fake_engine import HERE

H100 = Machine(load_hardware("h100-sxm"), load_engine("vllm", "0.25.1"))
NAME = "nvidia-h100-sxm5-80gb"
SMALL = """
vllm: "0.25.1"
calls:
  kernels:
    - kernels: {minutes: 1, models: [OLMoE-1B-7B-0924], tables: [gemm, stream]}
  engines:
    - engine: {model: OLMoE-1B-7B-0924, minutes: 1, batches: ["1,2:16:4"], max_model_len: 512, max_num_seqs: 16}
    - engine: {model: OLMoE-1B-7B-0924, minutes: 1, batches: ["1,2:16:4"], max_model_len: 512, max_num_seqs: 16,
               mode: eager}
contrasts:
  - {question: What does a second request cost?, table: engine_batch, metric: mean_tpot_ms, over: [batch],
     base: {batch: 1}}
  - {question: What do graphs save?, table: engine_batch, metric: mean_tpot_ms, over: [mode], base: {mode: graph}}
"""


def timed(seconds):
    """What a row says of a kernel's time."""
    return {"kernel_source": "k", "copies": 1, "samples": 9} | dict.fromkeys(
        ("seconds", "seconds_q1", "seconds_q3"), seconds
    )


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def predicted(**columns):
    (found,) = predicted_kernels([Point(columns.pop("table"), columns)], H100)
    return found


# --- what is asked


def test_the_campaign_that_ships_is_whole(tmp_path):
    """Every engine of it can be started, every question has rows, and an hour holds most of it."""
    campaign = load_campaign()
    keys = set()
    for ask in campaign.engines:
        settings = ask.settings(tmp_path)
        points = ask.points(settings)
        assert settings.arguments("cuda")["load_format"] == "dummy"
        keys |= {asked(point).key for point in points}
        for point in points[:1]:
            Scenario.model_validate(scenario_data(point.columns, str(settings.model), "h100-sxm", campaign.vllm))
    assert len(keys) > 200
    said = [Predicted(asked(p), {}, "") for a in campaign.engines for p in a.points(a.settings(tmp_path))]
    figures = [Figure(p.point, 1.0, None) for p in said]
    figures += [Figure(p, 1.0, None) for p in campaign.kernel_points(H100.hardware)]
    for contrast in campaign.contrasts:
        assert ratios(contrast, figures), contrast.question
    minutes = [step.minutes for steps in campaign.calls.values() for step in steps]
    assert sum(minutes) < 90 and sum(step.minutes for step in campaign.calls["lite"]) <= 8


def test_what_the_issue_asks_is_in_it():
    """Batches 9 and 16 of fine-grained models, every kernel of experts, streams, drafts at three acceptances, prompts
    around the largest graph, the host by sequences, the edges of memory."""
    asks = load_campaign().engines
    assert any("9,16" in text and ask.model.startswith("OLMoE") for ask in asks for text in ask.batches)
    assert {ask.moe_backend for ask in asks} >= {"deep_gemm", "flashinfer_cutlass", "triton", "marlin"}
    assert {ask.model for ask in asks if ask.disable_shared_experts_stream} == {"Qwen1.5-MoE-A2.7B", "DeepSeek-V2-Lite"}
    drafts = {(ask.draft_model, ask.acceptance_rate) for ask in asks if ask.draft_model}
    assert drafts == {(m, a) for m in ("Qwen3-0.6B", "Qwen3-1.7B") for a in (0.5, 0.7, 0.9)}
    assert any(ask.mode == "compile" and "1:257:3" in ask.batches for ask in asks)
    assert {ask.async_scheduling for ask in asks if ask.hf_overrides == {"num_hidden_layers": 1}} == {None, False}
    assert any(ask.edge for ask in asks)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vllm: '0.25'\ncalls:\n  a: [{}]\n", r"x.yaml:3: 'calls.a.0': a step measures kernels or an engine"),
        ("vllm: '0.25'\ncalls:\n  a:\n    - engine: {model: m, batches: ['1:2']}\n",
         r"x.yaml:4: .*'1:2' is not batches, tokens in, tokens out"),
        ("vllm: '0.25'\ncalls:\n  a:\n    - engine: {model: m, minuts: 3}\n", r"x.yaml:4: .*did you mean .*minutes"),
        ("vllm: '0.25'\ncalls: {}\n", "1 at least"),
        ("vllm: '0.25'\ncalls:\n  a:\n    - kernels: {minutes: 1, tables: [gemmm]}\n",
         "'gemmm' is no table of kernels; gemm,"),
        ("vllm: '0.25'\ncalls:\n  a:\n    - engine: {model: m, rates: '4,nan:3:256:64'}\n",
         "'4,nan:3:256:64' is not rates"),
        ("vllm: '0.25'\ncalls:\n  a:\n    - engine: {model: m}\ncontrasts:\n"
         "  - {question: q, table: engine_batch, metric: mean_tpot, over: [a], base: {a: 1}}\n",
         "'mean_tpot' is no metric"),
    ],
)  # fmt: skip
def test_a_campaign_that_cannot_be_is_refused_with_its_line(tmp_path, text, said):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=said):
        load_campaign(path)


# --- what is predicted


def test_a_product_is_priced_as_its_benchmark_runs_it():
    """The form with the fit's constants; weights that rotate over eight sets have an eighth of L2 each."""
    found = predicted(table="gemm", gemm_dtype="bfloat16", m=16, n=4096, k=2048)
    fitted = H100.family("gemm/bfloat16")[0]
    copies = copies_of(2 * 4096 * 2048)
    assert copies == 8
    gpu = replace(H100.gpu, l2_bytes=H100.gpu.l2_bytes / copies)
    expected = float(gemm.BF16.seconds(fitted.parameters, Gemm(16.0, 4096.0, 2048.0), gpu).seconds)
    value = found.values["seconds"]
    assert value.value == pytest.approx(expected)
    # The family's own error, and another GPU of the kind.
    wide = math.expm1(float(fitted.residuals.interval(expected)))
    assert value.high / value.value - 1 == pytest.approx(math.hypot(wide, math.expm1(0.04)), rel=1e-6)
    assert found.source.startswith("fitted, nvidia-h100-sxm5-80gb/vllm-0.25.0:gemm/bfloat16")


def test_another_kernel_s_constants_are_said_and_widen():
    own, other = (
        predicted(table="gemm", gemm_dtype="fp8_block", gemm_backend=b, m=64, n=4096, k=2048)
        for b in ("deep_gemm", "triton")
    )
    assert own.values["seconds"].value == other.values["seconds"].value
    assert other.values["seconds"].high > own.values["seconds"].high
    assert "related kernel" in other.source and "related kernel" not in own.source


def test_skew_touches_fewer_experts():
    """One token picks as many whatever the law; sixteen of them fewer where they agree."""
    shape = {"hidden_size": 2048, "inter_size": 1024, "topk": 8, "num_experts": 64, "moe_tp_size": 1, "moe_ep_size": 1,
             "moe_dtype": "bfloat16"}  # fmt: skip
    times = {
        (n, law): predicted(table="fused_moe", num_tokens=n, distribution=law, **shape).values["seconds"].value
        for n in (1, 16)
        for law in ("balanced", "uniform", "zipf_1.2", "identical")
    }
    assert times[1, "identical"] == pytest.approx(times[1, "balanced"], rel=0.02)
    assert times[16, "balanced"] > times[16, "uniform"] > times[16, "zipf_1.2"] > times[16, "identical"]


def test_every_point_says_a_time_or_why_not():
    points = load_campaign().kernel_points(H100.hardware)
    found = list(predicted_kernels(points, H100))
    assert {p.point.key for p in found} == {p.key for p in points}
    silent = {(p.point.table, p.source) for p in found if not p.values}
    assert silent == {("host_matmul", "no constants of int8 products on a processor")}
    for p in found:
        for value in p.values.values():
            assert 0 < value.low < value.value < value.high < 20 * value.value, p


def test_an_engine_is_predicted_as_its_scenario(tmp_path):
    ask = EngineAsk(model="OLMoE-1B-7B-0924", batches=["4:128:9"], rates="8:12:64:8", repetitions=3)
    found = {p.point.table: p for p in predicted_engines([ask], "h100-sxm", "0.25.1", workers=1)}
    assert set(found) == {"engine_memory", "engine_batch", "engine_load"}
    batch = found["engine_batch"]
    assert "repetition" not in batch.point.columns
    data = scenario_data(batch.point.columns, ask.model, "h100-sxm", "0.25.1")
    alone = predict(Scenario.model_validate(data))
    assert batch.values["mean_tpot_ms"] == tuple(alone.metrics["mean_tpot_ms"].__dict__[n] for n in Value._fields)
    assert 300 < batch.values["mean_power_w"].value < 700
    # The very requests that will be sent: twelve of them, the last when the draw has it.
    load = found["engine_load"]
    sent = arrivals_of(load.point)
    last, tokens = sent[-1][0], sum(out for _, _, out in sent)
    assert len(sent) == 12 and arrivals_of(load.point) == sent
    assert 0.8 * tokens / last < load.values["output_throughput"].value <= tokens / last


def test_what_does_not_fit_is_said_and_where_it_would():
    ask = EngineAsk(model="Mixtral-8x7B-v0.1", batches=["1:128:9"])
    found = {p.point.table: p for p in predicted_engines([ask], "h100-sxm", "0.25.1", workers=1)}
    assert found["engine_batch"].values == {} and "does not fit" in found["engine_batch"].source
    memory = found["engine_memory"].values
    assert memory["kv_available_bytes"].high < 0 and memory["starts_at"].low > 0.9


def test_memory_s_range_by_hand():
    """Each reserve from the least to the most that was seen of it, each off by itself."""
    engine = load_engine("vllm", "0.25.1")
    limits = types.SimpleNamespace(gpu_memory_utilization=0.9)
    reserves = engine.file.reserves
    MiB = 2**20
    assert reserves.cuda_graphs.seen == (0.3 * 1024 * MiB, 1.5 * 1024 * MiB)
    low, high = kv_range(engine, limits, (80 * 1024 * MiB, 50_000 * MiB), 1000 * MiB, 614.4 * MiB)
    # Activations 0.7 to 1.6 of 1000, graphs 0.3 to 1.5 of 0.6 GiB, the workspace 16 to 512 MiB of 128.
    assert (50_000 * MiB - low) / MiB == pytest.approx(math.hypot(600, 921.6, 384))
    assert (high - 50_000 * MiB) / MiB == pytest.approx(math.hypot(300, 307.2, 112))
    # Where the engine may fill nearly all there is, the CUDA context decides.
    limits.gpu_memory_utilization = 1.0
    wider = kv_range(engine, limits, (80 * 1024 * MiB, 50_000 * MiB), 1000 * MiB, 614.4 * MiB)
    assert (50_000 * MiB - wider[0]) / MiB == pytest.approx(math.hypot(600, 921.6, 384, 153.6))


# --- what is written down


def _said(*values, table="gemm"):
    return [Predicted(Point(table, {"m": i, "kind": "a"}), {"seconds": Value(*v)}, "fitted") for i, v in values]


def test_a_registration_is_read_as_it_was_written_and_never_again(tmp_path):
    nothing = Predicted(Point("gemm", {"m": 9, "kind": "1e3x"}), {}, "no constants")
    rate = Predicted(Point("engine_load", {"request_rate": 4.0, "requests": 6, "draft_model": "none"}),
                     {"mean_ttft_ms": Value(1.5, 1.0, 2.0)}, "fitted")  # fmt: skip
    target = tmp_path / "now"
    written = register([*_said((1, (2.0, 1.0, 3.0))), nothing, rate], target, "h100", "vllm 1", "0" * 64)
    (again,) = registrations(tmp_path)
    assert again.sheet == written.sheet and again.sheet.tables["gemm"].predicted == 1
    assert again.predicted == {p.point.key: p for p in [*_said((1, (2.0, 1.0, 3.0))), nothing, rate]}
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(SpecError, match=r"was written at .* UTC; predictions that are registered are never written"):
        register(_said((1, (9.0, 1.0, 10.0))), target, "h100", "vllm 1", "0" * 64)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["now"], "nothing half is left"


def test_a_registration_that_was_changed_is_refused(tmp_path):
    register(_said((1, (2.0, 1.0, 3.0))), tmp_path / "now", "h100", "vllm 1", "0" * 64)
    table = tmp_path / "now" / "gemm.csv"
    table.write_text(table.read_text().replace(",2,", ",5,"))
    with pytest.raises(SpecError, match=r"gemm.csv: is not what was registered"):
        _ = registrations(tmp_path)[0].predicted


def test_a_prediction_that_fails_half_way_leaves_nothing(tmp_path):
    def fails():
        yield from _said((1, (2.0, 1.0, 3.0)))
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        register(fails(), tmp_path / "now", "h100", "vllm 1", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_the_commit_is_of_this_checkout_alone(tmp_path, monkeypatch):
    commit, changed = registration.checkout()
    assert commit is None or (len(commit) == 40 and changed in (True, False))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert registration.checkout() == (None, False)

    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "moesim").mkdir()
    (tmp_path / "moesim" / "x.py").write_text("1\n")
    (tmp_path / "README").write_text("1\n")
    git("add", ".")
    git("-c", "user.email=a@b", "-c", "user.name=a", "commit", "-qm", "x")
    assert registration.checkout()[1] is False
    (tmp_path / "README").write_text("2\n")
    assert registration.checkout()[1] is False, "what decides no prediction may change"
    (tmp_path / "moesim" / "x.py").write_text("2\n")
    assert registration.checkout()[1] is True


def test_a_changed_checkout_registers_nothing_that_ships(monkeypatch, capsys, small):
    monkeypatch.setattr("moesim.campaign.registration.checkout", lambda: ("0" * 40, True))
    assert main(["campaign", "preregister", "h100-sxm", "--campaign", str(small)]) == 2
    assert "commit first: the commit must predict alike" in capsys.readouterr().err


# --- what is measured


@pytest.fixture
def machine(here, vllm, monkeypatch):
    """An H100 whose kernels take what the points say, five per cent more than a microsecond a row."""

    def measure(points, log, device, seconds, busy=False, told=None):
        with Log(log) as opened:
            opened.session(HERE)
            for point in points[:40]:
                opened.add(point, {"unstable": [], "at": 2e9, **timed(1.05e-5)})
        return worker.Progress(len(points), 0.0)

    monkeypatch.setattr(worker, "measure", measure)


def test_a_campaign_from_nothing_to_its_page(machine, small, tmp_path, capsys, monkeypatch):
    """The three commands: run (which predicts first), compare, and only then may the kernels be fitted."""
    monkeypatch.chdir(tmp_path)
    assert main(["campaign", "run", "--campaign", str(small), "--minutes", "5"]) == 0
    said = capsys.readouterr()
    assert "nothing is registered for nvidia-h100-sxm5-80gb and this campaign; predicting first" in said.err
    (own,) = (tmp_path / "campaign" / "preregistered").iterdir()
    sheet = yaml.read(tmp_path / "campaign" / SHEET).data
    assert sheet["predicted"] == own.name and sheet["rows"]["engine_batch"] == 8
    assert sheet["rows"]["gemm"] + sheet["rows"]["stream"] == 40
    fit = ["calibrate", "--fit-only", "-o", "campaign/kernels"]
    assert main(fit) == 2
    assert "not compared yet, and nothing is fitted before" in capsys.readouterr().err

    assert main(["campaign", "compare", "campaign", "--campaign", str(small), "-o", "page.md"]) == 0
    page = (tmp_path / "page.md").read_text()
    assert "## campaign: NVIDIA H100 80GB HBM3" in page and "no predictions beforehand" not in page
    assert "**What does a second request cost?** TPOT [ms] over that of batch=1:" in page
    assert "| engine_memory | 2 | 2 |" in page and "| engine_batch | 4 | 4 |" in page
    assert "OLMoE-1B-7B-0924, mode=eager, max_model_len=512, max_num_seqs=16 | batch 2, 16 / 4" in page
    rows = (tmp_path / "campaign" / COMPARED).read_text().splitlines()
    assert rows[0] == f"# {digest_of(tmp_path / 'campaign')}" and sum(",mean_tpot_ms," in row for row in rows) == 4
    capsys.readouterr()
    assert main(["campaign", "compare", "campaign", "--campaign", str(small), "-o", "page.md", "--check"]) == 0
    main(fit)
    assert "not compared yet" not in capsys.readouterr().err
    # More rows than were compared.
    with Log(tmp_path / "campaign" / KERNELS / "points.jsonl") as log:
        log.add(Point("stream", {"op": "read", "bytes": 7}), {"failed": "x", "at": 2e9})
    assert main(fit) == 2

    assert main(["campaign", "run", "--campaign", str(small), "--minutes", "5"]) == 0
    assert "predicted before: campaign/preregistered" in capsys.readouterr().err


def test_a_call_that_fails_costs_the_others_nothing(machine, small, tmp_path, monkeypatch):
    def broken(*arguments, **more):
        raise CalibrationError("no engine starts")

    monkeypatch.setattr("moesim.campaign.running.measure_ask", broken)
    said = []
    _, problems = run(Run(tmp_path / "c", 5, small), (), said=said.append)
    assert problems == ["engines, OLMoE-1B-7B-0924: no engine starts"] * 2
    assert (tmp_path / "c" / KERNELS / "points.jsonl").exists()
    _, problems = run(Run(tmp_path / "c", 0.1, small), ("engines",))
    assert problems == ["2 of 2 steps were not reached, from call engines on"]
    with pytest.raises(SpecError, match="there is no call 'nobody'; kernels, engines are"):
        run(Run(tmp_path / "c", 5, small), ("nobody",))


def test_a_campaign_is_known_by_what_it_measures(machine, small, tmp_path):
    """Comments and questions may change; what measuring began with stays what it is held against."""
    before = load_campaign(small).digest
    small.write_text("# more\n" + small.read_text().replace("What do graphs save?", "What?"))
    assert load_campaign(small).digest == before
    first, _ = run(Run(tmp_path / "c", 5, small), ("kernels",))
    small.write_text(small.read_text().replace("1,2:16:4", "1,4:16:4"))
    assert load_campaign(small).digest != before
    again, _ = run(Run(tmp_path / "c", 5, small), ("engines",))
    assert again.name == first.name == predicted_by(tmp_path / "c")
    # Another registration, later and of another file, changes nothing about that.
    later = preregister("h100-sxm", tmp_path / "shipped", small, workers=1)
    compared = compare(tmp_path / "c", tmp_path / "shipped", "h100-sxm")
    assert compared.registration.name == first.name != later.name
    (tmp_path / "c" / "preregistered" / first.name).rename(tmp_path / "gone")
    with pytest.raises(
        CalibrationError, match=f"the predictions {first.name}, which campaign.yaml names, are not here"
    ):
        compare(tmp_path / "c", tmp_path / "shipped")


def test_what_cannot_be_measured_at_all_is_no_success(machine, small, tmp_path, monkeypatch, capsys):
    def broken(*arguments, **more):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("moesim.campaign.running.measure_ask", broken)
    with pytest.raises(CalibrationError, match=r"nothing could be measured: engines, OLMoE-1B-7B-0924: .*allocate"):
        run(Run(tmp_path / "c", 5, small), ("engines",))
    # The folder is marked as a campaign's from the start, so that nothing is fitted in it.
    assert yaml.read(tmp_path / "c" / SHEET).data["not_measured"]
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="is a file; a folder is accepted"):
        run(Run(tmp_path / "file", 5, small))
    with monkeypatch.context() as without:
        without.setattr(worker, "environment_of", lambda device, busy=False: {**HERE, "versions": {"torch": "2"}})
        _, problems = run(Run(tmp_path / "d", 5, small))
        assert problems == ["2 engines: vLLM is not installed"]
        with pytest.raises(CalibrationError, match="engine runs need vLLM"):
            run(Run(tmp_path / "e", 5, small), ("engines",))
        without.setattr(worker, "environment_of", lambda device, busy=False: {**HERE, "driver": "590"})
        with pytest.raises(CalibrationError, match="holds rows of driver 580"):
            run(Run(tmp_path / "d", 5, small))


def test_rows_that_were_there_first_get_no_prediction_later(machine, small, tmp_path):
    _add(tmp_path / "c", RUNS, (Point("engine_batch", {"model": "x", "batch": 1}), {"mean_tpot_s": 1.0}))
    said = []
    registered, _ = run(Run(tmp_path / "c", 5, small), ("kernels",), said=said.append)
    assert registered is None and not (tmp_path / "c" / "preregistered").exists()
    assert "rows are there already" in said[0]
    with pytest.raises(CalibrationError, match="nothing was registered for nvidia-h100-sxm5-80gb"):
        compare(tmp_path / "c", tmp_path / "none")


# --- how both are held together


@pytest.fixture
def came_back(small, tmp_path):
    """A registration of the small campaign, and a folder to measure into."""
    found = preregister("h100-sxm", tmp_path / "shipped", small, workers=1)
    return found, tmp_path / "c"


def _add(folder, part, *rows, at=2e9):
    with Log(folder / part / "points.jsonl") as log:
        log.session(HERE)
        for point, row in rows:
            log.add(point, {"unstable": [], "at": at, **row})


def test_errors_intervals_and_what_has_none(came_back, tmp_path):
    found, folder = came_back
    said = [p for p in found.predicted.values() if p.point.table == "gemm"]
    good, wide, failed, shaky = said[:4]
    one, three = good.values["seconds"], wide.values["seconds"]
    other = Point("gemm", {"m": 3, "n": 3, "k": 3, "gemm_dtype": "bfloat16"})
    _add(folder, KERNELS, (good.point, timed(one.value / 1.05)), (wide.point, timed(three.high * 1.1)),
         (failed.point, {"failed": "RuntimeError: no\nmore"}), (shaky.point, timed(1.0) | {"unstable": ["thermal"]}),
         (other, timed(1.0)))  # fmt: skip
    compared = compare(folder, tmp_path / "shipped")
    assert compared.registered_before
    first, second = compared.rows
    assert first.error == pytest.approx(0.05) and first.held
    assert second.error == pytest.approx(three.value / three.high / 1.1 - 1) and not second.held
    assert compared.failed == {("gemm", "RuntimeError: no"): 1, ("gemm", "unstable: thermal"): 1}
    assert compared.unregistered == {"gemm": 1}
    page = campaign_page(load_campaign(), [found], [compared])
    assert "| gemm bfloat16 | 2 |" in page and "| 50% |" in page and "gemm: 1 measured that were not registered" in page
    assert rows_csv(compared).count("\n") == 3


def test_a_prediction_written_later_is_none(came_back, tmp_path):
    found, folder = came_back
    point = next(iter(found.predicted.values())).point
    _add(folder, KERNELS, (point, timed(1.0)), at=1e9)
    compared = compare(folder, tmp_path / "shipped")
    assert not compared.registered_before
    assert "**These predictions were written after the first row was measured" in campaign_page(
        load_campaign(), [found], [compared]
    )


def test_repetitions_are_one_row_and_memory_is_compared(came_back, tmp_path):
    found, folder = came_back
    ask = load_campaign(tmp_path / "small.yaml").engines[0]
    settings = ask.settings(tmp_path)
    points = ask.points(settings)
    said = found.predicted[asked(points[0]).key].values["mean_tpot_ms"]
    times = [
        (point, {"mean_tpot_s": said.value * 1e-3 * factor}) for point, factor in zip(points[:2], (1, 3), strict=True)
    ]
    tried = memory_point(types.SimpleNamespace(columns=lambda: {**settings.columns(), "gpu_memory_utilization": 0.1}))
    memory = found.predicted[memory_point(settings).key].values
    _add(folder, RUNS, *times, (memory_point(settings), {"memory": {"kv_blocks": memory["kv_blocks"].value * 2}}),
         (tried, {"failed": "No available memory", "cause": "memory"}))  # fmt: skip
    compared = compare(folder, tmp_path / "shipped")
    by_metric = {row.metric: row for row in compared.rows}
    assert by_metric["mean_tpot_ms"].error == pytest.approx(1 / 2 - 1), "the median of one and three times"
    assert by_metric["kv_blocks"].error == pytest.approx(-0.5)
    assert [(start.started, start.share, start.held) for start in compared.starts] == [
        (True, 0.9, True),
        (False, 0.1, True),
    ]


def test_an_engine_that_died_or_refused_is_counted_and_no_edge(came_back, tmp_path):
    folder = came_back[1]
    ask = load_campaign(tmp_path / "small.yaml").engines[0]
    place = memory_point(ask.settings(tmp_path))
    _add(folder, RUNS, (place, {"failed": "the process died", "cause": "died"}))
    first = compare(folder, tmp_path / "shipped")
    assert first.starts == [] and first.failed == {("engine_memory", "the process died"): 1}
    # It starts another time.
    with Log(folder / RUNS / "points.jsonl") as log:
        log.add(place, {"memory": {"kv_blocks": 3}, "unstable": [], "at": 2e9})
    again = compare(folder, tmp_path / "shipped")
    assert [start.started for start in again.starts] == [True] and not again.failed


def test_the_page_of_an_engine_that_cannot_be_predicted(small, tmp_path):
    small.write_text("vllm: '0.25.1'\ncalls:\n  a:\n    - engine: {model: OLMoE-1B-7B-0924, tensor_parallel_size: 3}\n")
    found = preregister("h100-sxm", tmp_path / "shipped", small, workers=1)
    assert "not predicted: " in campaign_page(load_campaign(small), [found], [])


@pytest.mark.parametrize("row", [{"memory": 3}, {"mean_tpot_s": "x"}, {"mean_tpot_s": -1.0}, {"output_throughput": []}])
def test_figures_that_are_none_are_left_out(came_back, tmp_path, row):
    found, folder = came_back
    point = next(p.point for p in found.predicted.values() if p.point.table == "engine_batch")
    _add(folder, RUNS, (point, row))
    assert compare(folder, tmp_path / "shipped").rows == []


def test_quality_by_hand():
    def row(value, measured, low=1.0, high=4.0):
        return Compared(Point("t", {}), "m", Value(value, low, high), measured, "")

    q = Quality.of([row(2.0, 1.0), row(2.0, 2.0), row(2.0, 4.0), row(2.0, 8.0), row(2.0, 5.0, 2.0, 2.0)])
    # Errors +100, 0, -50, -75, -60 %; three of the four with an interval lie within 1 to 4.
    assert (q.rows, q.median, q.p90, q.bias) == (5, pytest.approx(0.6), 1.0, -0.5)
    assert q.mean == pytest.approx(0.57) and q.held == 0.75 and q.width == pytest.approx(math.log(4) / 2)


def test_a_contrast_pairs_rows_that_differ_in_nothing_else():
    def figure(batch, mode, predicted, measured=None):
        return Figure(Point("engine_batch", {"batch": batch, "mode": mode}), predicted, measured)

    contrast = Contrast(
        question="q",
        table="engine_batch",
        metric="mean_tpot_ms",
        over=["mode"],
        base={"mode": "graph"},
        where={"batch": [1, 2]},
    )
    found = ratios(contrast, [figure(1, "eager", 6.0, 9.0), figure(1, "graph", 2.0, 3.0), figure(2, "eager", 5.0),
                              figure(4, "graph", 1.0), figure(4, "eager", 2.0)])  # fmt: skip
    assert [(r.point.columns["batch"], r.predicted, r.measured) for r in found] == [(1, 3.0, 3.0)]
    tables = Contrast(question="q", table="gemm", metric="seconds", over=["table"], base={"table": "gemm"})
    pair = [Figure(Point(t, {"m": 1}), v, None) for t, v in (("gemm", 2.0), ("fused_moe", 5.0))]
    assert [r.predicted for r in ratios(tables, pair)] == [2.5]
    assert (
        ratios(contrast.model_copy(update={"table": "engine_load"}), [figure(1, "eager", 6.0), figure(1, "graph", 2.0)])
        == []
    )


def test_a_folder_without_rows_and_of_two_gpus(tmp_path):
    with pytest.raises(CalibrationError, match="holds no measured row"):
        compare(tmp_path)
    for part, gpu in ((KERNELS, "NVIDIA H100 80GB HBM3"), (RUNS, "NVIDIA H200")):
        with Log(tmp_path / part / "points.jsonl") as log:
            log.session({**HERE, "gpu": gpu})
            log.add(Point("stream", {"op": "read"}), {"failed": "x", "at": 2e9})
    with pytest.raises(CalibrationError, match="rows of several GPUs lie together: NVIDIA H100 80GB HBM3, NVIDIA H200"):
        compare(tmp_path)


# --- what ships


def test_what_is_registered_is_whole_and_the_page_is_its():
    """No table was changed since, and the page is what the command writes."""
    found = registrations(registration.FOLDER)
    assert found and all(sum(t.points for t in one.sheet.tables.values()) == len(one.predicted) for one in found)
    assert all(one.sheet.commit and not one.sheet.changed for one in found)
    assert main(["campaign", "compare", "--check"]) == 0


def test_the_list_says_minutes(capsys):
    assert main(["campaign"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("lite") and "min  kernels, OLMoE-1B-7B-0924, Qwen3-30B-A3B" in said and "at the most" in said
    assert json.dumps(HERE)
