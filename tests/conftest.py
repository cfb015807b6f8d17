"""What several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim import paths
from moesim.inputs.scenario import Scenario, Workload

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
