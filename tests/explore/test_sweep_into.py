"""Sweeps into a file: the same bytes whatever runs them, and what was stopped goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest

import moesim
from moesim import paths
from moesim.explore.pool import check_pool, pool
from moesim.explore.sweeps import blocks as blocks_of
from moesim.explore.sweeps import into_file, sweep, sweep_into
from moesim.explore.sweeps.into_file import _fingerprint
from moesim.explore.sweeps.sweep import grid_of

pd = pytest.importorskip("pandas")
AXES = {"tp": [1, 2, 3], "batch_size": [1, 8, 2000], "output_len": [16, 64]}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks_of, "_POINTS_AT_ONCE", 2)
    monkeypatch.setattr(blocks_of, "_ONE_BY_ONE", 2)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_the_file_is_the_table(mixtral, tmp_path, suffix):
    target = tmp_path / f"grid{suffix}"
    found = sweep_into(target, mixtral, AXES)
    table = sweep(mixtral, AXES)
    again = pd.read_parquet(target) if suffix == ".parquet" else pd.read_csv(target, keep_default_na=True)
    assert list(again.columns) == list(table.columns)
    assert again["mean_tpot_ms"].tolist() == pytest.approx(table["mean_tpot_ms"].tolist(), nan_ok=True)
    assert (found.points, found.fit) == (18, int(table["fits"].sum()))
    assert sum(found.problems.values()) == found.points - found.fit
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name]


def test_load_axes_keep_their_order(mixtral):
    table = sweep(mixtral, {"output_len": [16, 64], "batch_size": [1, 8]})
    assert table[["output_len", "batch_size"]].values.tolist() == [[16, 1], [16, 8], [64, 1], [64, 8]]


@pytest.mark.parametrize("load", [{}, {"max_concurrency": 4}])
def test_processes_change_no_byte(mixtral, tmp_path, load):
    scenario = mixtral.with_(**load, osl=64) if load else mixtral
    axes = AXES if not load else {"tp": [2, 3, 4], "input_len": [64, 256]}
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    sweep_into(one, scenario, axes, jobs=1)
    sweep_into(two, scenario, axes, jobs=2)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_a_cluster_changes_no_byte(mixtral, tmp_path, backend):
    pytest.importorskip("distributed" if backend == "dask" else "joblib")
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    sweep_into(one, mixtral, AXES, jobs=1)
    sweep_into(two, mixtral, AXES, jobs=2, backend=backend)
    assert one.read_bytes() == two.read_bytes()


def test_what_was_stopped_goes_on(mixtral, tmp_path, monkeypatch):
    whole, target = tmp_path / "whole.parquet", tmp_path / "grid.parquet"
    sweep_into(whole, mixtral, AXES)
    calls, stored = [], into_file._stored

    def stops(grid, folder, block):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(block.number)
        return stored(grid, folder, block)

    monkeypatch.setattr(into_file, "_stored", stops)
    with pytest.raises(KeyboardInterrupt):
        sweep_into(target, mixtral, AXES)
    assert not target.exists()
    monkeypatch.setattr(into_file, "_stored", stored)
    found = sweep_into(target, mixtral, AXES)
    assert found.resumed == 8
    assert target.read_bytes() == whole.read_bytes()


def test_blocks_of_another_sweep_are_not_taken(mixtral, tmp_path, monkeypatch):
    target = tmp_path / "grid.parquet"
    monkeypatch.setattr(into_file, "_stored", lambda grid, folder, block: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sweep_into(target, mixtral, AXES)
    with pytest.raises(moesim.SpecError, match="blocks of another sweep"):
        sweep_into(target, mixtral, {"tp": [4]})


def test_a_killed_command_goes_on(tmp_path):
    target = tmp_path / "grid.parquet"
    words = [
        "sweep",
        "mixtral_tp4",
        "--osl",
        "64",
        "--users",
        "4",
        "--axis",
        "isl=64:2048:32",
        "-o",
        str(target),
        "-j",
        "1",
    ]
    process = subprocess.Popen([sys.executable, "-m", "moesim", *words], stderr=subprocess.PIPE, text=True)
    blocks = target.with_name("grid.parquet.blocks")
    deadline = time.monotonic() + 60
    while not list(blocks.glob("*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done before it could be stopped")
    assert process.returncode == 130 and "goes on" in said
    again = subprocess.run([sys.executable, "-m", "moesim", *words], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "of an earlier run" in again.stdout
    assert len(pd.read_parquet(target)) == 63


def test_units_travel(mixtral, tmp_path):
    import pyarrow.parquet as pq

    table = sweep(mixtral, AXES)
    assert table.attrs["units"]["mean_tpot_ms_low"] == "ms"
    assert table.attrs["units"]["weights_bytes"] == "B"
    sweep_into(tmp_path / "grid.parquet", mixtral, AXES)
    assert pq.read_schema(tmp_path / "grid.parquet").field("output_throughput").metadata == {b"unit": b"tok/s"}


def test_pools_keep_order():
    with pool(2) as workers:
        assert list(workers.map(abs, iter(range(-20, 0)))) == list(range(20, 0, -1))


@pytest.mark.parametrize(
    ("jobs", "backend", "scheduler", "said"),
    [(-1, "processes", None, "no number of processes"), (1, "slurm", None, "'slurm' is not a backend"),
     (1, "processes", "tcp://x", "dask or ray")],
)  # fmt: skip
def test_pools_that_are_none(jobs, backend, scheduler, said):
    with pytest.raises(moesim.SpecError, match=said):
        check_pool(jobs, backend, scheduler)


def test_a_missing_package_is_one_sentence(monkeypatch, capsys, tmp_path):
    from moesim.cli.main import main

    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["sweep", "mixtral_tp4", "--axis", "tp=4", "-o", str(tmp_path / "x.csv"), "--backend", "ray"]
    assert main(words) == 2
    assert "needs the package 'ray'; install moesim[ray]" in capsys.readouterr().err


def test_axes_are_checked_before_anything_runs(mixtral):
    with pytest.raises(moesim.SpecError, match="did you mean 'batch_size'"):
        sweep(mixtral, {"batch_sise": [1]})


@pytest.mark.parametrize(("axis", "values", "kind", "told"), [
    ("hardware", [4090, "h100-sxm"], "object", ["4090", "h100-sxm"]),
    ("max_num_batched_tokens", [None, 4096], "Int64", [pd.NA, 4096]),
    ("gpu_memory_utilization", [0.9, 1], "float64", [0.9, 1.0]),
])  # fmt: skip
def test_an_axis_of_several_types(mixtral, tmp_path, axis, values, kind, told):
    small = mixtral.with_(model="OLMoE-1B-7B-0924", tp=1)
    for target in (tmp_path / "x.parquet", tmp_path / "x.csv"):
        sweep_into(target, small, {axis: values})
    found = sweep(small, {axis: values})
    assert str(found[axis].dtype) == kind
    assert [str(value) for value in found[axis]] == [str(value) for value in told]
    again = pd.read_parquet(tmp_path / "x.parquet")
    shown = ["nan" if value is pd.NA else str(value) for value in told]
    assert [str(value).removesuffix(".0") for value in again[axis]] == [value.removesuffix(".0") for value in shown]
    assert again["fits"].all()


def test_a_file_that_changed_is_another_sweep(mixtral, tmp_path, monkeypatch):
    own = tmp_path / "mine.yaml"
    text = (paths.HWSPECS / "nvidia-h100-sxm5-80gb.yaml").read_text()
    own.write_text(text)
    axes = {"hardware": [str(own)], "batch_size": [1, 2]}
    one = _fingerprint(grid_of(mixtral, axes))
    assert one == _fingerprint(grid_of(mixtral, axes))
    own.write_text(text + "\n")
    assert one != _fingerprint(grid_of(mixtral, axes))


def test_an_interrupt_ends_in_one_sentence(tmp_path):
    words = [sys.executable, "-m", "moesim", "sweep", "mixtral_tp4", "--axis", "tp=2,4,8", "--axis", "batch_size=1:200",
             "--axis", "input_len=128:4096:64", "-o", str(tmp_path / "x.parquet"), "--jobs", "2"]  # fmt: skip
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for _ in range(300):
        if (tmp_path / "x.parquet.blocks" / "000000.parquet").exists():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == "moesim: stopped; what is done is kept, and the same command goes on"
    assert "Traceback" not in error
