"""Smaller models of a model: their shapes, their parameters, their limits, their quality as a table says it."""

from __future__ import annotations

import pytest

from moesim.errors import SpecError
from moesim.inputs.model_of import model_of
from moesim.inputs.scenario import Scenario, Workload
from moesim.models.catalogue import load_model
from moesim.prediction import predict
from moesim.report.as_json import prediction_data
from moesim.report.text import prediction_text

LOAD = Workload(batch_size=16, input_len=256, output_len=64)


def scenario(model="OLMoE-1B-7B-0924", **variant):
    base = Scenario(model=model, hardware="h100-sxm", workload=LOAD)
    return base.with_(variant=variant) if variant else base


@pytest.mark.parametrize(
    "variant", [{"name": "same"}, {"pruned_experts": 0.0}, {"num_experts": 64}, {"num_experts_per_tok": [8] * 16}]
)
def test_a_variant_that_changes_nothing(variant):
    found = predict(scenario(**variant))
    assert found.metrics == predict(scenario()).metrics


def test_parameters_by_hand():
    """OLMoE: 16 layers of 64 experts of 3 x 2048 x 1024, and a router row of 2048 an expert."""
    whole, half = load_model("OLMoE-1B-7B-0924"), model_of(scenario(pruned_experts=0.5))
    expert = 3 * 2048 * 1024
    assert whole.parameters - half.parameters == 16 * 32 * (expert + 2048)
    narrow = model_of(scenario(pruned_width=0.25))
    assert whole.parameters - narrow.parameters == 16 * 64 * expert // 4
    wide = model_of(scenario(residual_intermediate_size=512))
    assert wide.parameters - whole.parameters == 16 * 3 * 2048 * 512


def test_layers_of_their_own():
    counts = [32] * 12 + [64] * 4
    model = model_of(scenario(num_experts=counts, num_experts_per_tok=[1] * 8 + [2] * 8))
    found = [model.layers[i].routed for i in model.order]
    assert [(ffn.num_experts, ffn.num_experts_per_tok) for ffn in found] == list(
        zip(counts, [1] * 8 + [2] * 8, strict=True)
    )
    assert [group.count for group in model.layers] == [8, 4, 4]


def test_layers_left_out():
    model = model_of(scenario(dropped_layers=4))
    assert model.num_hidden_layers == 12
    named = model_of(scenario("DeepSeek-V2-Lite", dropped_layers=[1, 5]))
    whole = load_model("DeepSeek-V2-Lite")
    assert named.num_hidden_layers == whole.num_hidden_layers - 2
    assert [named.layers[i].routed is None for i in named.order] == [True] + [False] * 24
    # A list keeps its place where layers before it go.
    kept = model_of(scenario(num_experts=[8 + i for i in range(16)], dropped_layers=[0, 1]))
    assert [kept.layers[i].routed.num_experts for i in kept.order] == [10 + i for i in range(14)]


@pytest.mark.parametrize("share", [0.125, 0.25, 0.5])
def test_pruning_frees_memory_and_reads_fewer_experts(share):
    whole, pruned = predict(scenario()), predict(scenario(pruned_experts=share))
    assert pruned.room.weights < whole.room.weights
    assert pruned["mean_tpot_ms"] < whole["mean_tpot_ms"] * 1.001


def test_odd_widths_cost_what_they_save():
    """A width that is no multiple of 16 loses vectorised loads: a little narrower is slower."""
    even = predict(scenario(moe_intermediate_size=1008))["mean_ttft_ms"]
    odd = predict(scenario(moe_intermediate_size=1007))["mean_ttft_ms"]
    assert odd > even


def test_fewer_experts_a_token_are_faster():
    times = [predict(scenario(num_experts_per_tok=k))["mean_tpot_ms"] for k in (1, 2, 4, 8)]
    assert times == sorted(times)


@pytest.mark.parametrize("count", [1, 4, 11, 14])
def test_the_first_and_the_last_layer_stay(count):
    # Layers told apart by their experts.
    first_last = model_of(scenario(num_experts=[8 + i for i in range(16)], dropped_layers=count))
    left = [g.routed.num_experts for i in first_last.order for g in (first_last.layers[i],) if g.routed]
    assert len(left) == 16 - count and left[0] == 8 and left[-1] == 23


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ({"num_experts": 4}, "4 experts are left and each token passes 8"),
        ({"num_experts": [64] * 3}, "has 3 entries; OLMoE-1B-7B-0924 has 16 layers"),
        ({"pruned_experts": 0.5, "num_experts": 32}, "say the same thing"),
        ({"dropped_layers": [16]}, "has no layer 16; 0 to 15"),
        ({"dropped_layers": [1, 1]}, "names a layer twice"),
        ({"dropped_layers": 15}, "up to 14 of the 16 layers"),
        ({"pruned_experts": 1.0}, "less than 1"),
        ({"width": 3}, "not a known key"),
    ],
)
def test_variants_that_cannot_be(variant, said):
    with pytest.raises(SpecError, match=said):
        scenario(**variant)


def test_a_dense_model_has_no_experts_to_prune():
    with pytest.raises(SpecError, match="no routed experts"):
        scenario("Qwen3-8B", pruned_experts=0.5)


def test_quality_is_what_a_table_says(tmp_path):
    table = tmp_path / "quality.csv"
    table.write_text(
        "model,variant,experts_format,attention_format,metric,value,source\n"
        "OLMoE-1B-7B-0924,half,bfloat16,bfloat16,perplexity,9.5,an invented row of a test\n"
        "OLMoE-1B-7B-0924,,bfloat16,bfloat16,perplexity,7.5,an invented row of a test\n"
    )
    found = predict(scenario(name="half", pruned_experts=0.5, quality=str(table)))
    assert "perplexity 9.5" in prediction_text(found)
    assert prediction_data(found)["quality"][0]["value"] == 9.5
    assert "no table says" in prediction_text(predict(scenario(name="other", pruned_experts=0.5)))
    assert "half (0.5 of the experts pruned)" in prediction_text(found)
