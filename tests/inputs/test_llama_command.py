"""llama.cpp's command lines and GGUF files read into scenarios."""

import numpy as np
import pytest

from moesim import SpecError
from moesim.cli.main import main
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.gguf_file import format_of, header, named
from moesim.inputs.llama_command import scenario_from_llama_cpp


@pytest.mark.parametrize(
    ("text", "model", "experts"),
    [
        ("Qwen3-30B-A3B-Q4_K_M.gguf", "Qwen3-30B-A3B", "gguf_q4_k_m"),
        ("unsloth/Qwen3-30B-A3B-GGUF:UD-Q4_K_XL", "Qwen3-30B-A3B", "gguf_q4_k_m"),
        ("models/mixtral-8x7b-v0.1.Q5_K_S.gguf", "mixtral-8x7b-v0.1", "gguf_q5_k"),
        ("Qwen3-235B-A22B-UD-Q2_K_XL-00001-of-00002.gguf", "Qwen3-235B-A22B", "gguf_q2_k"),
        ("DeepSeek-V3-IQ2_XXS.gguf", "DeepSeek-V3", "gguf_iq2_xxs"),
        ("gpt-oss-120b-mxfp4-00001-of-00003.gguf", "gpt-oss-120b", "mxfp4"),
        ("gpt-oss-20b-F16.gguf", "gpt-oss-20b", "bfloat16"),
        ("Qwen3-30B-A3B.gguf", "Qwen3-30B-A3B", None),
    ],
)
def test_names_of_files(text, model, experts):
    found = named(text)
    assert (found.name, found.experts) == (model, experts)


def test_every_quantisation_that_files_have():
    for name in [
        "Q8_0",
        "Q6_K",
        "Q5_K_M",
        "Q4_0",
        "Q4_1",
        "Q4_K_S",
        "Q3_K_L",
        "IQ4_NL",
        "IQ4_XS",
        "IQ3_M",
        "IQ1_S",
        "BF16",
    ]:
        assert format_of(name) == "bfloat16" or format_of(name).startswith("gguf_")
    with pytest.raises(SpecError, match="no quantisation"):
        format_of("Q9_9")


def test_the_usual_line():
    found, notes = scenario_from_llama_cpp("llama-server -m Qwen3-30B-A3B-Q4_K_M.gguf -ngl 99 --n-cpu-moe 24")
    assert found["model"] == "Qwen3-30B-A3B" and not notes
    assert found["offload"] == {
        "system": "llama-cpp", "attention_format": "gguf_q4_k_m", "experts_format": "gguf_q4_k_m", "n_cpu_moe": 24,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "amount"),
    [
        ("-ngl 99", {"n_cpu_moe": 0}),
        ("-ngl 20", {"n_gpu_layers": 20}),
        ("-ngl=20", {"n_gpu_layers": 20}),
        ("-ngl 99 -cmoe", {"n_cpu_moe": 48}),
        ("-ngl 99 -ncmoe 60", {"n_cpu_moe": 48}),
        (r"-ngl 99 -ot 'blk\.([0-9]|1[0-9])\.ffn_.*_exps\.=CPU'", {"n_cpu_moe": 20}),
        ("-ngl 99 -ot '.ffn_.*_exps.=CPU'", {"n_cpu_moe": 48}),
        (r"-ngl 99 -ot 'blk\.[0-3]\.ffn_up_exps=CPU'", {"n_cpu_moe": 2}),
        ("", {}),
    ],
)
def test_what_stays_on_the_gpu(flags, amount):
    offload = scenario_from_llama_cpp(f"./build/bin/llama-cli -m Qwen3-30B-A3B-Q4_0.gguf {flags}")[0]["offload"]
    assert {k: v for k, v in offload.items() if k in {"n_cpu_moe", "n_gpu_layers"}} == amount


def test_micro_batches_caches_cards_and_lengths():
    line = (
        "CUDA_VISIBLE_DEVICES=0,1 llama-bench -m gpt-oss-120b-F16.gguf -ngl 99 -ub 2048 -ctk q8_0 -p 512 -n 64 --frob 3"
    )
    found, notes = scenario_from_llama_cpp(line, load_hardware("h100-sxm"))
    assert found["engine"] == {
        "max_num_batched_tokens": 2048, "kv_cache_dtype": "fp8", "pipeline_parallel_size": 2,
    }  # fmt: skip
    assert found["workload"] == {"input_len": 512, "output_len": 64}
    assert found["offload"]["experts_format"] == "mxfp4" and found["offload"]["attention_format"] == "bfloat16"
    assert any("--frob 3 is not used" in note for note in notes) and any("q8_0" in note for note in notes)
    narrow = scenario_from_llama_cpp(line, load_hardware("rtx-3090"))[0]
    assert "kv_cache_dtype" not in narrow["engine"], "a GPU without fp8"
    assert "pipeline_parallel_size" not in scenario_from_llama_cpp(line + " -sm none")[0]["engine"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("llama-server -ngl 1x -m Qwen3-30B-A3B-Q4_0.gguf", "-ngl 1x is no number"),
        ("llama-server -ngl 99", "names no model"),
        ("python serve.py", "names no llama.cpp program"),
        ("llama-server -m 'x", "cannot be read"),
        ("llama-server -m Qwen3-30B-A3B-Q4_0.gguf -ngl 20 -ncmoe 40", "both together"),
        ("llama-server -m Qwen3-30B-A3B-Q4_0.gguf -ot '(=CPU'", "no regular expression"),
        ("llama-server -m Qwen3-30B-A3B-Q4_0.gguf -ctk q3", "is not known"),
        ("llama-server -m nobody-knows-Q4_0.gguf", "neither in the catalogue"),
        ("llama-server -m", "needs a value"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(line, said):
    with pytest.raises(SpecError, match=said):
        scenario_from_llama_cpp(line)


@pytest.fixture
def tiny(tmp_path):
    """A GGUF file of two tensors."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "some-file.gguf"
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_name("Qwen3 30B A3B")
    writer.add_block_count(48)
    writer.add_embedding_length(2048)
    writer.add_expert_count(128)
    kinds = gguf.GGMLQuantizationType
    writer.add_tensor("blk.0.ffn_gate_exps.weight", np.zeros((5, 144), np.uint8), raw_dtype=kinds.Q4_K)
    writer.add_tensor("blk.0.ffn_down_exps.weight", np.zeros((1, 210), np.uint8), raw_dtype=kinds.Q6_K)
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((4, 34), np.uint8), raw_dtype=kinds.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_files_header_says_shapes_and_formats(tiny, capsys):
    found = header(tiny)
    assert (found.name, found.layers, found.num_experts) == ("Qwen3-30B-A3B", 48, 128)
    assert found.experts == "gguf_q4_k_m" and found.attention == "gguf_q8_0", "the nearest by bytes a weight"
    line = f"llama-server -m {tiny} -ngl 99 -cmoe"
    assert main(["predict", "--from-llama-cpp", line, "--hardware", "rtx-4070", "--output_len", "8"]) == 0
    assert "0 of 128 experts of each layer on the GPU" in capsys.readouterr().out


def test_a_file_that_is_none_is_refused(tmp_path, capsys):
    path = tmp_path / "Qwen3-30B-A3B-Q4_0.gguf"
    path.write_bytes(b"GGUF" + bytes(range(200)))
    assert main(["predict", "--from-llama-cpp", f"llama-server -m {path}", "--hardware", "rtx-4070"]) == 2
    assert "is no GGUF file that can be read" in capsys.readouterr().err
    assert main(["predict", "--from-llama-cpp", "llama-server -m x.gguf"]) == 2
    assert "says no GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "first"),
    [
        (r"-m DeepSeek-V2-Lite-Q4_K_M.gguf -ngl 99 -ot blk\.(1|2)\.ffn_.*_exps=CPU", 3),
        (r"-m DeepSeek-V2-Lite-Q4_K_M.gguf -ngl 99 -ot exps=CUDA_Host", 27),
        (r"-m Qwen3-30B-A3B-Q4_K_M.gguf -ngl 99 -ncmoe 20 -ot blk\.4[0-9]\.ffn_.*_exps=CPU", 28),
        (r"-m Qwen3-30B-A3B-Q4_K_M.gguf -ngl 99 -ncmoe 20 -ot blk\.1[0-9]\.ffn_.*_exps=CPU", 20),
        (r"-m Qwen3-30B-A3B-Q4_K_M.gguf -ngl 99 -ot nothing=CPU", 0),
    ],
)
def test_override_rules_add_to_the_first_layers_and_count_moe_layers_alone(line, first):
    found, _ = scenario_from_llama_cpp(f"llama-server {line}")
    assert found["offload"]["n_cpu_moe"] == first


@pytest.mark.parametrize("line", ["llama-server -nkvo", "llama-bench -nkvo 1", "llama-server --no-kv-offload"])
def test_a_cache_kept_off_the_gpu_is_read(line):
    found, notes = scenario_from_llama_cpp(f"{line} -m Qwen3-30B-A3B-Q4_K_M.gguf -ngl 99")
    assert found["offload"]["kv_cache"] == "cpu"
    assert not notes
    assert "kv_cache" not in scenario_from_llama_cpp("llama-bench -nkvo 0 -m Qwen3-30B-A3B-Q4_K_M.gguf")[0]["offload"]
