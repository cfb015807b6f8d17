"""Hub ids, paths of a hub's cache and folders find the architecture they share."""

import json
import os

import pytest

from moesim import load_model
from moesim.errors import SpecError
from moesim.models.names import resolve
from moesim.paths import MODELS


@pytest.mark.parametrize(
    ("name", "model", "quantization"),
    [
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "Qwen3-30B-A3B", "fp8_block"),
        ("RedHatAI/Qwen3-30B-A3B-FP8-dynamic", "Qwen3-30B-A3B", "fp8"),
        ("RedHatAI/Qwen3-30B-A3B-quantized.w4a16", "Qwen3-30B-A3B", "int4"),
        ("someone/Qwen3-30B-A3B-Instruct-2507-AWQ-4bit", "Qwen3-30B-A3B", "int4"),
        ("nvidia/Qwen3-235B-A22B-NVFP4", "Qwen3-235B-A22B", "nvfp4"),
        ("unsloth/Qwen3-30B-A3B-bnb-4bit", "Qwen3-30B-A3B", "bitsandbytes"),
        ("amd/DeepSeek-R1-0528-MXFP4", "DeepSeek-R1", "mxfp4"),
        ("deepseek-ai/DeepSeek-R1-0528", "DeepSeek-R1", None),
        ("deepseek-ai/DeepSeek-V3.1-Terminus", "DeepSeek-V3", None),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "Mixtral-8x7B-v0.1", None),
        ("zai-org/GLM-4.6-FP8", "GLM-4.5", "fp8"),
        ("/data/hub/models--Qwen--Qwen3-30B-A3B/snapshots/0123abc", "Qwen3-30B-A3B", None),
        ("./models/Qwen3-30B-A3B/", "Qwen3-30B-A3B", None),
        ("QWEN3-30b-a3b", "Qwen3-30B-A3B", None),
        ("Qwen/Qwen3-Next-80B-A3B-Thinking", "Qwen3-Next-80B-A3B-Instruct", None),
        ("google/gemma-3-27b-pt", "gemma-3-27b-it", None),
        ("someone/Qwen3-30B-A3B-abliterated", "Qwen3-30B-A3B", None),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1@main", "Mixtral-8x7B-v0.1", None),
        ("qwen3:30b-a3b", "Qwen3-30B-A3B", None),
        ("https://huggingface.co/Qwen/Qwen3-30B-A3B/tree/main", "Qwen3-30B-A3B", None),
        ("Qwen/Qwen3-30B-A3B-GPTQ-Int8", "Qwen3-30B-A3B", "int8_weight_only"),
        ("RedHatAI/Qwen3-32B-quantized.w8a16", "Qwen3-32B", "int8_weight_only"),
        ("RedHatAI/Qwen3-30B-A3B-NVFP4A16", "Qwen3-30B-A3B", "nvfp4_weight_only"),
        ("someone/Qwen3-8B-MXFP8-AutoRound", "Qwen3-8B", "mxfp8"),
        ("someone/Qwen3-30B-A3B-FP8-W8A8", "Qwen3-30B-A3B", "fp8"),
        ("deepseek-ai/DeepSeek-V3:latest", "DeepSeek-V3", None),
        ("sgl-project/DeepSeek-V4-Flash-FP8", "DeepSeek-V4-Flash", "fp8_block"),
    ],
)
def test_names_as_people_type_them(name, model, quantization):
    found = resolve(name)
    assert (found.model, found.quantization) == (model, quantization)


def test_what_a_name_says_is_noted_and_counts():
    plain, packed = load_model("Qwen/Qwen3-30B-A3B"), load_model("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8")
    assert not plain.notes and plain.moe.experts == "bfloat16"
    assert packed.moe.experts == "fp8_block" and packed.max_position_embeddings == 262144
    assert "read as the architecture of Qwen3-30B-A3B, stored as fp8_block" in packed.notes[0]


def test_a_name_of_another_format_than_the_catalogue_holds_counts():
    """Experts of the catalogue's own are mxfp4; what the name says replaces it, and what it says already stays."""
    assert load_model("unsloth/gpt-oss-20b-BF16").moe.experts == "bfloat16"
    assert "stored as bfloat16" in load_model("unsloth/gpt-oss-20b-BF16").notes[0]
    assert load_model("sgl-project/DeepSeek-V4-Flash-FP8").moe.experts == "fp8_block"
    kept, own = load_model("someone/DeepSeek-V3-FP8-block"), load_model("DeepSeek-V3")
    assert kept.layers == own.layers


def test_files_of_other_engines_are_named():
    with pytest.raises(SpecError, match="is stored in gguf, which is not read"):
        resolve("unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M")
    with pytest.raises(SpecError, match="is stored in mlx, which is not read"):
        resolve("mlx-community/Qwen3-30B-A3B-4bit")


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-V2.5", "DeepSeek-V2-Chat", "DeepSeek-V4", "deepseek"])
def test_a_generation_is_no_tuning(name):
    with pytest.raises(SpecError, match="is neither in the catalogue nor a folder"):
        resolve(name)


def test_a_format_that_is_no_scheme_is_that_of_all_weights():
    assert load_model("Qwen/Qwen3-30B-A3B-GPTQ-Int8").formats == {"int8_weight_only"}


def test_the_newest_snapshot_of_a_cache(tmp_path):
    """The folder that a hub's cache keeps of a model; the model is called by its own name."""
    for age, name in enumerate(("0123abc", "4567def")):
        folder = tmp_path / "models--Qwen--Qwen3-30B-A3B" / "snapshots" / name
        folder.mkdir(parents=True)
        config = json.loads((MODELS / "Qwen3-30B-A3B" / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10 + age}))
        os.utime(folder, (age, age))
    model = load_model(str(tmp_path / "models--Qwen--Qwen3-30B-A3B"))
    assert (model.name, sum(group.count for group in model.layers)) == ("Qwen3-30B-A3B", 11)


def test_unknown_names_get_the_nearest_of_the_family():
    with pytest.raises(SpecError) as raised:
        resolve("Qwen/Qwen9-Foo")
    said = str(raised.value).split("nearest: ")[1].split(";")[0].split(", ")
    assert len(said) == 3 and all(name.startswith("Qwen") for name in said)


def test_the_current_folder_and_a_trailing_slash(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    config = load_model("OLMoE-1B-7B-0924")
    from moesim.paths import MODELS

    (folder / "config.json").write_text((MODELS / "OLMoE-1B-7B-0924" / "config.json").read_text())
    monkeypatch.chdir(folder)
    for name in (".", "./", "config.json", str(folder) + "/"):
        assert load_model(name).name == "mine" and load_model(name).parameters == config.parameters


def test_a_folder_without_a_config_says_so(tmp_path):
    with pytest.raises(SpecError, match=r"holds no config\.json"):
        load_model(str(tmp_path))
