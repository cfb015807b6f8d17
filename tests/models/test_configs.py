"""What a config.json may say that changes the answer: each is read, or refused in a sentence that names it."""

import json

import pytest

from moesim import load_model
from moesim.errors import SpecError
from moesim.paths import MODELS


def own(tmp_path, model, **changes):
    """A copy of a shipped config.json with fields changed, in its nested text model where they stand there."""
    config = json.loads((MODELS / model / "config.json").read_text())
    text = config.get("text_config", {})
    for name, value in changes.items():
        (text if name in text else config)[name] = value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return str(path)


REFUSED = [
    ("DeepSeek-V3", {"quantization_config": "fp8"}, "quantization_config is 'fp8'; a map is expected"),
    ("DeepSeek-V3", {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": "lm_head"}},
     "modules_to_not_convert is 'lm_head'; a list of modules is expected"),
    ("DeepSeek-V3", {"moe_layer_freq": [1, 0, 2]}, "'moe_layer_freq' must give a whole number from 0 to 1 for each"),
    ("DeepSeek-V3", {"n_group": 7}, "n_group"),
    ("Qwen3-30B-A3B", {"num_key_value_heads": 5}, "5"),
    ("Qwen3-Next-80B-A3B-Instruct", {"layer_types": ["full_attention"]}, "'layer_types' must name each of the 48"),
    ("Qwen3-Next-80B-A3B-Instruct", {"layer_types": ["full"] * 48}, "'layer_types' has 'full'; known here are"),
    ("gpt-oss-20b", {"layer_types": ["full_attention", "chunked"] * 12}, "'layer_types' has 'chunked'"),
    ("GLM-5.2", {"indexer_types": ["full", "half"] * 39}, "'indexer_types' has 'half'; known here are full, shared"),
    ("gemma-4-26B-A4B", {"num_kv_shared_layers": 10}, "'num_kv_shared_layers' is 10; layers that share keys"),
    ("gemma-4-26B-A4B", {"hidden_size_per_layer_input": 256}, "'hidden_size_per_layer_input' is 256"),
    ("Kimi-K3", {"linear_attn_config": {"full_attn_layers": [400]}}, "must list layers from 1 to"),
    ("DeepSeek-V4-Flash", {"compress_ratios": [10**9] * 60}, "'compress_ratios' must give a whole number from 0 to 4"),
    ("NVIDIA-Nemotron-3-Nano-30B-A3B", {"num_hidden_layers": 50, "layers_block_type": None},
     "num_hidden_layers is 50"),
    ("DeepSeek-V3", {"rope_scaling": {"type": "yarn", "factor": "40"}}, "the rope scaling's 'factor' is '40'"),
    ("DeepSeek-V3", {"rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": -1}},
     "'original_max_position_embeddings' is -1; positions are expected"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "changes", "message"), REFUSED)
def test_refused_by_name(tmp_path, model, changes, message):
    with pytest.raises(SpecError) as raised:
        load_model(own(tmp_path, model, **changes))
    assert message in str(raised.value) and "config.json" in str(raised.value)


def test_numbers_too_long_for_python(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "mixtral", "hidden_size": ' + "9" * 5000 + "}")
    with pytest.raises(SpecError, match="is not valid JSON: Exceeds the limit"):
        load_model(str(path))


def contexts(tmp_path, model, **changes):
    return load_model(own(tmp_path, model, **changes)).max_position_embeddings


def test_the_context_that_a_rope_scaling_allows(tmp_path):
    """vLLM: the limit times the factor; yarn from its original limit; no factor where the limit has it already."""
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert contexts(tmp_path, "Qwen3-30B-A3B", rope_scaling=yarn) == 131072
    assert contexts(tmp_path, "Qwen3-30B-A3B", rope_scaling={"rope_type": "linear", "factor": 2.0}) == 2 * 40960
    llama = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    assert contexts(tmp_path, "Meta-Llama-3.1-8B", rope_scaling=llama) == 131072
    by_kind = {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {"rope_type": "default"}}
    assert contexts(tmp_path, "gemma-4-26B-A4B", rope_parameters=by_kind) == 8 * 262144
    assert contexts(tmp_path, "Qwen3-30B-A3B", model_max_length=32768) == 32768
    eight = {"rope_type": "linear", "factor": 8.0}
    assert contexts(tmp_path, "gemma-3-27b-it", rope_scaling=eight) == 131072


def layers_of(model, block):
    return sum(group.count for group in model.layers if any(type(b).__name__ == block for b in group.blocks))


def test_layers_with_experts_as_a_list_or_a_step(tmp_path):
    listed = load_model(own(tmp_path, "DeepSeek-V3", moe_layer_freq=[0] * 3 + [1] * 58))
    assert layers_of(listed, "Moe") == layers_of(load_model("DeepSeek-V3"), "Moe") == 58
    steps = {"decoder_sparse_step": 2, "mlp_only_layers": [1], "intermediate_size": 5120}
    half = load_model(own(tmp_path, "Qwen3-Next-80B-A3B-Instruct", **steps))
    assert layers_of(half, "Moe") == 23 and layers_of(half, "Dense") == 25


def test_an_unknown_tower_is_noted(tmp_path):
    model = load_model(own(tmp_path, "Mixtral-8x7B-v0.1", vision_config={"model_type": "cyclops", "hidden_size": 8}))
    assert model.notes == (f"{model.name}: the image tower of mixtral is not known: what it holds is left out",)


def test_gemma3_without_what_transformers_knows(tmp_path):
    """Published configs of Gemma 3 name neither heads nor the vocabulary."""
    config = json.loads((MODELS / "gemma-3-27b-it" / "config.json").read_text())
    text = config.get("text_config", config)
    left = {name: text[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "model_type")}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gemma3", "text_config": left}))
    model = load_model(str(path))
    assert model.vocab_size == 262208 and model.max_position_embeddings == 131072


def test_step_without_a_list_of_layers(tmp_path):
    """One full layer, then three windowed ones."""
    assert load_model(own(tmp_path, "Step-3.7-Flash", layer_types=None)).layers == load_model("Step-3.7-Flash").layers
