"""What a checkpoint's quantization_config says of each module, every method; what -q means; what a GPU runs it as."""

import json
from typing import get_args

import pytest

from moesim import load_model
from moesim.engines.engine import load_engine
from moesim.engines.settings import QuantizationName
from moesim.errors import SpecError
from moesim.models.hub import model_from_config
from moesim.models.quantization import SCHEMES, Unknown, quantization
from moesim.models.quantization.modules import Modules
from moesim.ops.formats import FORMATS, kind
from moesim.paths import MODELS

EXPERT, QUERY = "layers.3.mlp.experts.0.down_proj", "layers.3.self_attn.q_proj"


def tensors(bits, number, strategy, layout, **more):
    """A compressed-tensors config of one group."""
    weights = {"num_bits": bits, "type": number, "strategy": strategy, **more.pop("weights", {})}
    group = {"targets": ["Linear"], "weights": weights, **more}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "format": layout}


@pytest.mark.parametrize(
    ("config", "expert", "query"),
    [
        (None, "bfloat16", "bfloat16"),
        ({}, "bfloat16", "bfloat16"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", "fp8_block"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, "fp8_block/64", "fp8_block/64"),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, "mxfp8", "mxfp8"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8", "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [32, 32], "expert_dtype": "fp4"}, "mxfp4", "fp8_block/32"),
        ({"quant_method": "fp8", "modules_to_not_convert": ["self_attn"]}, "fp8", "bfloat16"),
        ({"quant_method": "fp8", "exclude_modules": ["*.attn.*"]}, "fp8", "fp8"),  # its maker's list, not vLLM's
        ({"quant_method": "mxfp4"}, "mxfp4", "bfloat16"),
        ({"quant_method": "mxfp8"}, "mxfp8", "mxfp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8", "fp8"),
        ({"quant_method": "experts_int8"}, "int8_weight_only", "bfloat16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4", "int4"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8_weight_only", "int8_weight_only"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4/32", "int4/32"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4/-1", "int4/-1"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"-:.*self_attn.*": {}}}, "int4", "bfloat16"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*self_attn.*": {"bits": 8}}}, "int4", "int8_weight_only"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "modules_to_not_convert": ["self_attn", "mlp.gate"]},
         "int4/64", "bfloat16"),
        ({"quant_method": "auto-round", "bits": 4, "extra_config": {"model.layers.3.self_attn.q_proj": {"bits": 16}}},
         "int4", "bfloat16"),
        ({"quant_method": "auto-round", "bits": 4, "extra_config": {".*self_attn.*": {"bits": 8}}}, "int4",
         "int8_weight_only"),
        ({"quant_method": "auto-round", "bits": 4, "data_type": "mx_fp"}, "mxfp4", "mxfp4"),
        ({"quant_method": "auto-round", "bits": 8, "group_size": 32, "data_type": "mx_fp", "act_bits": 8}, "mxfp8",
         "mxfp8"),
        ({"quant_method": "auto-round", "bits": 8, "group_size": -1, "data_type": "fp", "act_bits": 8}, "fp8", "fp8"),
        ({"quant_method": "auto-round", "bits": 8, "data_type": "fp", "act_bits": 16}, "fp8_weight_only",
         "fp8_weight_only"),
        ({"quant_method": "auto-round", "bits": 4, "data_type": "mx_fp",
          "extra_config": {".*self_attn.*": {"bits": 8}}}, "mxfp4", "mxfp8"),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "int4/64", "int4/64"),
        ({"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": [["mlp.experts.0.down_proj"]]}, "int4",
         "bfloat16"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8DynamicActivationFloat8WeightConfig"}}},
         "fp8", "fp8"),
        ({"quant_method": "torchao", "quant_type": "int8_dynamic_activation_int8_weight"}, "int8", "int8"),
        ({"quant_method": "torchao",
          "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}}},
         "int4/64", "int4/64"),
        ({"quant_method": "bitsandbytes", "_load_in_8bit": True}, "int8", "int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["language_model.layers.*.self_attn*"]}, "nvfp4",
         "bfloat16"),
        ({"quant_method": "fp8", "modules_to_not_convert": [r"re:^thinker\.model\.layers\..*self_attn.*"]}, "fp8",
         "bfloat16"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}},
          "layer_quant_config": {"*mlp.experts*": {"weight": [{"dtype": "fp4"}]}}}, "mxfp4", "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4", "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["q_proj"]}, "int8",
         "bfloat16"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["*self_attn*"]}, "nvfp4", "bfloat16"),
        ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, "nvfp4", "nvfp4"),
        (tensors(8, "float", "channel", "float-quantized", input_activations={"num_bits": 8}), "fp8", "fp8"),
        (tensors(8, "float", "channel", "float-quantized", input_activations=None), "fp8_weight_only",
         "fp8_weight_only"),
        (tensors(8, "float", "block", "float-quantized", weights={"block_structure": [128, 128]}), "fp8_block",
         "fp8_block"),
        (tensors(8, "int", "channel", "int-quantized"), "int8", "int8"),
        (tensors(8, "int", "group", "pack-quantized", weights={"group_size": 128}), "int8_weight_only",
         "int8_weight_only"),
        (tensors(4, "int", "group", "pack-quantized", weights={"group_size": 32}), "int4/32", "int4/32"),
        (tensors(4, "float", "tensor_group", "nvfp4-pack-quantized", weights={"group_size": 16}), "nvfp4", "nvfp4"),
        (tensors(4, "float", "group", "mxfp4-pack-quantized", weights={"group_size": 32}), "mxfp4", "mxfp4"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}}, "mxfp4", "mxfp4"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}}, "int4", "int4"),
    ],
    ids=str,
)  # fmt: skip
def test_every_method(config, expert, query):
    found = quantization(config)
    assert (found.of(EXPERT), found.of(QUERY)) == (expert, query)
    assert found.head == "bfloat16"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "hqq"}, "quant_method 'hqq' is not known"),
        ({"quant_method": "fp8", "weight_block_size": [128, 64]}, "blocks of .128, 64. are not known"),
        ({"quant_method": "gptq", "bits": 3}, "gptq with 3 bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": "wide"}, "group_size is 'wide'"),
        ({"quant_method": "modelopt", "quant_algo": "FP6"}, "quant_algo 'FP6' is not known"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "names no quantized_layers"),
        ({"quant_method": "compressed-tensors"}, "says no format"),
        (tensors(6, "float", "group", "pack"), "6-bit 'float' weights"),
        ({"quant_method": "quark", "export": {}}, "quark weights of dtype None"),
        ({"quant_method": "torchao"}, "says no format"),
        ({"quant_method": "torchao", "quant_type": "FqnToConfig"}, "gives each module its own format"),
        ("fp8", "quantization_config is 'fp8'; a map is expected"),
        ({"quant_method": "auto-round", "bits": 4, "block_name_to_quantize": "x"}, "a part of the model's layers"),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"},
            "cached as 'NVFP4' are not",
        ),
        ({"quant_method": "bitsandbytes"}, "says neither load_in_4bit nor load_in_8bit"),
        ({"quant_method": "auto-round", "bits": 4, "data_type": "tq"}, "4-bit data_type 'tq' is not known"),
        (
            {"quant_method": "quark", "global_quant_config": {"weight": [{"dtype": "fp8_e4m3"}, {"dtype": "int4"}]}},
            "in 2 stages .fp8_e4m3, int4. are not modelled",
        ),
        (
            tensors(8, "float", "channel", "float-quantized") | {"sparsity_config": {"format": "sparse-24-bitmask"}},
            "sparsity_config of format 'sparse-24-bitmask' is not modelled",
        ),
        (tensors(4, "int", "group", "pack-quantized", input_activations={"num_bits": 8}), "int4 weights beside"),
        ({"quant_method": "fp8", "modules_to_not_convert": ["re:("]}, "cannot be read"),
        ({"quant_method": "awq", "bits": 4, "modules_to_not_convert": [3]}, "3 names no module"),
    ],
    ids=str,
)
def test_what_is_not_known_is_refused_by_name(config, message):
    with pytest.raises(Unknown, match=message):
        quantization(config)


def test_formats_by_module():
    """NVIDIA's mixed precision: the first expert speaks for all, the head where it is named."""
    layers = {
        "model.language_model.layers.3.mlp.experts.0.down_proj": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
        "model.language_model.layers.3.mlp.experts.1.down_proj": {"quant_algo": "FP8"},
        "model.language_model.layers.3.self_attn.q_proj": {"quant_algo": "FP8"},
        "lm_head": {"quant_algo": "W4A16_NVFP4"},
    }
    found = quantization({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers})
    assert found.of(EXPERT) == found.head == "nvfp4_weight_only"
    assert (found.of(QUERY), found.of("layers.4.self_attn.q_proj")) == ("fp8", "bfloat16")


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("model.layers.3.self_attn.q_proj", QUERY, "layers.30.self_attn.q_proj"),
        ("model.layers.3", QUERY, "layers.30.self_attn.q_proj"),
        ("self_attn", QUERY, EXPERT),
        ("language_model.model.layers.3.self_attn*", QUERY, EXPERT),
        ("*.mlp.experts.*", EXPERT, QUERY),
        ("re:.*mlp[.](gate|up|down)_proj.*", "layers.0.mlp.down_proj", EXPERT),
        ("model.layers.1*", "layers.12.self_attn.q_proj", QUERY),
    ],
)
def test_names_of_modules(entry, inside, outside):
    listed = Modules.of([entry])
    assert inside in listed and outside not in listed


def test_caches_in_fp8():
    """Model Optimizer's checkpoints say so for every model, compressed-tensors' not for latents."""
    scheme = {"num_bits": 8, "type": "float"}
    assert quantization({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": scheme}).kv_cache == "fp8"
    said = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}
    assert quantization({"quantization": said}).kv_cache == "fp8"
    config = json.loads((MODELS / "DeepSeek-V2-Lite" / "config.json").read_text())
    packed = tensors(4, "int", "group", "pack-quantized", weights={"group_size": 128}) | {"kv_cache_scheme": scheme}
    assert not model_from_config(config | {"quantization_config": packed}, "x", "config.json").caches_fp8
    assert model_from_config(config, "x", "config.json", {"quantization": said}).caches_fp8
    assert quantization({"quantization": said | {"kv_cache_quant_algo": None}}).kv_cache is None
    whole = tensors(8, "float", "channel", "float-quantized")
    assert quantization(whole | {"kv_cache_scheme": {**scheme, "dynamic": True}}).kv_cache is None
    with pytest.raises(Unknown, match="are not modelled; FP8 and none are"):
        quantization(whole | {"kv_cache_scheme": {"num_bits": 8, "type": "int"}})
    quark = {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}
    assert quantization(quark).kv_cache is None
    assert quantization(quark | {"kv_cache_quant_config": {"*k_proj": {"dtype": "fp8_e4m3"}}}).kv_cache == "fp8"


def test_projections_stored_apart_from_their_block_are_said():
    """One projection speaks for its block: what differs from it is noted, once for all layers."""
    config = json.loads((MODELS / "Qwen3-8B" / "config.json").read_text())
    packed = tensors(4, "int", "group", "pack-quantized", weights={"group_size": 128})

    def notes(ignored):
        return model_from_config(config | {"quantization_config": packed | {"ignore": [ignored]}}, "x", "y").notes

    assert notes("re:.*o_proj") == (
        "x: self_attn.o_proj is stored as bfloat16 and read as int4, as others of its block are",
    )
    assert [note.split()[1] for note in notes("re:.*gate_proj")] == ["mlp.gate_proj"]
    assert [note.split()[1] for note in notes("re:.*q_proj")] == [
        "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"
    ]  # fmt: skip
    assert notes("lm_head") == () == notes("re:.*self_attn.*")
    everything = model_from_config(config | {"quantization_config": packed | {"ignore": ["re:.*"]}}, "x", "y")
    assert everything.notes == ("x: its compressed-tensors config names no layer of it: all are read as bfloat16",)
    older = model_from_config(config | {"compression_config": packed}, "x", "y")
    assert older.formats == {"int4"} and not older.notes


def test_a_nested_config_is_not_overwritten():
    text = json.loads((MODELS / "DeepSeek-V3" / "config.json").read_text())
    around = {"model_type": "deepseek_v3", "text_config": text, "quantization_config": None}
    assert model_from_config(around, "x", "config.json").moe.experts == "fp8_block"


def test_a_sidecar_counts_where_the_config_says_nothing():
    config = json.loads((MODELS / "Qwen3-30B-A3B" / "config.json").read_text())
    sidecar = {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]},
    }
    assert model_from_config(config, "x", "config.json", sidecar).moe.experts == "nvfp4"
    own = config | {"quantization_config": {"quant_method": "fp8"}}
    assert model_from_config(own, "x", "config.json", sidecar).moe.experts == "fp8"


def test_the_sidecar_beside_a_file_is_found(tmp_path):
    text = (MODELS / "Qwen3-30B-A3B" / "config.json").read_text()
    (tmp_path / "config.json").write_text(text)
    assert load_model(str(tmp_path)).moe.experts == "bfloat16"
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert load_model(str(tmp_path) + "/").moe.experts == "fp8"
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP5"}}')
    with pytest.raises(SpecError, match=r"config.json: hf_quant_config.json beside it: .*'FP5' is not known"):
        load_model(str(tmp_path))


def test_names_of_an_engine_mean_formats():
    assert set(get_args(QuantizationName)) == set(SCHEMES)
    for scheme in SCHEMES.values():
        assert {kind(f) for f in (scheme.experts, scheme.linear) if f} <= set(FORMATS)
    model = load_model("Qwen3-30B-A3B")
    told = {
        name: model.under(name) for name in ("awq_marlin", "fp8_per_block", "modelopt_fp4", "mxfp4", "bitsandbytes")
    }
    found = {name: (m.moe.experts, m.layers[0].blocks[0].weights) for name, m in told.items()}
    assert found == {
        "awq_marlin": ("int4", "int4"), "fp8_per_block": ("fp8_block", "fp8_block"), "modelopt_fp4": ("nvfp4", "nvfp4"),
        "mxfp4": ("mxfp4", "bfloat16"), "bitsandbytes": ("nf4", "nf4"),
    }  # fmt: skip
    assert model.under(None) is model and model.under("compressed-tensors") is model


def test_a_checkpoint_keeps_its_own_formats_under_its_own_method():
    kimi = load_model("Kimi-K2.5")
    assert kimi.under("compressed-tensors") is kimi
    assert load_model("DeepSeek-V3").under("fp8").moe.experts == "fp8_block"
    assert load_model("DeepSeek-V3").under("none").moe.experts == "bfloat16"


@pytest.mark.parametrize(
    ("weights", "capability", "runs"),
    [
        ("fp8", "8.0", "fp8_weight_only"), ("fp8", "8.9", "fp8"), ("fp8_block/64", "8.6", "fp8_block_weight_only/64"),
        ("nvfp4", "9.0", "nvfp4_weight_only"), ("nvfp4", "10.0", "nvfp4"), ("nvfp4", "12.0", "nvfp4"),
        ("mxfp8", "9.0", "mxfp8_weight_only"), ("int4", "8.0", "int4"), ("bfloat16", "7.5", "bfloat16"),
    ],
)  # fmt: skip
def test_what_a_gpu_runs_it_as(weights, capability, runs):
    assert load_engine().file.kernels.runs(weights, capability) == runs


def test_block_widths_follow_the_config():
    """Slices of an expert are whole blocks, of the size the config says."""
    config = json.loads((MODELS / "Qwen3-30B-A3B" / "config.json").read_text()) | {"moe_intermediate_size": 640}

    def refused(block, tp):
        said = {"quant_method": "fp8", "weight_block_size": [block, block]}
        from moesim.models.plan import Plan

        ffn = model_from_config(config | {"quantization_config": said}, "x", "config.json").moe
        return [why for _, why in ffn.refusals(Plan(tp=tp, expert_tp=tp), "x")]

    assert not refused(128, 1) and not refused(64, 2)
    assert "no multiple of the 128" in refused(128, 2)[0] and "no multiple of the 64" in refused(64, 4)[0]


def test_unknown_formats_are_named_with_their_file(tmp_path):
    config = json.loads((MODELS / "Qwen3-30B-A3B" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "aqlm"}}))
    with pytest.raises(SpecError, match=r"config.json: quant_method 'aqlm' is not known"):
        load_model(str(tmp_path))
