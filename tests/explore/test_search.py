"""Choosing among systems: what is found is what predict says, constraints hold, fronts are fronts, errors are clear."""

import csv

import pytest

from moesim import SpecError, paths, predict, search
from moesim.cli import main
from moesim.explore.constraints import parsed
from moesim.explore.search.space import amounts, space
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.loading import load
from moesim.inputs.quality_file import quality_of, shipped_quality
from moesim.inputs.system_file import systems
from moesim.models.catalogue import load_model
from moesim.report.offload_study import study_text
from moesim.report.search_text import runner_up, search_text

HEAD = "model,experts_format,attention_format,metric,value,source\n"
FILE = paths.SCENARIOS / "offload" / "mixtral_offloading_rtx_a6000.yaml"


@pytest.fixture(scope="module")
def scenario():
    return load(FILE)


@pytest.fixture(scope="module")
def found(scenario):
    return search(scenario, "tpot", ["gpu_memory <= 16 GiB", "perplexity <= 5"])


def test_everything_is_tried_and_sorted(found):
    assert len(found.configurations) >= 2000
    assert {c.settings["system"] for c in found.configurations} == set(systems())
    kept = found.configurations[: found.kept]
    times = [c.values["tpot"] for c in kept]
    assert times == sorted(times) and found.best is kept[0]
    for c in kept:
        assert c.fits and c.values["gpu_memory"] <= 16 * 2**30 and c.values["perplexity"] <= 5
    for c in found.configurations[found.kept :]:
        keeps = c.fits and c.values["gpu_memory"] <= 16 * 2**30 and (c.values["perplexity"] or 9) <= 5
        assert not keeps


def test_a_configuration_is_what_predict_says(scenario, found):
    seen = {}
    for c in found.configurations:
        if c.fits:
            seen.setdefault(c.settings["system"], c)
    assert set(seen) == set(systems())
    for c in seen.values():
        full = predict(c.scenario(scenario))
        assert c.values["tpot"] == pytest.approx(full["mean_tpot_ms"] / 1e3, rel=2e-3), c.settings
        assert c.values["ttft"] == pytest.approx(full["mean_ttft_ms"] / 1e3, rel=2e-3)
        assert c.values["output_throughput"] == pytest.approx(full["output_throughput"], rel=2e-3)


def test_the_front_is_not_dominated(found):
    def place(c):
        return c.values["tpot"], c.values["gpu_memory"], c.values["perplexity"]

    known = [c for c in found.configurations if c.fits and c.values["perplexity"] is not None]
    front = {place(c) for c in known if c.on_front}
    assert len(front) > 10
    for c in known:
        beaten = any(all(a <= b for a, b in zip(f, place(c), strict=True)) and f != place(c) for f in front)
        assert beaten != c.on_front


def test_quality_is_an_input(tmp_path, scenario, found):
    table = shipped_quality("Mixtral-8x7B-v0.1")
    for c in found.configurations:
        key = (c.settings["experts_format"], c.settings["attention_format"], "perplexity")
        wanted = None if c.settings.get("skipped_share") else table.get(key)
        assert c.values["perplexity"] == wanted
    mine = tmp_path / "mine.csv"
    mine.write_text(HEAD + "mixtral-8x7b-v0.1,bfloat16,bfloat16,score,12,measured by me\n")
    other = search(scenario, "score", ["score >= 10"], ["accelerate"], mine)
    assert other.quality == "score" and other.best.values["score"] == 12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n", "must begin with the columns"),
        ("model,experts_format,attention_format,metric,value,source\nm,hqq2,hqq4,perplexity,x,s\n", ":2: 'x' is not"),
        (
            "model,experts_format,attention_format,metric,value,source\nm,hqq2,hqq4,perplexity,3,\n",
            ":2: names no source",
        ),
        ("# note\nmodel,experts_format,attention_format,metric,value,source\nm,hqq2\n", ":3: has 2 cells"),
    ],
)
def test_bad_quality_tables_are_told_where(tmp_path, text, said):
    path = tmp_path / "q.csv"
    path.write_text(text)
    with pytest.raises(SpecError) as error:
        quality_of("m", path)
    assert said in str(error.value)


def test_what_cannot_be_had_says_what_to_relax(scenario):
    few = ["llama-cpp", "mixtral-offloading", "fiddler"]
    one = search(scenario, "tpot", ["gpu_memory <= 1 GiB"], few)
    assert one.best is None and one.advice[0].startswith("relax gpu_memory <= 1 GiB to gpu_memory <= ")
    limit = one.advice[0].rsplit("<= ", 1)[1]
    assert search(scenario, "tpot", [f"gpu_memory <= {limit}"], few).best is not None
    two = search(scenario, "tpot", ["gpu_memory <= 3 GiB", "tpot <= 20 ms"], few)
    assert len(two.advice) == 2 and all(text.startswith("relax") for text in two.advice)
    for text in two.advice:
        limits = [t for t in ("gpu_memory <= 3 GiB", "tpot <= 20 ms") if t not in text]
        assert search(scenario, "tpot", [*limits, text.rsplit(" to ", 1)[1]], few).best is not None, text
    none = search(scenario, "tpot", ["gpu_memory <= 1 GiB", "tpot <= 1 ms"], few)
    assert "no single constraint is enough" in none.advice[0]
    small = scenario.with_(hardware="rtx4060-laptop", model="DeepSeek-V3", host="laptop-ddr5")
    assert "nothing fits this machine" in search(small, systems=["mixtral-offloading"]).advice[0]


def test_other_models_and_machines_are_searched(scenario):
    laptop = scenario.with_(model="Qwen3-30B-A3B", hardware="rtx4060-laptop", batch_size=4)
    result = search(laptop, systems=["llama-cpp", "moe-infinity", "adapmoe"])
    assert result.best is not None and result.quality is None
    dense = search(scenario.with_(model="Meta-Llama-3.1-8B", routing={"kind": "uniform"}, offload=None))
    assert {c.settings["system"] for c in dense.configurations} == {
        "accelerate",
        "zero-inference",
        "llama-cpp",
        "custom",
        "vllm-offload",
    }


def test_a_users_own_system_is_searched_as_it_is_written(tmp_path, scenario):
    """The file that was asked for, not the shipped one of the same name."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        (paths.SYSTEMS / "fiddler.yaml").read_text().replace("missing: [gpu, cpu, cheaper]", "missing: [gpu]")
    )
    mine, shipped = (search(scenario, systems=[name]) for name in (str(path), "fiddler"))
    assert {c.settings["system"] for c in mine.configurations} == {str(path)}
    assert {c.settings["missing"] for c in mine.configurations} == {"gpu"}
    assert {c.settings["missing"] for c in shipped.configurations} == {"gpu", "cpu", "cheaper"}
    assert mine.best.values["tpot"] > shipped.best.values["tpot"]


def test_a_remote_gpu_is_kept(scenario):
    """Systems that run experts on the CPU cannot use it; the others do."""
    remote = scenario.with_(offload={"backing": "remote_gpu", "remote_bandwidth": "20 GB/s"})
    result = search(remote, systems=["mixtral-offloading", "fiddler"])
    assert {c.settings["system"] for c in result.configurations} == {"mixtral-offloading"}


def test_several_gpus_are_tried_as_each_system_uses_them(scenario):
    result = search(scenario.with_(hardware="rtx-a6000-x2"), systems=["llama-cpp", "vllm-offload"], gpus=(1, 2))
    both = {(c.settings["system"], c.gpus) for c in result.configurations}
    assert both == {(name, n) for name in ("llama-cpp", "vllm-offload") for n in (1, 2)}
    plans = {c.settings["system"]: c.scenario(scenario).engine for c in result.configurations if c.gpus == 2}
    assert plans["llama-cpp"].pipeline_parallel_size == 2 and plans["vllm-offload"].tensor_parallel_size == 2
    resident = [c for c in result.configurations if c.settings.get("cpu_offload_gb") == 0 and c.fits]
    assert {c.gpus for c in resident if c.settings["experts_format"] == "int4"} == {1, 2}, "nothing off the GPU"
    wide = search(scenario, systems=["vllm-offload"], gpus=(2,))
    c = next(c for c in wide.configurations if c.fits and c.settings["cpu_offload_gb"])
    full = predict(c.scenario(scenario.with_(hardware="rtx-a6000-x2")))
    assert c.values["tpot"] == pytest.approx(full["mean_tpot_ms"] / 1e3, rel=0.05)


def test_nothing_between_amounts_is_missed(scenario):
    """Every whole amount of a knob, tried by hand: none beats what the search found by more than it says."""
    limits = ["gpu_memory <= 11 GiB"]
    few = search(scenario, "tpot", limits, ["fiddler"])
    best = min(
        (
            one.values["tpot"]
            for n in range(0, 257)
            if (one := _priced(scenario, {**few.best.settings, "resident_experts": n})).fits
            and one.values["gpu_memory"] <= 11 * 2**30
        ),
    )
    said = few.best.values["tpot"] * 0.99 if few.at_best is None else few.at_best
    assert best >= said * (1 - 1e-9)
    assert len(few.configurations) > 75, "gaps were looked into"


def _priced(scenario, settings):
    from moesim.explore.search.best import Configuration
    from moesim.explore.search.evaluate import METRICS, Pricer

    gives = Pricer(scenario, []).figures([settings], 1)[0]
    return Configuration(settings, 1, {name: getattr(gives, name) for name in METRICS}, gives.shortfalls)


def test_the_next_best_way_says_why_it_lost(scenario, found):
    said = runner_up(scenario, found)
    assert said is not None and "tpot +" in said["why"]


def test_one_token_has_no_time_between_tokens(scenario):
    one = scenario.with_(output_len=1)
    with pytest.raises(SpecError, match="minimise ttft"):
        search(one)
    result = search(one, "ttft", systems=["fiddler"])
    assert result.best.values["tpot"] is None and result.best.values["ttft"] > 0


def test_offloaded_models_have_no_parallel_plans(capsys):
    assert main(["plan", str(FILE), "--gpus", "1"]) == 2
    assert "see moesim search" in capsys.readouterr().err


def test_spaces_hold_whole_ranges():
    model, gpu = load_model("OLMoE-1B-7B-0924"), load_hardware("rtx-4090")
    assert amounts("offload_per_layer", model, gpu)[0] == 0 and amounts("offload_per_layer", model, gpu)[-1] == 64
    assert amounts("n_cpu_moe", model, gpu) == list(range(17))
    assert amounts("experts_on_gpu", model, gpu)[-1] == 64
    assert len(list(space(model, gpu, ("fiddler",)))) == 3 * 25


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu_memory 16", "is not METRIC <= VALUE"),
        ("gpu_memory <= 16", "write a number and a unit"),
        ("gpu_memory <= 16 ms", "is not in B"),
        ("beauty <= 3", "'beauty' is not a metric"),
        ("perplexity <= low", "is not a plain number"),
        ("tpot <= -3 ms", "a limit from 0"),
    ],
)
def test_bad_constraints(text, said):
    known = {"gpu_memory": "B", "tpot": "s", "perplexity": ""}
    with pytest.raises(SpecError) as error:
        parsed(text, known)
    assert said in str(error.value)


# The command line


def test_search_prints_writes_and_draws(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    table, picture = tmp_path / "all.csv", tmp_path / "front.png"
    arguments = ["search", str(FILE), "--where", "gpu_memory <= 12GiB", "--systems", "fiddler,llama-cpp", "--top", "3"]
    assert main([*arguments, "-o", str(table), "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "llama-cpp" in printed and "on the front" in printed and "gpu_memory <= 12 GiB" in printed
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 25 + 3 * 25 and {"tpot_s", "gpu_memory_bytes", "kept", "on_front"} <= set(rows[0])
    assert sum(row["kept"] == "True" for row in rows) > 10
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", "gpu_memory < 1"], "--where: 'gpu_memory < 1'"),
        (["--minimize", "beauty"], "--minimize: 'beauty' is not a metric"),
        (["--systems", "fidler"], "did you mean 'fiddler'"),
        (["--quality", "nowhere.csv"], "there is no such file"),
        (["-o", "out.txt"], "must end in .csv"),
        (["--picture", "no/such/folder.png"], "there is no folder"),
        (["--top", "0"], "1 or more"),
    ],
)
def test_bad_searches_exit_2(arguments, said, capsys):
    assert main(["search", str(FILE), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_an_impossible_search_exits_3(capsys):
    assert main(["search", str(FILE), "--where", "tpot <= 1 us", "--systems", "fiddler"]) == 3
    assert "relax tpot <= 0.001 ms to tpot <=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["offload.experts_on_gpu=-1", "offload.offload_per_layer=null"], "greater than or equal to 0"),
        (["offload.offload_per_layer=9"], "exceeds the 8 experts"),
        (["offload.cache=mru"], "'lru'"),
        (["offload.system=fidler"], "did you mean 'fiddler'"),
        (["offload.missing=cpu"], "runs nothing on the CPU"),
        (["offload.gpu_memory=16GiB"], "keep one"),
        (["offload.prefetch=next_layer"], "unit: layer"),
        (["offload.prefetch_recall=1.5"], "less than or equal to 1"),
        (["offload.experts_format=fp8"], "has no fp8 arithmetic"),
        (["offload.gpu_memory=16", "offload.offload_per_layer=null"], "has no unit"),
        (["offload.host_bandwidth=12"], "has no unit"),
        (["host=nowhere"], "the host 'nowhere' is not known"),
        (["engine.tensor_parallel_size=2"], "one after the other"),
        (["workload.max_concurrency=4"], "one batch after the other"),
        (["model=Qwen3-32B"], "has no experts to offload"),
        (["offload.unit=layer"], "offload_per_layer counts experts, but whole layers move"),
        (["offload.n_gpu_layers=3", "offload.unit=expert", "offload.offload_per_layer=null"], "counts whole layers"),
        (["offload.remote_bandwidth=9GB/s"], "set backing: remote_gpu"),
        (["offload.host_bandwidth=1KB/s"], "is not plausible"),
        (["offload={gpu_memory: 900 KiB}"], "is not plausible"),
        (["offload={missing: cpu, backing: remote_gpu}"], "cannot run what lies on another GPU"),
        (["offload=5"], "a section of keys is expected"),
        (["offload.backing=disk"], "reads nothing from disk"),
        (["offload={system: fiddler, n_gpu_layers: 8}"], "cheaper chooses for experts"),
        (["model=Llama-4-Scout-17B-16E-Instruct", "offload={system: adapmoe, skipped_share: 1}"], "cannot be skipped"),
        (["offload.system=/nowhere/mine.yaml"], "does not exist"),
        (["routing.kind=trace", "routing.file=trace.csv"], "accepted: 2 different numbers from 0 to 7"),
    ],
)
def test_bad_offloading_exits_2(settings, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "trace.csv").write_text("1,2,60\n")
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(FILE), *(word for s in settings for word in ("--set", s))]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_lanes_are_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for name in ("lanes.png", "lanes.svg", "lanes.json"):
        assert main(["predict", str(FILE), "--lanes", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 2000
    assert main(["predict", str(FILE), "--lanes", str(tmp_path / "lanes.txt")]) == 2
    assert main(["predict", str(paths.SCENARIOS / "olmoe.yaml"), "--lanes", str(tmp_path / "a.png")]) == 2
    assert "only a scenario with an offload section" in capsys.readouterr().err


def test_systems_are_listed(capsys):
    assert main(["systems"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in systems())


def test_the_study_page_has_not_drifted():
    scenario = load(paths.SCENARIOS / "offload" / "mixtral_48gb_study.yaml")
    page = (paths.ROOT / "docs" / "offload_study.md").read_text(encoding="utf-8")
    again = "run `moesim offload-study scenarios/offload/mixtral_48gb_study.yaml -o docs`"
    assert page == study_text(scenario, search(scenario)), again


def test_what_is_not_tried_is_said():
    few = search(load("llama_cpp_2x_rtx_5090"), systems=["llama-cpp"], gpus=(2, 3))
    assert {c.gpus for c in few.configurations} == {2}
    assert len(few.refused) == 1 and "takes 3 GPUs" in few.refused[0]
    assert "not tried: the plan takes 3 GPUs" in search_text(load("llama_cpp_2x_rtx_5090"), few, 1)


def test_long_prompts_in_many_chunks_are_searched_as_they_are_predicted():
    load_ = {"batch_size": 16, "input_len": 9000, "output_len": 50}
    asked = load("llama_cpp_rtx_4090").with_(workload=load_)
    few = search(asked, systems=["llama-cpp"])
    for c in few.configurations[:3]:
        whole = predict(c.scenario(asked))
        assert c.values["ttft"] == pytest.approx(whole["mean_ttft_ms"] / 1e3, rel=0.02)
        assert c.values["tpot"] == pytest.approx(whole["mean_tpot_ms"] / 1e3, rel=0.02)
