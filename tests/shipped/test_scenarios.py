"""Every shipped file loads; every shipped scenario runs and says something sensible."""

import json
from typing import get_args

import pytest

from moesim import DoesNotFit, Served, load, load_hardware, paths, predict
from moesim.engines.settings import All2All
from moesim.report.as_json import prediction_data
from moesim.report.load_text import shown
from moesim.report.text import explain_text

SCENARIOS = sorted([*paths.SCENARIOS.glob("*.yaml"), *paths.SCENARIOS.glob("techniques/*.yaml")])


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_scenario(path):
    scenario = load(path)
    assert path.read_text().startswith("#"), "a shipped scenario says what it shows"
    if path.stem.endswith("does_not_fit"):
        with pytest.raises(DoesNotFit):
            predict(scenario)
        return
    result = predict(scenario)
    for name, metric in result.metrics.items():
        if scenario.workload.output_len == 1 and metric is None:
            continue
        assert metric is not None and 0 < metric.low < metric.value < metric.high < 10 * metric.value, name
    if isinstance(result, Served):
        report = result.report
        assert report.answered > 0 and report.output_tokens > 0 and report.duration_s > 0
    assert sum(result.knowledge.tags.values()) == pytest.approx(1)
    assert scenario.model in shown(result)
    assert "formulas:" in explain_text(result)
    assert json.loads(json.dumps(prediction_data(result)))["fits"] is True


@pytest.mark.parametrize("path", sorted(paths.HWSPECS.glob("*.yaml")), ids=lambda p: p.stem)
def test_hardware(path):
    hardware = load_hardware(path.stem)
    assert hardware.name == path.stem
    assert hardware.doubts, "a hardware file says what is doubtful"
    for alias in hardware.aliases:
        assert load_hardware(alias) == hardware


@pytest.mark.parametrize("path", sorted(paths.CLUSTERS.glob("*.yaml")), ids=lambda p: p.stem)
def test_cluster(path):
    hardware = load_hardware(path.stem)
    cluster = hardware.cluster
    assert cluster and cluster.name == path.stem == hardware.title
    assert cluster.doubts and path.read_text().startswith("#")
    for alias in cluster.aliases:
        assert load_hardware(alias) == hardware
    ranks = min(hardware.gpus, 2)
    changed = {"hardware": path.stem, "engine.tensor_parallel_size": ranks, "workload.batch_size": 1}
    tpot = predict(load(paths.SCENARIOS / "olmoe.yaml", changed)).metrics["mean_tpot_ms"]
    assert tpot and 0 < tpot.low < tpot.value < tpot.high


def test_every_fabric_and_plan_family_has_a_scenario():
    scenarios = [load(p) for p in SCENARIOS]

    def fabrics(names):
        clusters = [load_hardware(name).cluster for name in names]
        return {c.fabric.kind for c in clusters if c and c.fabric}

    assert fabrics(p.stem for p in paths.CLUSTERS.glob("*.yaml")) == fabrics(s.hardware for s in scenarios)
    engines = [s.engine for s in scenarios]
    for backend in get_args(All2All):
        assert any((e.all2all_backend or "allgather_reducescatter") == backend for e in engines), backend
    for setting in ("enable_dbo", "enable_eplb", "num_redundant_experts"):
        assert any(getattr(e, setting) for e in engines), setting
    assert any(e.pipeline_parallel_size > 1 for e in engines)
    assert any(e.expert_tensor_parallel_size > 1 for e in engines)


def test_every_workload_has_a_scenario():
    loads = [load(p).workload for p in SCENARIOS]
    assert {w.arrivals for w in loads} == {"batch", "closed_loop", "open_loop", "trace"}
    assert {w.lengths.kind for w in loads} == {"fixed", "uniform", "lognormal", "file"}
    assert any(w.cached_share for w in loads) and any(w.burstiness != 1 for w in loads)
    assert any(load(p).disaggregation for p in SCENARIOS)


def test_every_family_has_a_scenario():
    models = {load(p).model for p in SCENARIOS}
    for stem in ("Mixtral-8x22B", "Fusion", "OLMoE", "Qwen1.5", "Qwen3-30B", "Qwen3-32B", "V2-Lite", "V3", "vl2",
                 "Molmo", "Phi-3.5", "Scout", "Llama-3.1", "gpt-oss", "Kimi", "GLM-4.5", "GLM-5", "MiniMax", "dbrx",
                 "switch", "GLaM", "nllb"):  # fmt: skip
        assert any(stem in model for model in models), stem
