"""What runs on the machine that is measured: logs that survive a kill, timers, kernels, the environment."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import types

import pytest

from moesim.bench import collectives, environment, kernels
from moesim.bench.errors import BenchError, DeviceLost
from moesim.bench.log import Log, LogError, rows
from moesim.bench.point import Point
from moesim.bench.power import Meter
from moesim.bench.session import measure, measured
from moesim.bench.timing import Times, time_calls
from moesim.bench.watch import Watch

torch = pytest.importorskip("torch")
CALL = Point("host_call", {"threads": 1})
ROW = {"unstable": [], "at": 1.7e9, "seconds_q1": 1.0, "seconds_q3": 1.0, "copies": 1, "samples": 9,
       "kernel_source": "torch"}  # fmt: skip
READS = [Point("host_stream", {"op": "read", "bytes": 1 << 16, "threads": t}) for t in (1, 2)]


def test_a_point_is_its_columns_in_any_order():
    a, b = Point("gemm", {"m": 1, "n": 2}), Point("gemm", {"n": 2, "m": 1})
    assert a.key == b.key and Point.of(a.as_data()).key == a.key
    assert Point("gemm", {"m": 1, "n": 3}).key != a.key != Point("moe", {"m": 1, "n": 2}).key


def test_a_log_goes_on_after_a_line_cut_short(tmp_path):
    path = tmp_path / "points.jsonl"
    with Log(path) as log:
        log.session({"device": "cpu", "versions": {}})
        log.add(CALL, {"seconds": 1.0, **ROW})
        log.add(CALL, {"seconds": 2.0, **ROW})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "cut sho')
    with Log(path) as log:
        assert log.done == {CALL.key}
        log.add(READS[0], {"seconds": 3.0, **ROW})
    found = [row for row in rows(path) if "point" in row]
    assert [row["seconds"] for row in found] == [1.0, 3.0]
    assert path.read_bytes().startswith(whole)


def test_a_log_that_is_none_is_named_with_its_line(tmp_path):
    path = tmp_path / "points.jsonl"
    path.write_text('{"session": {"device": "cpu", "versions": {}}}\nnot json\n')
    with pytest.raises(LogError, match=r"points.jsonl:2: is no row of a log of measurements; delete the line"):
        list(rows(path))


def test_a_full_disk_keeps_whole_rows(tmp_path, monkeypatch):
    path = tmp_path / "points.jsonl"
    with Log(path) as log:
        log.add(CALL, {"seconds": 1.0, **ROW})
        write = os.write

        def full(file, data):
            write(file, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(LogError, match="No space left on device; rows so far are kept"):
            log.add(READS[0], {"seconds": 2.0})
        monkeypatch.undo()
    assert [row["seconds"] for row in rows(path)] == [1.0]


def test_times_are_medians_with_quartiles_and_a_trend():
    times = Times.of([1.0, 1.1, 0.9, 1.0, 2.0, 2.1, 1.9, 2.0], 8, "clock")
    assert times.seconds == 1.5 and times.seconds_q1 < times.seconds < times.seconds_q3
    assert times.trend == pytest.approx(1.0)


def test_a_cpu_timer_sees_how_long_a_call_sleeps():
    times = time_calls([lambda: time.sleep(0.004)] * 3, "cpu")
    assert 0.004 <= times.seconds < 0.02 and times.samples >= 5 and times.how == "wall clock"


def test_a_session_measures_each_point_once_and_stops_in_time(tmp_path):
    told = []
    with Log(tmp_path / "points.jsonl") as log:
        measure([CALL, *READS, CALL], log, "cpu", time.monotonic() + 60, lambda what, at: told.append((what, at.table)))
        assert log.done == {p.key for p in (CALL, *READS)}
        measure([Point("host_call", {"threads": 2})], log, "cpu", time.monotonic() - 1)
        assert len(log.done) == 3
    assert [what for what, _ in told].count("begin") == 3
    row = next(row for row in rows(tmp_path / "points.jsonl"))
    assert row["seconds_q1"] <= row["seconds"] <= row["seconds_q3"] and row["kernel_source"].startswith("torch")


def test_a_point_that_varies_is_measured_again(tmp_path, monkeypatch):
    """Samples that lie apart may be another process's doing: the first steady row counts, and there are few tries."""
    seen = iter([["drifting"], [], *[["drifting"]] * 3, ["thermal"], *[["drifting"]] * 2])
    monkeypatch.setattr("moesim.bench.session.measured", lambda *_: ROW | {"seconds": 1.0, "unstable": next(seen)})
    told = []
    points = [Point("host_call", {"threads": n}) for n in (1, 2, 3)]
    with Log(tmp_path / "points.jsonl") as log:
        measure(points, log, "cpu", time.monotonic() + 60, lambda what, at: told.append(what))
    assert told == ["begin", "measured", "begin", "unstable", "begin", "unstable"]
    assert len(list(seen)) == 2, "heat does not go away by trying again"


def test_what_fails_is_kept_with_its_reason_and_a_dead_table_is_given_up(tmp_path):
    wrong = [Point("host_matmul", {"m": -1 - i, "n": 4, "k": 4, "dtype": "float32", "threads": 1}) for i in range(30)]
    with Log(tmp_path / "points.jsonl") as log:
        measure([*wrong, CALL], log, "cpu", time.monotonic() + 60)
    found = list(rows(tmp_path / "points.jsonl"))
    assert sum("failed" in row for row in found) == 20 and "seconds" in found[-1]
    assert "RuntimeError" in found[0]["failed"]


def test_memory_that_runs_out_is_a_row_and_a_lost_device_ends_the_process(tmp_path, monkeypatch):
    def out_of_memory(point, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kernels, "build", out_of_memory)
    assert measured(CALL, "cpu", Watch("cpu"))["failed"] == "out of GPU memory"

    def lost(point, device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(kernels, "build", lost)
    with Log(tmp_path / "points.jsonl") as log, pytest.raises(DeviceLost):
        measure([CALL], log, "cpu", time.monotonic() + 60)
    assert "illegal memory access" in next(rows(tmp_path / "points.jsonl"))["failed"]


@pytest.mark.slow
def test_ten_kills_lose_and_double_nothing(tmp_path):
    """The figure of the issue: kill at ten random moments, go on, same rows, none twice, none broken."""
    points = [
        Point("host_stream", {"op": op, "bytes": 1 << 14 << i, "threads": t})
        for i in range(8) for op in ("read", "copy") for t in (1, 2)
    ]  # fmt: skip
    plan, log = tmp_path / "plan.jsonl", tmp_path / "points.jsonl"
    plan.write_text("".join(json.dumps(p.as_data()) + "\n" for p in points))
    command = [sys.executable, "-m", "moesim.bench", "points", str(plan), str(log), "--device", "cpu"]
    draw, sizes = random.Random(0), []
    for _ in range(10):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(draw.uniform(0, 2.0))
            process.send_signal(signal.SIGKILL)
        sizes.append(sum("point" in row for row in rows(log)))
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
    found = [row for row in rows(log) if "point" in row]
    assert sorted(row["key"] for row in found) == sorted(p.key for p in points)
    assert all(row["seconds"] > 0 for row in found) and log.read_bytes().endswith(b"\n")
    assert sizes == sorted(sizes) and 0 < sizes[0] < sizes[-1]


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("gemm", {"gemm_dtype": "bfloat16", "m": 3, "n": 16, "k": 32}),
        ("expert_loop", {}),
        ("fused_moe", {}),
        ("attention_prefill", {"isl": 8, "past": 0}),
        ("attention_decode", {"step": 7}),
        ("elementwise", {"m": 4, "k": 32}),
        *(("small", {"op": op}) for op in
          ("norm", "rope", "activation", "top_k", "permute", "sum", "embedding", "sampling", "cache_write")),
        *(("stream", {"op": op, "bytes": 1 << 12}) for op in ("copy", "read", "write")),
        ("copy", {"direction": "h2d", "memory": "pageable", "bytes": 256, "beside": "nothing"}),
        ("host_expert", {"num_tokens": 2, "dtype": "float32", "threads": 1}),
        ("host_matmul", {"m": 2, "n": 8, "k": 8, "dtype": "bfloat16", "threads": 1}),
    ],
)  # fmt: skip
def test_every_kernel_that_needs_no_gpu_runs(table, columns, monkeypatch):
    """Plain torch's stand-ins, on the processor: names, shapes and what a point's columns mean."""
    monkeypatch.setattr("moesim.bench.kernels.experts.COLD_BYTES", 0)
    monkeypatch.setattr("moesim.bench.kernels.host._COLD_BYTES", 0)
    common = {
        "num_tokens": 6, "hidden_size": 32, "inter_size": 16, "topk": 2, "num_experts": 4, "moe_dtype": "bfloat16",
        "distribution": "uniform", "batch_size": 2, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "kv_cache_dtype": "bfloat16", "rows": 5, "width": 32, "heads": 4, "kv_heads": 2, "vocab_size": 50,
    }  # fmt: skip
    kernel = kernels.build(Point(table, common | columns), "cpu")
    for call in kernel.calls:
        call()
    assert kernel.source and kernel.calls


def test_fused_and_looped_experts_compute_the_same():
    from moesim.bench.kernels import experts
    from moesim.bench.kernels.routes import routes

    x = torch.randn(12, 32)
    up, down = torch.randn(4, 32, 32) * 0.1, torch.randn(4, 32, 16) * 0.1
    weights, ids = routes("cpu", 12, 4, 2, "zipf_1.0", 1)[0]
    expected = torch.zeros_like(x)
    for token in range(12):
        for place in range(2):
            e = int(ids[token, place])
            gate, linear = (up[e] @ x[token]).chunk(2)
            expected[token] += weights[token, place] * (down[e] @ (torch.nn.functional.silu(gate) * linear))
    assert torch.allclose(experts._loop(x, up, down, weights, ids), expected, atol=1e-5)
    half = [t.bfloat16() for t in (x, up, down)]
    grouped = experts._grouped(*half, weights, ids).float()
    assert torch.allclose(grouped, expected, atol=0.03)


@pytest.mark.parametrize("distribution", ["balanced", "uniform", "zipf_1.2", "power_law_1.01", "identical"])
def test_routes_pick_different_experts(distribution):
    from moesim.bench.kernels.routes import routes

    for weights, ids in routes("cpu", 40, 16, 4, distribution):
        assert ids.shape == weights.shape == (40, 4) and ids.dtype == torch.int32
        assert all(len(set(row)) == 4 and 0 <= min(row) <= max(row) < 16 for row in ids.tolist())
    drawn = [ids for _, ids in routes("cpu", 40, 16, 4, distribution)]
    assert len({tuple(ids[0].tolist()) for ids in drawn}) > 1, "draws touch other experts, or they would stay in L2"
    if distribution == "balanced":
        assert drawn[0][3].tolist() == [3, 7, 11, 15] and drawn[1][3].tolist() == [4, 8, 12, 0]
    if distribution == "identical":
        assert len({tuple(row) for row in ids.tolist()}) == 1


def test_skewed_routes_are_skewed_and_traces_repeat(tmp_path):
    from moesim.bench.kernels.routes import routes

    def share(distribution):
        counts = torch.bincount(routes("cpu", 4000, 16, 2, distribution, 1)[0][1].flatten(), minlength=16)
        return float(counts.max() / counts.sum())

    assert share("uniform") < 0.08 and share("zipf_1.2") > 0.15
    trace = tmp_path / "trace.csv"
    trace.write_text("# experts\n0,1\n2,3\n")
    assert routes("cpu", 3, 4, 2, f"trace_{trace}", 1)[0][1].tolist() == [[0, 1], [2, 3], [0, 1]]
    with pytest.raises(ValueError, match="holds not 2 expert numbers below 3"):
        routes("cpu", 3, 3, 2, f"trace_{trace}", 1)


def test_collectives_run_between_processes(tmp_path):
    """gloo stands in for NCCL: every collective, two processes."""
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "send_recv")
    points = [
        Point("nccl", {"collective": kind, "num_gpus": 2, "message_bytes": 4096, "nccl_dtype": "half"})
        for kind in kinds
    ]
    with Log(tmp_path / "points.jsonl") as log:
        collectives.measure_collectives(points, log, "cpu", time.monotonic() + 60)
    found = {row["point"]["collective"]: row for row in rows(tmp_path / "points.jsonl")}
    assert set(found) == set(kinds)
    assert all(row["seconds"] > 0 and row["kernel_source"] == "GLOO" for row in found.values())


class FakeNvml:
    """NVML as far as it is asked, with a healthy idle H100."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nvmlClocksThrottleReasonHwThermalSlowdown, nvmlClocksThrottleReasonSwPowerCap = 0x40, 0x4
    NVMLError = type("NVMLError", (Exception,), {})
    reasons, busy, used, pids = 0x4, 0, 0, ()
    NVML_FI_DEV_POWER_INSTANT, NVML_SUCCESS = 186, 0
    instant_mw, energy_mj = 412_000, 5_000

    def __getattr__(self, name):
        usage = types.SimpleNamespace(gpu=self.busy, used=self.used)
        answers = {
            "nvmlInit": None, "nvmlDeviceGetHandleByIndex": 0, "nvmlSystemGetDriverVersion": b"580.1",
            "nvmlDeviceGetMaxClockInfo": 1980, "nvmlDeviceGetMemoryBusWidth": 5120, "nvmlDeviceGetClockInfo": 1755,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000, "nvmlDeviceGetEccMode": (1, 1),
            "nvmlDeviceGetMaxPcieLinkGeneration": 5, "nvmlDeviceGetMaxPcieLinkWidth": 16,
            "nvmlDeviceGetPowerUsage": 300_000, "nvmlDeviceGetTemperature": 50,
            "nvmlDeviceGetTotalEnergyConsumption": self.energy_mj,
            "nvmlDeviceGetFieldValues": [types.SimpleNamespace(
                nvmlReturn=0 if self.instant_mw else 3, value=types.SimpleNamespace(uiVal=self.instant_mw))],
            "nvmlDeviceGetCurrentClocksThrottleReasons": self.reasons, "nvmlDeviceGetUtilizationRates": usage,
            "nvmlDeviceGetMemoryInfo": usage,
            "nvmlDeviceGetComputeRunningProcesses": [types.SimpleNamespace(pid=p) for p in self.pids],
        }  # fmt: skip
        if name not in answers:
            raise AttributeError(name)
        return lambda *args: answers[name]


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_nvml_says_driver_clocks_and_caps(nvml):
    facts = environment.nvml_facts()
    assert facts["driver"] == "580.1" and facts["power_limit_w"] == 700 and facts["ecc"] is True
    assert facts["sm_clock_most_hz"] == 1.98e9 and facts["pcie_generation"] == 5


def test_without_nvml_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "not watched" in environment.nvml_facts()["nvml"]
    environment.refuse_busy_gpu()


def test_a_busy_gpu_is_refused(nvml):
    environment.refuse_busy_gpu()
    nvml.pids, nvml.used = (os.getpid(),), 8 << 30
    environment.refuse_busy_gpu()
    nvml.pids = (os.getpid(), 4711)
    with pytest.raises(BenchError, match=r"busy: 1 other process \(4711\).*8\.0 GiB taken.*--busy"):
        environment.refuse_busy_gpu()


def test_throttling_drift_and_spread_mark_a_point(nvml):
    steady = Times.of([1.0] * 8, 8, "clock")
    watch = Watch("cuda")
    times, seen = watch.around(lambda: steady)
    assert times is steady and seen["unstable"] == [] and seen["sm_clock_hz"] == 1.755e9
    assert seen["power_w"] == 412 and seen["energy_j"] == 0 and "mean_power_w" not in seen
    nvml.reasons = 0x40
    assert watch.around(lambda: steady)[1]["unstable"] == ["thermal"]
    nvml.reasons = 0
    assert watch.around(lambda: Times.of([1, 1, 1, 1, 1.3, 1.3, 1.3, 1.3], 8, ""))[1]["unstable"] == [
        "quartiles apart", "drifting",
    ]  # fmt: skip


def test_power_is_the_energy_over_the_time(nvml, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    meter = Meter(environment.nvml())
    meter.begin()
    clock[0], nvml.energy_mj = 102.0, 5_000 + 900_000
    assert meter.since() == {"energy_j": 900.0, "energy_over_s": 2.0, "mean_power_w": 450.0}
    clock[0] = 100.4
    assert "mean_power_w" not in meter.since(), "the counter moves ten times a second"
    nvml.instant_mw = 0
    assert meter.now() == {"power_w": 300.0}, "the driver's mean where the card has nothing shorter"
    nobody = Meter(None)
    nobody.begin()
    assert nobody.since() == nobody.now() == {}


def test_no_torch_and_no_gpu_are_sentences(monkeypatch, capsys):
    from moesim.bench.__main__ import main

    assert main(["environment", "--device", "cuda"]) == 2
    assert "--device cpu measures the host instead" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["environment", "--device", "cpu"]) == 2
    assert "needs PyTorch, which is not installed; install moesim[bench]" in capsys.readouterr().err


def test_the_environment_says_what_a_measurement_depends_on():
    here = environment.environment("cpu")
    assert here["versions"]["torch"] == torch.__version__
    assert here["cores"] >= 1 and here["memory_bytes"] > 1 << 28 and here["cpu"]
