"""What several tests share."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path

import pytest

from moesim import paths
from moesim.bench.engine.runner import measure_engine
from moesim.bench.log import Log
from moesim.calibrate import worker
from moesim.inputs.scenario import Scenario, Workload
from tests.fake_engine import HERE, FakeEngine

ROOT = paths.ROOT
H100 = ("nvidia-h100-sxm5-80gb", "vllm-0.25.0")


@pytest.fixture
def mixtral() -> Scenario:
    """Mixtral 8x7B under TP 4 on H100s."""
    return Scenario(
        model="Mixtral-8x7B-v0.1",
        hardware="h100-sxm",
        workload=Workload(batch_size=8, input_len=1024, output_len=64),
    ).with_(tensor_parallel_size=4)


@pytest.fixture
def write(tmp_path: Path):
    """Write a scenario file and return its path."""

    def write(text: str, name: str = "scenario.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def vllm(monkeypatch):
    """A module called vllm that starts fake engines and remembers how."""
    started = []

    def start(**arguments):
        started.append(arguments)
        return types.SimpleNamespace(llm_engine=FakeEngine())

    fake = types.SimpleNamespace(LLM=start, SamplingParams=types.SimpleNamespace, started=started)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    return fake


@pytest.fixture
def here(monkeypatch):
    """The measuring process is this one, on an imagined H100."""

    def run_engine(settings, points, log, device, seconds, busy=False, told=None):
        with Log(log) as opened:
            opened.session(HERE)
            measure_engine(settings, points, opened, device, time.monotonic() + seconds)
        return worker.Progress(len(points), 0.0)

    monkeypatch.setattr(worker, "environment_of", lambda device, busy=False: HERE)
    monkeypatch.setattr(worker, "run_engine", run_engine)
