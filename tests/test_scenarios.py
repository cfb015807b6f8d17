"""Every shipped file loads; every shipped scenario runs and says something sensible."""

import json

import pytest

from moesim import DoesNotFit, load, load_hardware, paths, predict
from moesim.report.as_json import prediction_data
from moesim.report.text import explain_text, prediction_text

SCENARIOS = sorted(paths.SCENARIOS.glob("*.yaml"))


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
        assert metric is not None and 0 < metric.low < metric.value < metric.high < 10 * metric.value, name
    assert sum(result.tags.values()) == pytest.approx(1)
    assert scenario.model in prediction_text(result)
    assert "formulas:" in explain_text(result)
    assert json.loads(json.dumps(prediction_data(result)))["fits"] is True


@pytest.mark.parametrize("path", sorted(paths.HWSPECS.glob("*.yaml")), ids=lambda p: p.stem)
def test_hardware(path):
    hardware = load_hardware(path.stem)
    assert hardware.name == path.stem
    assert hardware.doubts, "a hardware file says what is doubtful"
    for alias in hardware.aliases:
        assert load_hardware(alias) == hardware


def test_every_family_has_a_scenario():
    shown = {load(p).model for p in SCENARIOS}
    for stem in ("Mixtral-8x22B", "Fusion", "OLMoE", "Qwen1.5", "Qwen3-30B", "Qwen3-32B", "V2-Lite", "V3", "vl2",
                 "Molmo", "Phi-3.5", "Scout", "Llama-3.1", "gpt-oss", "Kimi", "GLM-4.5", "GLM-5", "MiniMax", "dbrx",
                 "switch", "GLaM", "nllb"):  # fmt: skip
        assert any(stem in model for model in shown), stem
