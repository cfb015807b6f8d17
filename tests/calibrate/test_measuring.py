"""`moesim calibrate`: points and their order, logs to datasets to fits, other people's data, checks, errors."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from moesim import load, load_hardware, load_model, paths, predict
from moesim.bench.kernels import TABLES
from moesim.bench.log import Log
from moesim.bench.point import Point
from moesim.calibrate import candidates, check, fitting, machine_file, measuring, others, store, tidy, worker
from moesim.calibrate.dataset import Dataset, open_dataset, stored
from moesim.calibrate.design import most_telling, telling_order
from moesim.calibrate.design_study import study
from moesim.calibrate.families import FAMILIES, measured_best
from moesim.calibrate.grid_file import load_grid
from moesim.calibrate.lint import lint
from moesim.calibrate.ordering import SOURCES, ordered
from moesim.cli import main
from moesim.cost.fit_file import load_fits
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import TunedTiles
from moesim.errors import CalibrationError, SpecError
from moesim.hardware.host import load_host
from moesim.report.design_page import TARGETS
from moesim.report.quality import quality_text, write_quality

pd = pytest.importorskip("pandas")
GPU, STACK = "nvidia-h100-sxm5-80gb", "vllm-0.25.0"
NUMBERS = GpuNumbers.of(load_hardware(GPU))
BY_NAME = {family.name: family for family in FAMILIES}
GRID = load_grid()
MODELS = [load_model(name) for name in ("OLMoE-1B-7B-0924", "DeepSeek-V2-Lite", "Mixtral-8x7B-v0.1")]
HERE = {
    "device": "cuda", "python": "3.12.3", "system": "Linux", "cpu": "Xeon", "cores": 16, "memory_bytes": 1 << 37,
    "versions": {"torch": "2.11.0", "vllm": "0.25.1"}, "gpu": "NVIDIA Test 3000", "gpus": 1,
    "compute_capability": "9.0", "sm_count": 100, "gpu_memory_bytes": 48 << 30, "l2_bytes": 40 << 20, "cuda": "13.0",
    "driver": "580.1", "memory_clock_most_hz": 2.6e9, "memory_bus_bits": 4096, "power_limit_w": 500.0,
    "pcie_generation": 5, "pcie_lanes": 16,
}  # fmt: skip
TUNED = TunedTiles({})


# Candidates and their order.


def test_candidates_are_distinct_and_each_has_a_kernel():
    gpu, host = candidates.gpu_points(MODELS, GRID, True, 8), candidates.host_points(MODELS, GRID, 16)
    keys = [point.key for point in [*gpu, *host]]
    assert len(set(keys)) == len(keys) > 4000
    assert {p.table for p in [*gpu, *host]} - {"nccl"} == set(TABLES)
    assert {p.table for p in host} == set(candidates.HOST_TABLES)
    assert all(GRID.shares.get(p.table) for p in [*gpu, *host])
    no_fp8 = candidates.gpu_points(MODELS, GRID, False, 1)
    assert not any("fp8" in str(dict(p.columns)) for p in no_fp8 if p.table != "elementwise")
    assert not any(p.table == "nccl" for p in no_fp8)


def test_every_table_begins_early_and_every_point_comes_once():
    points = candidates.gpu_points(MODELS[:1], GRID, True, 2)
    order = ordered(points, GRID.shares, NUMBERS, TUNED, "cuda")
    assert sorted(p.key for p in order) == sorted(p.key for p in points)
    assert [p.key for p in order] == [p.key for p in ordered(points, GRID.shares, NUMBERS, TUNED, "cuda")]
    early = {p.table for p in order[:200]}
    assert early == {p.table for p in points}


def test_the_design_takes_the_ends_of_a_line_first():
    """Intercept and slope are told apart by the ends; the middle tells nothing about either alone."""
    x = np.linspace(-1, 1, 41)
    jacobian = np.stack([np.ones_like(x), x], axis=1)[None]
    order = most_telling(jacobian, np.array(["a"] * 41), np.zeros(41), 4)
    assert {0, 40} <= set(order.tolist())
    cheap = np.where(x > 0, 1.0, 100.0)
    assert all(x[i] > 0 for i in most_telling(jacobian, np.array(["a"] * 41), np.zeros(41), 3, cheap))


def test_the_design_spreads_over_groups_that_err_together():
    jacobian, groups = np.ones((1, 40, 1)), np.repeat(["a", "b", "c", "d"], 10)
    assert len({groups[i] for i in most_telling(jacobian, groups, np.zeros(40), 4)}) == 4


@pytest.mark.slow
def test_few_chosen_points_of_the_public_table_do():
    """The gate on one family; docs/calibrate_points.md has five, and random draws."""
    found = study(stored(GPU, STACK), NUMBERS, "fused_moe/bfloat16", (100, 300), seeds=1)
    print(f"\n{found}")
    for many, most in TARGETS.items():
        assert found.ratio(many) <= most
        assert found.ratio(many) <= found.random_ratio(many)
    page = (paths.ROOT / "docs" / "calibrate_points.md").read_text()
    (cells,) = (line.split("|") for line in page.splitlines() if line.startswith(f"| {found.family} |"))
    written = {100: float(cells[7]), 300: float(cells[9])}
    assert written == pytest.approx({n: found.ratio(n) for n in written}, abs=0.02), "run `moesim design-study`"


# Logs, datasets, fits.


def _log(path, points, seconds, **more):
    with Log(path) as log:
        log.session(HERE)
        for point, s in zip(points, seconds, strict=True):
            row = {"kernel_source": "torch", "copies": 1, "seconds": s, "seconds_q1": 0.99 * s, "seconds_q3": 1.01 * s,
                   "samples": 15, "unstable": [], "at": 1.7e9}  # fmt: skip
            log.add(point, row | more)


def _streams():
    return [Point("stream", {"op": op, "bytes": size}) for op in ("copy", "read", "write") for size in GRID.stream]


def _stream_seconds(point, noise=1.0):
    return noise * (3e-6 + point.columns["bytes"] / 2.4e12)


@pytest.fixture
def dataset(tmp_path):
    """Streams of an imaginary GPU, with one unstable and one failed point."""
    log = tmp_path / "points.jsonl"
    draw = np.random.default_rng(0)
    points = _streams()
    _log(log, points, [_stream_seconds(p, float(np.exp(draw.normal(0, 0.02)))) for p in points])
    with Log(log) as more:
        hot = {"seconds": 1.0, "seconds_q1": 1.0, "seconds_q3": 1.0, "samples": 5, "copies": 1, "kernel_source": "t",
               "unstable": ["thermal"], "at": 1.7e9}  # fmt: skip
        more.add(Point("stream", {"op": "read", "bytes": 77}), hot)
        more.add(Point("stream", {"op": "read", "bytes": 78}), {"failed": "out of GPU memory", "at": 1.7e9})
    return tidy.write_dataset(tmp_path, log, "test-3000", "vllm-0.25.1")


def test_unstable_and_failed_points_are_counted_not_fitted(dataset):
    table, sheet = dataset.table("stream"), dataset.sheet
    assert len(table) == len(_streams()) and set(table["bytes"]) == set(GRID.stream)
    assert sheet["tables"]["stream"]["rows_read"] == len(table) + 2
    assert sheet["tables"]["stream"]["rows_dropped"] == {"unstable: thermal": 1, "failed: out of GPU memory": 1}
    assert sheet["environment"]["driver"] == "580.1" and sheet["units"]["bytes"] == "B" and sheet["doubts"]
    assert lint(dataset) == []


def test_a_fit_of_measured_rows_finds_what_made_them(dataset, tmp_path):
    fits = {fit.family.name: fit for fit in store.fit_all(dataset, replace(NUMBERS, hbm_bytes_per_s=3e12))}
    assert set(fits) == {"stream/copy", "stream/read", "stream/write"}
    for fit in fits.values():
        assert fit.parameters["e_hbm"] == pytest.approx(0.8, rel=0.05)
        assert fit.parameters["t_launch"] == pytest.approx(3e-6, rel=0.1)
    text = quality_text(list(fits.values()))
    assert "stream/copy" in text and "held-out error" in text
    (page,) = write_quality(tmp_path, dataset, list(fits.values()))
    said = page.read_text()
    assert "| stream/read |" in said and "unstable: thermal (1)" in said
    assert (tmp_path / "plots" / "stream-copy.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("units:\n", "unites:\n"), "'units' is missing"),
        (lambda text: text.replace("repetitions:", "repetition:"), "'repetitions' is missing"),
        (lambda text: text[: text.index("environment:")] + text[text.index("doubts:") :], "'environment' is missing"),
        (lambda text: text.replace("sha256: ", "sha256: 0"), "'tables.stream.sha256'"),
        (lambda text: text.replace("  bytes: B\n", ""), "the column 'bytes' has no unit in meta.yaml; B is expected"),
        (lambda text: text.replace("  stream:\n", "  streams:\n"), "'streams' has no file streams.parquet"),
    ],
)
def test_a_sheet_that_lacks_something_is_refused_with_the_line(dataset, change, said, capsys):
    meta = dataset.folder / "meta.yaml"
    meta.write_text(change(meta.read_text()))
    assert main(["calibrate", "--lint", str(dataset.folder)]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_rows_that_changed_or_cannot_be_times_are_refused(dataset):
    table = dataset.table("stream")
    table.loc[3, "seconds"] = -1.0
    pd.concat([table, table[:1]]).to_parquet(dataset.path("stream"), index=False)
    problems = "\n".join(map(str, lint(dataset)))
    for text in ("not those whose hash", "1 rows hold no positive time, the first is row 3", "more than once"):
        assert text in problems
    dataset.path("stream").write_bytes(b"no parquet")
    assert "is no Parquet table" in str(lint(dataset)[0])


def test_a_log_of_another_machine_is_not_continued(tmp_path):
    _log(tmp_path / "points.jsonl", _streams()[:1], [1e-6])
    tidy.check_same_place(tmp_path / "points.jsonl", HERE)
    with pytest.raises(
        CalibrationError, match=r"holds rows of driver 580\.1, here or later it is 590.*choose another folder"
    ):
        tidy.check_same_place(tmp_path / "points.jsonl", HERE | {"driver": "590"})


def test_a_log_without_a_stable_point_says_so(tmp_path):
    _log(tmp_path / "points.jsonl", _streams()[:2], [1e-6, 1e-6], unstable=["thermal"])
    with pytest.raises(CalibrationError, match="no stable measured point"):
        tidy.write_dataset(tmp_path, tmp_path / "points.jsonl", "x", "y")


SYNTHETIC = {
    "stream/copy": {"t_launch": 3e-6, "e_hbm": 0.8},
    "copy/h2d_pinned": {"t_copy": 6e-6, "bw_link": 2.2e10},
    "launch/graph": {"t_fixed": 9e-6, "t_kernel": 1.1e-6},
    "host_stream/read": {"bw_core": 1.4e10, "bw_dram": 5e10},
    "custom_all_reduce": None,
}
"""Family -> what makes its rows; None: its own starts."""


@pytest.mark.slow
def test_parameters_come_back_within_three_standard_errors(monkeypatch):
    """The figure of the issue: 95 times of 100, rows with 3 % noise."""
    inside: dict[str, list[bool]] = {}
    for name, made_by in SYNTHETIC.items():
        family = BY_NAME[name]
        rows = _synthetic_rows(family)
        truth = made_by or {q.name: q.start for q in family.form.parameters}
        exact = np.asarray(family.evaluator(rows, NUMBERS, TUNED)(truth).seconds)
        for seed in range(100):
            noisy = rows.assign(seconds=exact * np.exp(np.random.default_rng(seed).normal(0, 0.03, len(rows))))
            fit = fitting.fit_family(family, noisy, NUMBERS, TUNED)
            for q, value in truth.items():
                off = abs(fit.parameters[q] - value)
                inside.setdefault(f"{name} {q}", []).append(off <= 3 * fit.standard_errors[q])
    shares = {key: float(np.mean(values)) for key, values in inside.items()}
    print("\n" + "\n".join(f"{key}: {share:.0%}" for key, share in shares.items()))
    assert min(shares.values()) >= 0.95


def _synthetic_rows(family):
    if family.name == "custom_all_reduce":
        dataset = measured_best(family, GPU)
        assert dataset
        return family.select(dataset.table(family.table), NUMBERS)
    points = [*candidates.gpu_points(MODELS, GRID, True, 1), *candidates.host_points(MODELS, GRID, 16)]
    rows = pd.DataFrame([dict(p.columns) for p in points if p.table == family.table]).assign(kernel_source="")
    return family.select(rows, NUMBERS).reset_index(drop=True)


# Machines.


def test_an_unknown_gpu_gets_a_file_that_predicts(tmp_path):
    log = tmp_path / "points.jsonl"
    seconds = {"gemm": 2 * 8192**3 / 5e14, "stream": (1 << 30) / 2.3e12, "copy": 0.005}
    points = machine_file.peak_points(True)
    _log(log, points, [seconds[p.table] for p in points])
    path = machine_file.write_gpu_file(tmp_path, HERE, tidy.log_rows(log)[1])
    hardware = load_hardware(str(path))
    assert hardware.name == "nvidia-test-3000" and hardware.gpu.sm_count.value == 100
    assert hardware.gpu.hbm_bandwidth.value == pytest.approx(2.6e9 * 2 * 4096 / 8, rel=1e-3)
    assert hardware.gpu.dense_bf16.source == "assumed" and hardware.measured["best_bf16_gemm"].value == pytest.approx(
        5e14
    )
    scenario = load(paths.SCENARIOS / "olmoe.yaml").with_(hardware=str(path))
    assert predict(scenario)["mean_tpot_ms"] > predict(scenario.with_(hardware="h100-sxm"))["mean_tpot_ms"]
    with pytest.raises(CalibrationError, match="peaks could not be measured"):
        machine_file.write_gpu_file(tmp_path, HERE, [])


def test_shipped_gpus_are_found_by_their_drivers_name():
    for said, name in (
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-sxm5-80gb"), ("NVIDIA H200", "nvidia-h200-sxm-141gb"),
        ("NVIDIA GeForce RTX 4090", "nvidia-rtx-4090"), ("Tesla T4", "nvidia-t4-16gb"),
        ("NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm-80gb"), ("NVIDIA L40S", "nvidia-l40s-48gb"),
        ("NVIDIA B200", "nvidia-b200-sxm-180gb"), ("NVIDIA RTX A6000", "nvidia-rtx-a6000"),
    ):  # fmt: skip
        found = machine_file.known_hardware(said)
        assert found and found.name == name
    assert machine_file.known_hardware("NVIDIA Test 3000") is None


def test_small_kernels_of_a_calibration_price_steps(tmp_path, mixtral):
    """Norms, rope and the like are fitted once measured; until then a related kernel stands in."""
    points = [p for p in candidates.gpu_points(MODELS, GRID, True, 1) if p.table == "small"]
    log = tmp_path / "points.jsonl"
    _log(log, points, [4e-6 + 1e-9 * p.columns["rows"] for p in points])
    dataset = tidy.write_dataset(tmp_path, log, GPU, "vllm-0.25.1")
    fits = store.fit_all(dataset, NUMBERS)
    target = store.write_fit(tmp_path / "fit.json", store.as_data(dataset, fits))
    before, after = predict(mixtral), predict(mixtral.with_(calibration=str(target)))

    def norm(cost):
        if cost.name == "input_norm":
            return cost
        return next((found for child in cost.children if (found := norm(child))), None)

    assert "elementwise" in norm(before.cost).source and norm(before.cost).tag == "extrapolated"
    assert norm(after.cost).source.endswith("small/norm") and norm(after.cost).tag == "fitted"


# Other people's data.

NCCL = """# nThread 1 nGpus 2 minBytes 8 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20 validation: 1
# Using devices
#  Rank  0 Group  0 Pid   1887 on   worker-1 device  0 [0x8d] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid   1888 on   worker-1 device  1 [0x91] NVIDIA H100 80GB HBM3
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
        1024           512      half     sum      -1    15.72    0.07    0.07      0    15.51    0.07    0.07      0
     1048576        524288      half     sum      -1    27.76   37.78   37.78      0    27.49   38.15   38.15      0
     1048576        524288      half     sum      -1    28.76   37.78   37.78      0    27.49   38.15   38.15      0
     2097152        524288     float     sum      -1    40.66   51.58   51.58      0    39.99   52.44   52.44      0
# Avg bus bandwidth    : 42.53
"""
NVBANDWIDTH = {"nvbandwidth": {"version": "v0.7", "GPU Device List": ["0: NVIDIA H100"], "testcases": [
    {"name": "host_to_device_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["55.4", "N/A"]]},
    {"name": "device_to_host_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["53.1"]]},
    {"name": "device_to_device_memcpy_read_ce", "status": "Waived"},
]}}  # fmt: skip


def test_nccl_tests_logs_become_a_table(tmp_path, capsys):
    log = tmp_path / "all_reduce_perf.log"
    log.write_text(NCCL)
    folder = tmp_path / "out"
    assert main(["calibrate", "--from", str(log), "--hardware", "h100-sxm", "-o", str(folder)]) == 0
    dataset = open_dataset(folder)
    table = dataset.table("nccl")
    assert table["message_bytes"].tolist() == [1024, 1048576] and set(table["num_gpus"]) == {2}
    assert table["seconds"].tolist() == pytest.approx([15.72e-6, 28.26e-6])
    dropped = dataset.sheet["tables"]["nccl"]["rows_dropped"]
    assert dropped == {"sums in formats other than half and bfloat16": 1, "measured more than once: median kept": 1}
    assert lint(dataset) == []


def test_an_unnamed_collective_and_an_empty_log_are_sentences(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text(NCCL)
    with pytest.raises(CalibrationError, match=r"name the file after it, like all_reduce_perf\.log"):
        others.import_nccl_tests([log], tmp_path, load_hardware(GPU))
    (tmp_path / "all_reduce.log").write_text("\n".join(line for line in NCCL.splitlines() if "half" not in line))
    with pytest.raises(CalibrationError, match=r"sums in formats other than half and bfloat16 \(1\)"):
        others.import_nccl_tests([tmp_path / "all_reduce.log"], tmp_path, load_hardware(GPU))


def test_nvbandwidth_becomes_copies(tmp_path, capsys):
    path = tmp_path / "nv.json"
    path.write_text(json.dumps(NVBANDWIDTH))
    assert main(["calibrate", "--from", str(path), "--hardware", "h100-sxm", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "not fitted" in said.err
    table = open_dataset(tmp_path / "out").table("copy")
    rate = (table["bytes"] / table["seconds"]).tolist()
    assert rate == pytest.approx([55.4e9, 53.1e9]) and table["direction"].tolist() == ["h2d", "d2h"]


def test_vllm_bench_json_becomes_a_run_set(tmp_path, capsys):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"completed": 8, "total_input_tokens": 800, "total_output_tokens": 80,
                                "max_concurrency": 4, "mean_ttft_ms": 30.0, "mean_tpot_ms": 9.0}))  # fmt: skip
    scenario = str(paths.SCENARIOS / "mixtral_tp4.yaml")
    assert main(["calibrate", "--from", str(path), "--scenario", scenario, "-o", str(tmp_path)]) == 0
    assert (tmp_path / "result_runs.yaml").is_file()
    assert main(["calibrate", "--from", str(path)]) == 2
    assert "--scenario: says what served" in capsys.readouterr().err


def test_a_file_of_no_known_kind_is_named(tmp_path, capsys):
    path = tmp_path / "x.txt"
    path.write_text("hello")
    assert main(["calibrate", "--from", str(path), "--hardware", "h100-sxm"]) == 2
    assert "nothing known here; accepted are a log of nccl-tests" in capsys.readouterr().err
    assert main(["calibrate", "--from", str(tmp_path / "nowhere")]) == 2
    assert "there is no such file" in capsys.readouterr().err


# Does it still hold?


@pytest.mark.parametrize(("slower", "holds"), [(1.03, True), (1.3, False)])
def test_a_check_measures_ten_points_again(dataset, monkeypatch, capsys, slower, holds):
    monkeypatch.setattr(worker, "environment_of", lambda device, busy=False: HERE)

    def measure(points, log, device, seconds, busy=False, told=None):
        _log(log, points, [slower * _stream_seconds(p) for p in points])

    monkeypatch.setattr(worker, "measure", measure)
    assert main(["calibrate", "--check", str(dataset.folder)]) == (0 if holds else 5)
    said = capsys.readouterr().out
    assert ("still holds" if holds else "no longer holds") in said and said.count("stream op=") == 10


def test_a_check_elsewhere_or_of_nothing_is_refused(dataset, monkeypatch):
    monkeypatch.setattr(worker, "environment_of", lambda device, busy=False: HERE | {"gpu": "Other"})
    with pytest.raises(CalibrationError, match="measured on 'NVIDIA Test 3000', this is 'Other'"):
        check.check(dataset, "cuda", False)
    monkeypatch.setattr(worker, "environment_of", lambda device, busy=False: HERE)
    with pytest.raises(CalibrationError, match="holds no table that --device cpu measures; it holds stream"):
        check.check(dataset, "cpu", False)


# The command line.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "--minutes: 0 is no time to measure in"),
        (["--most-points", "0"], "--most-points: 0 is no number of points"),
        (["--device", "cuda"], "there is no GPU to measure"),
        (["--device", "cpu", "--tables", "gemms"], "nothing here measures 'gemms'; tables are host_call"),
        (["--device", "cpu", "--models", "nobody"], "the model 'nobody' is neither"),
        (["--device", "cpu", "--fit-only", "-o", "nowhere"], "'nowhere/points.jsonl' does not exist"),
        (["--lint", "nowhere"], "'nowhere' is no dataset"),
        (["--check", "nowhere"], "'nowhere' is no dataset"),
    ],
)
def test_bad_input_is_a_sentence(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not list(tmp_path.glob("*/fit.json"))


@pytest.mark.slow
def test_a_short_calibration_of_the_host_end_to_end(tmp_path, capsys):
    """Seconds of the real thing: measure, resume, fit, host file; alone on the machine, or samples lie apart."""
    folder = tmp_path / "host"
    arguments = ["calibrate", "--device", "cpu", "--minutes", "1", "--tables", "host_stream", "-o", str(folder)]
    assert main([*arguments, "--most-points", "3"]) == 2, "three points are too few to leave any out"
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "host_stream/read" in said.out and (folder / "quality.md").is_file()
    rows = tidy.log_rows(folder / "points.jsonl")[1]
    assert len({row["key"] for row in rows}) == len(rows)
    assert lint(open_dataset(folder)) == []
    assert main(["calibrate", "--lint", str(folder)]) == 0


@pytest.mark.slow
def test_two_minutes_on_the_host(tmp_path, capsys):
    folder = tmp_path / "host"
    assert main(["calibrate", "--device", "cpu", "--minutes", "2", "-o", str(folder)]) == 0
    said = capsys.readouterr()
    print(said.out)
    (host_file,) = (p for p in folder.glob("*.yaml") if p.name != "meta.yaml")
    host = load_host(str(host_file))
    assert 1e9 < host.dram.bandwidth.value < 1e12 and host.dram.bandwidth.source == "measured"
    assert 1e9 < host.cpu.flop_rate.value < 1e14
    assert set(host.cpu.rates) >= {"torch-bf16"} and all(rate.source == "measured" for rate in host.cpu.rates.values())
    assert f"--host {host_file}" in said.out
    fits = json.loads((folder / "fit.json").read_text())["families"]
    assert {"host_stream/read", "host_expert/bfloat16"} <= set(fits)
    small = {"model": "OLMoE-1B-7B-0924", "host": str(host_file)}
    scenario = load(paths.SCENARIOS / "offload" / "fiddler_rtx_4090.yaml").with_(**small)
    assert predict(scenario)["mean_tpot_ms"] > 0
    rows = tidy.log_rows(folder / "points.jsonl")[1]
    assert len({row["key"] for row in rows}) == len(rows) > 30


def test_a_worker_that_dies_costs_its_point(tmp_path, monkeypatch):
    """The process is killed at its first point, twice; the rest is measured by the next one."""
    plan = [Point("host_call", {"threads": t}) for t in (1, 2, 3)]
    run, deaths = worker._measuring, []

    def dying(*arguments):
        if len(deaths) < 2:
            deaths.append(plan[len(deaths)])
            return worker._Ended(-11, deaths[-1], words="Segmentation fault")
        return run(*arguments)

    monkeypatch.setattr(worker, "_measuring", dying)
    progress = worker.measure(plan, tmp_path / "points.jsonl", "cpu", 60.0)
    rows = {row["point"]["threads"]: row for row in tidy.log_rows(tmp_path / "points.jsonl")[1]}
    assert "SIGSEGV" in rows[1]["failed"] and "SIGSEGV" in rows[2]["failed"] and rows[3]["seconds"] > 0
    assert progress.counts["failed"] == 2 and progress.counts["measured"] + progress.counts["unstable"] == 1


def test_telling_order_needs_no_times():
    family = BY_NAME["fused_moe/bfloat16"]
    rows = family.select(stored(GPU, STACK).table(family.table), NUMBERS).reset_index(drop=True)[:400]
    blind = telling_order(family, rows.drop(columns="seconds"), NUMBERS, TUNED, 20)
    assert blind.tolist() == telling_order(family, rows, NUMBERS, TUNED, 20).tolist()


def test_datasets_are_found_by_name_and_folder(dataset):
    assert open_dataset(f"{GPU}/{STACK}").tables == stored(GPU, STACK).tables
    assert open_dataset(str(dataset.folder)).gpu == "test-3000"
    with pytest.raises(
        CalibrationError, match=r"is no dataset: a folder with meta\.yaml and tables, or one of: nvidia-a100"
    ):
        open_dataset("x")
    with pytest.raises(CalibrationError, match="no table 'gemm' for a under b"):
        Dataset(dataset.folder, "a", "b").table("gemm")


def test_a_users_machine_is_found_and_its_log_continued(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "environment_of", lambda device, busy=False: HERE)
    machine = measuring.find_machine(measuring.Asked("cuda", 1.0))
    assert machine.name == "nvidia-test-3000" and machine.stack == "vllm-0.25.1" and machine.hardware is None
    assert machine.folder.name == "calibration-nvidia-test-3000-vllm-0.25.1" and machine.fp8
    known = measuring.find_machine(measuring.Asked("cuda", 1.0, hardware="h100-sxm"))
    assert known.name == GPU and known.hardware
    with pytest.raises(SpecError, match="not known"):
        measuring.find_machine(measuring.Asked("cuda", 1.0, hardware="nothing"))


FLOOD = """
import sys
for i in range(4000):
    print("warning " * 20, file=sys.stderr)
print('["measured", {"table": "host_call", "threads": 1}]', flush=True)
"""


def test_a_process_that_prints_much_or_hangs_does_not_stop_us(monkeypatch, tmp_path):
    """A full pipe of warnings must not block it, and one that never ends is killed with all it started."""
    monkeypatch.setattr(worker, "_PACKAGE", tmp_path / "moesim")
    (tmp_path / "moesim" / "bench").mkdir(parents=True)
    (tmp_path / "moesim" / "__init__.py").touch()
    (tmp_path / "moesim" / "bench" / "__init__.py").touch()
    script = tmp_path / "moesim" / "bench" / "__main__.py"
    script.write_text(FLOOD)
    heard = []
    ended = worker._run(["points"], 60.0, lambda what, data: heard.append(what))
    assert heard == ["measured"] and ended.code == 0 and ended.words.startswith("warning")
    script.write_text("import time, subprocess\nsubprocess.Popen(['sleep', '60'])\ntime.sleep(60)\n")
    ended = worker._run(["points"], 1.0, lambda what, data: None)
    assert ended.hung and ended.cause == "it hung and was killed"


def test_a_folder_is_measured_into_by_one_at_a_time(tmp_path):
    from moesim.bench.log import LogError

    with Log(tmp_path / "points.jsonl"), pytest.raises(LogError, match="being written by another measurement"):
        Log(tmp_path / "points.jsonl")


def test_rows_over_many_buffers_are_priced_with_their_share_of_l2():
    family = BY_NAME["gemm/bfloat16"]
    rows = pd.DataFrame({"m": [4, 4], "n": [2048, 2048], "k": [2048, 2048], "gemm_dtype": "bfloat16", "copies": [1, 8]})
    start = {q.name: q.start for q in family.form.parameters} | {"n_rotated": 1.0}
    warm, cold = family.evaluator(rows, NUMBERS, TUNED)(start).seconds
    assert cold > 1.05 * warm
    assert family.evaluator(rows.drop(columns="copies"), NUMBERS, TUNED)(start).seconds[0] == pytest.approx(warm)


def test_files_of_the_user_are_never_written_over(tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "results.parquet").write_text("precious")
    for command in (["--device", "cpu", "--tables", "host_call"], ["--from", str(tmp_path / "all_reduce.log")]):
        (tmp_path / "all_reduce.log").write_text(NCCL)
        assert main(["calibrate", *command, "--hardware", "h100-sxm", "-o", str(mine)]) == 2
        assert "holds files, and no points.jsonl of an earlier run" in capsys.readouterr().err
    assert [p.name for p in mine.iterdir()] == ["results.parquet"]


def test_several_nccl_logs_make_one_table_and_wrong_ones_are_told(tmp_path, capsys):
    logs = [tmp_path / f"{kind}_perf.log" for kind in ("all_reduce", "all_gather")]
    for log in logs:
        log.write_text(NCCL.replace("     0    15.51", "     7    15.51"))
    folder = tmp_path / "out"
    assert main(["calibrate", "--from", *map(str, logs), "--hardware", "h100-sxm", "-o", str(folder)]) == 0
    sheet = open_dataset(folder).sheet["tables"]["nccl"]
    assert set(open_dataset(folder).table("nccl")["collective"]) == {"all_reduce", "all_gather"}
    assert sheet["rows_dropped"]["wrong results"] == 2 and sheet["rows_read"] == 8
    capsys.readouterr()
    assert main(["calibrate", "--from", str(logs[0]), "--hardware", "h100-sxm", "-o", str(folder)]) == 2
    assert "holds files" in capsys.readouterr().err
    logs[0].write_text(NCCL.replace("H100 80GB HBM3", "A100-SXM4-80GB"))
    assert main(["calibrate", "--from", str(logs[0]), "--hardware", "h100-sxm", "-o", str(tmp_path / "b")]) == 2
    assert "which is nvidia-a100-sxm-80gb, not nvidia-h100-sxm5-80gb" in capsys.readouterr().err


@pytest.mark.parametrize(
    "broken",
    [[], {"testcases": None}, {"testcases": [{"name": ["x"], "status": "Passed"}]},
     {"testcases": [{"name": "host_to_device_memcpy_ce", "status": "Passed", "bandwidth_matrix": [5, ["1.2.3"]]}]},
     {"testcases": [{"name": "host_to_device_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["99999999"]]}]}],
)  # fmt: skip
def test_broken_nvbandwidth_output_is_a_sentence(tmp_path, capsys, broken):
    path = tmp_path / "nv.json"
    path.write_text(json.dumps({"nvbandwidth": broken}))
    assert main(["calibrate", "--from", str(path), "--hardware", "h100-sxm", "-o", str(tmp_path / "out")]) == 2
    assert "holds no host_to_device_memcpy_ce" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    ['{"session": {}}', '{"point": 3, "at": 1}',
     '{"point": {"table": "gemm"}, "at": 1, "seconds": "fast", "unstable": []}',
     '{"point": {"table": "gemm"}, "at": 1, "seconds": 0.0, "unstable": []}',
     '{"point": {"table": "gemm"}, "at": 1, "seconds": 1.0, "unstable": []}',
     '{"point": {"table": "gemm", "m": [1]}, "at": 1, "failed": ""}',
     '{"point": {"table": "gemm"}, "at": 1e999, "failed": ""}',
     '{"point": {"table": "gemm"}, "at": 1}'],
)  # fmt: skip
def test_a_damaged_log_is_named_with_its_line(tmp_path, capsys, line):
    log = tmp_path / "points.jsonl"
    _log(log, _streams()[:1], [1e-6])
    log.write_text(log.read_text() + "\n" + line + "\n")
    assert main(["calibrate", "--fit-only", "-o", str(tmp_path)]) == 2
    assert "points.jsonl:4: is no row of a log of measurements; delete the line" in capsys.readouterr().err
    log.write_text("")
    assert main(["calibrate", "--fit-only", "-o", str(tmp_path)]) == 2
    assert "does not say where it was measured" in capsys.readouterr().err


def test_logs_of_two_machines_are_not_fitted_together(tmp_path, capsys):
    log = tmp_path / "points.jsonl"
    _log(log, _streams()[:2], [1e-6, 1e-6])
    with Log(log) as more:
        more.session(HERE | {"cores": 64})
        more.add(_streams()[2], {"failed": "x", "at": 1.0})
    assert main(["calibrate", "--fit-only", "-o", str(tmp_path)]) == 2
    assert "holds rows of cores 16, here or later it is 64" in capsys.readouterr().err


def test_fitting_an_unknown_gpu_without_peaks_asks_for_its_file(tmp_path, capsys):
    points = [Point("gemm", {"gemm_dtype": "bfloat16", "m": m, "n": 64, "k": 64}) for m in range(1, 31)]
    _log(tmp_path / "points.jsonl", points, [1e-5] * 30)
    assert main(["calibrate", "--fit-only", "-o", str(tmp_path)]) == 2
    assert "describe it by hand" in capsys.readouterr().err and not (tmp_path / "fit.json").exists()


def test_a_processors_fit_prices_no_gpu(tmp_path, capsys):
    path = tmp_path / "fit.json"
    family = {"parameters": {}, "valid_range": {}, "residuals": {"edges_s": [], "half_width": [0.1]}}
    path.write_text(json.dumps({"gpu": "cpu", "stack": "torch", "families": {"host_stream/read": family}}))
    assert main(["predict", str(paths.SCENARIOS / "mixtral_tp4.yaml"), "--calibration", str(path)]) == 2
    assert "is of a processor and prices no GPU; give its .yaml to --host" in capsys.readouterr().err


def test_a_loose_or_poor_fit_is_marked(dataset):
    (copy, *_) = store.fit_all(
        dataset, replace(NUMBERS, hbm_bytes_per_s=3e12), wanted=lambda family: family.name == "stream/copy"
    )
    assert "!" not in quality_text([copy])
    poor = replace(copy, held_out=copy.held_out.assign(predicted=2 * copy.held_out["seconds"]))
    loose = replace(copy, standard_errors={"t_launch": 1.0, "e_hbm": 0.0})
    bound = replace(copy, parameters={"t_launch": copy.parameters["t_launch"], "e_hbm": 1.2})
    assert "off by more than 30%" in quality_text([poor])
    assert quality_text([loose]).endswith("t_launch") and quality_text([bound]).endswith("e_hbm")


def test_stopping_is_no_traceback(monkeypatch, capsys):
    def stopped(device, busy=False):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "environment_of", stopped)
    assert main(["calibrate", "--device", "cpu"]) == 130
    assert "what is done is kept, and the same command goes on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_gpu_calibration_of_imagined_times(tmp_path, monkeypatch, capsys):
    """Every table of a GPU from candidates to quality page; times are the shipped H100 fit's, with 3 % noise."""
    points = [*candidates.gpu_points(MODELS, GRID, True, 1), *machine_file.peak_points(True)]
    order = ordered(points, GRID.shares, NUMBERS, TUNED, "cuda")[:1500]
    truth = {name: family.parameters for name, family in load_fits(f"{GPU}/{STACK}").families.items()}
    draw, seconds = np.random.default_rng(0), {}
    for table in sorted({p.table for p in order}):
        rows = pd.DataFrame([dict(p.columns) for p in order if p.table == table])
        rows["kernel_source"] = [SOURCES.get((table, r.get("moe_dtype") or r.get("gemm_dtype")), "") for r in
                                 rows.to_dict("records")]  # fmt: skip
        keys = [p.key for p in order if p.table == table]
        for family in (f for f in FAMILIES if f.table == table):
            mine = family.select(rows, NUMBERS)
            if len(mine):
                start = {q.name: q.start for q in family.form.parameters}
                exact = family.evaluator(mine, NUMBERS, TUNED)(truth.get(family.name, start)).seconds
                exact = np.broadcast_to(exact, len(mine)) * np.exp(draw.normal(0, 0.03, len(mine)))
                seconds |= {keys[i]: float(s) for i, s in zip(mine.index, exact, strict=True)}
    log = tmp_path / "points.jsonl"
    with Log(log) as opened:
        opened.session(HERE | {"gpu": "NVIDIA H100 80GB HBM3"})
        for point in order:
            s = seconds.get(point.key, 1e-4)
            source = SOURCES.get((point.table, point.columns.get("moe_dtype") or point.columns.get("gemm_dtype")), "x")
            opened.add(point, {"kernel_source": source, "copies": 1, "seconds": s, "seconds_q1": s, "seconds_q3": s,
                               "samples": 15, "unstable": [], "at": 1.7e9})  # fmt: skip
    assert main(["calibrate", "--fit-only", "-o", str(tmp_path)]) == 0
    print(capsys.readouterr().out)
    fits = json.loads((tmp_path / "fit.json").read_text())["families"]
    for name in ("fused_moe/bfloat16", "fused_moe/fp8_block", "gemm/bfloat16", "gemm/fp8", "attention_decode",
                 "attention_prefill", "mla_decode", "small/activation", "stream/read", "launch/graph"):  # fmt: skip
        assert fits[name]["held_out"]["mean_absolute_error"] < 0.06, name
    scenario = load(paths.SCENARIOS / "mixtral_tp4.yaml")
    ours = predict(scenario.with_(calibration=str(tmp_path / "fit.json")))["mean_tpot_ms"]
    assert ours == pytest.approx(predict(scenario)["mean_tpot_ms"], rel=0.1)
