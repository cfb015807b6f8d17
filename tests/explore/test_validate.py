"""Served runs: the errors that the page prints may not grow."""

from __future__ import annotations

import json

import pytest

from moesim import paths
from moesim.explore.validate import Comparison, validate
from moesim.inputs.run_file import load_runs, run_sets
from moesim.report.served import GROWTH, drifted, figures_of, headline

FEW = ("h100-vllm-minimax-m2.5", "h100-vllm-0.15.1-qwen3-14b", "b200-vllm-kimi-k2.5", "a100-vllm-0.15.1-llama-2-70b-hf")
"""Sets that are predicted in a moment: dense and MoE, three cards, three versions."""


@pytest.fixture(scope="module")
def served():
    return validate()


def test_no_error_of_a_few_sets_has_grown(capsys):
    sets, found = validate([path for path in run_sets() if path.stem in FEW])
    now = {group.name: figures_of(group, found) for group in sets}
    with capsys.disabled():
        print("\n" + "\n".join(headline(sets, now)))
    stored = json.loads((paths.ROOT / "docs" / "served.json").read_text())
    assert set(now) == set(FEW) and drifted({name: stored[name] for name in FEW}, now) == []


@pytest.mark.slow
def test_no_error_of_the_page_has_grown(served, capsys):
    sets, found = served
    now = {group.name: figures_of(group, found) for group in sets}
    with capsys.disabled():
        print("\n" + "\n".join(headline(sets, now)))
    stored = json.loads((paths.ROOT / "docs" / "served.json").read_text())
    assert set(stored) == set(now)
    assert drifted(stored, now) == [], "run `moesim validate` if that is right"
    better = drifted(now, stored)
    assert better == [], f"the page is behind by more than {GROWTH:.0%}: run `moesim validate`"


def test_the_page_is_made_of_the_stored_figures():
    sets = [load_runs(path) for path in run_sets()]
    stored = json.loads((paths.ROOT / "docs" / "served.json").read_text())
    table = "\n".join(headline(sets, stored))
    assert table in (paths.ROOT / "docs" / "served.md").read_text()
    assert table in (paths.ROOT / "README.md").read_text()


@pytest.mark.slow
def test_no_row_is_dropped(served):
    sets, found = served
    for group in sets:
        rows = sum(1 for line in (paths.CALIBRATION / "runs" / f"{group.name}.csv").read_text().splitlines()
                   if line and not line.startswith("#")) - 1  # fmt: skip
        assert len(group.runs) == rows
        assert sum(c.runs == group.name for c in found) == sum(len(run.measured) for run in group.runs)


@pytest.mark.parametrize("statistics", [("mean_ttft_ms",), ("mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms")])
def test_a_run_counts_once_however_many_statistics_it_has(statistics):
    group = load_runs(run_sets()[0])
    found = [
        Comparison(group.name, group.runs[0], name, 10.0, 9.0, 8.0, 11.0, True, False, False) for name in statistics
    ]
    assert figures_of(group, found)["queueing"] == {"measured": 0, "named": 0, "named_wrongly": 1}
