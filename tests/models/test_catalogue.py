"""The catalogue: exact parameter totals, KV bytes, and refusals by name."""

import csv
import json
from pathlib import Path

import pytest

from moesim import load_model, paths
from moesim.errors import SpecError
from moesim.models.catalogue import catalogue
from moesim.models.hub import model_from_config

GOLDEN = Path(__file__).parents[1] / "golden" / "models.csv"


def golden() -> list[dict[str, str]]:
    with GOLDEN.open(encoding="utf-8") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))


@pytest.mark.parametrize("row", golden(), ids=lambda row: row["model"])
def test_totals_to_the_digit(row):
    model = load_model(row["model"])
    assert model.parameters == int(row["parameters"])
    assert model.kv_bytes_per_token() + model.source_bytes_per_token() == float(row["kv_bytes_per_token"])


def test_every_golden_model_ships():
    assert sorted(row["model"] for row in golden()) == catalogue()


@pytest.mark.parametrize(
    ("name", "kv_bytes"),
    [
        ("Mixtral-8x7B-v0.1", 131072), ("Qwen3-30B-A3B", 98304), ("Qwen1.5-MoE-A2.7B", 196608),
        ("OLMoE-1B-7B-0924", 131072), ("DeepSeek-V2-Lite", 31104), ("DeepSeek-V3", 70272), ("gpt-oss-120b", 73728),
    ],
)  # fmt: skip
def test_kv_bytes_of_the_formula_card(name, kv_bytes):
    assert load_model(name).kv_bytes_per_token() == kv_bytes


def test_layer_counts_follow_the_config():
    deepseek = load_model("DeepSeek-V3")
    assert [(g.count, g.routed is not None) for g in deepseek.layers] == [(3, False), (58, True)]
    maverick = load_model("Llama-4-Maverick-17B-128E-Instruct")
    assert sum(g.count for g in maverick.layers if g.routed is not None) == 24
    assert sum(g.count for g in maverick.layers if g.blocks[0].chunked) == 36
    oss = load_model("gpt-oss-120b")
    assert sum(g.count for g in oss.layers if g.blocks[0].window == 128) == 18


def test_shipped_quantization_is_read():
    def formats(name):
        layers = load_model(name).layers[-1]
        return layers.routed.experts, layers.blocks[0].weights

    assert formats("gpt-oss-20b") == ("mxfp4", "bfloat16")
    assert formats("DeepSeek-V3") == ("fp8_block", "fp8_block")
    assert formats("Kimi-K2.5") == ("int4/32", "bfloat16")
    assert formats("Mixtral-8x7B-v0.1") == ("bfloat16", "bfloat16")


def test_names_match_in_any_case_and_with_an_organisation():
    assert load_model("mistralai/mixtral-8x7b-v0.1") == load_model("Mixtral-8x7B-v0.1")


def test_a_folder_and_a_file_load(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    text = (paths.MODELS / "OLMoE-1B-7B-0924" / "config.json").read_text()
    (folder / "config.json").write_text(text)
    assert load_model(str(folder)).name == "mine"
    assert load_model(str(folder / "config.json")).parameters == 6919161856


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "jamba"}, "'jamba' is not known"),
        ({"architectures": ["FooForCausalLM"]}, "'FooForCausalLM' is not known"),
        ({"model_type": "mixtral", "hidden_size": 8}, "'vocab_size' is missing"),
        ({"model_type": "mixtral", "hidden_size": "wide"}, "'hidden_size' is 'wide'"),
    ],
)
def test_refused_by_name(config, message):
    with pytest.raises(SpecError, match=message):
        model_from_config(config, "x", "config.json")


def test_unknown_quantization_is_refused():
    config = json.loads((paths.MODELS / "Mixtral-8x7B-v0.1" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "aqlm"}
    with pytest.raises(SpecError, match="quant_method 'aqlm' is not known"):
        model_from_config(config, "x", "config.json")


@pytest.mark.parametrize(
    "override",
    [
        {"num_hidden_layers": 0}, {"num_hidden_layers": 10**12}, {"head_dim": 0}, {"vocab_size": 0},
        {"max_position_embeddings": "abc"}, {"decoder_sparse_step": 0},
        {"mlp_only_layers": 5}, {"num_experts_per_tokk": 4},
    ],
    ids=str,
)  # fmt: skip
def test_values_that_do_not_hang_together(override):
    with pytest.raises(SpecError):
        load_model("Qwen3-30B-A3B", override)


def test_overrides_reach_a_nested_text_model():
    model = load_model("Llama-4-Scout-17B-16E-Instruct", {"num_experts_per_tok": 4})
    assert {g.routed.num_experts_per_tok for g in model.layers if g.routed is not None} == {4}
    nested = load_model("Llama-4-Scout-17B-16E-Instruct", {"text_config": {"num_experts_per_tok": 2}})
    assert {g.routed.num_experts_per_tok for g in nested.layers if g.routed is not None} == {2}


def test_fewer_layers_keep_their_kinds():
    assert load_model("gpt-oss-120b", {"num_hidden_layers": 4}).num_hidden_layers == 4
    with pytest.raises(SpecError, match="must name each of the 40 layers"):
        load_model("gpt-oss-120b", {"num_hidden_layers": 40})


def test_unknown_model_suggests_a_near_one():
    with pytest.raises(SpecError, match="nearest: Mixtral-8x7B"):
        load_model("mixtral-8x7bb")
