"""Engines, engine versions and engines apart on the command line."""

import json
import re

import pytest

from moesim import paths
from moesim.cli import main
from moesim.inputs.vllm_command import scenario_from_vllm

MIXTRAL = str(paths.SCENARIOS / "mixtral_tp4.yaml")
APART = (paths.SCENARIOS / "mixtral_disaggregated.yaml").read_text(encoding="utf-8")


def test_versions_of_the_same_file_say_the_same(capsys):
    main(["predict", MIXTRAL])
    default = capsys.readouterr().out
    for version in (["--set", "engine.version=0.25"], ["--engine-version", "0.25.1"]):
        assert main(["predict", MIXTRAL, *version]) == 0
        # But for the version in the title.
        assert capsys.readouterr().out.splitlines()[1:] == default.splitlines()[1:]


def test_another_version_widens_and_one_beyond_all_is_refused_under_strict(capsys):
    main(["predict", MIXTRAL, "--json"])
    known = json.loads(capsys.readouterr().out)["metrics"]["mean_tpot_ms"]
    assert main(["predict", MIXTRAL, "--json", "--set", "engine.version=0.12"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["mean_tpot_ms"]
    assert found["value"] > known["value"], "synchronous, norms on their own"
    assert main(["predict", MIXTRAL, "--set", "engine.version=0.12", "--explain"]) == 0
    assert "engine version -5% +5%" in capsys.readouterr().out
    assert main(["predict", MIXTRAL, "--json", "--set", "engine.version=0.40"]) == 0
    assert any("vllm 0.40 is not described" in note for note in json.loads(capsys.readouterr().out)["notes"])
    assert main(["predict", MIXTRAL, "--set", "engine.version=0.40", "--strict"]) == 4
    assert "kernels of vllm 0.33, not of 0.40" in capsys.readouterr().err


def test_the_newest_version_is_said(capsys):
    assert main(["predict", MIXTRAL, "--set", "engine.version=nightly"]) == 0
    assert "nightly is taken as vllm 0.33" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("engine.name=vlm", "there is no engine 'vlm'; did you mean 'vllm'?"),
        ("engine.version=newest", "'newest' is no version of vllm"),
    ],
)
def test_unknown_engines(capsys, setting, sentence):
    assert main(["predict", MIXTRAL, "--set", setting]) == 2
    assert sentence in capsys.readouterr().err


def test_a_version_in_a_file_is_text(tmp_path, capsys):
    path = tmp_path / "s.yaml"
    path.write_text(
        "model: Mixtral-8x7B-v0.1\nhardware: h100-sxm\nengine:\n  version: 0.10\n"
        "workload: {batch_size: 1, input_len: 8, output_len: 8}\n"
    )
    assert main(["predict", str(path)]) == 2
    assert f"{path}:4: 'engine.version': a version is text: write it in quotes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("tensor_parallel_size: 3", "3 does not divide the 32 attention heads"),
        ("tensor_parallel_size: 4, wrong: 1", "'wrong' is not an engine setting"),
        ("tensor_parallel_size: 4, all2all_backend: deepep_low_latency", "all2all_backend has a part only with"),
    ],
)
def test_the_side_that_is_wrong_is_named_by_its_line(tmp_path, capsys, settings, sentence):
    path = tmp_path / "apart.yaml"
    path.write_text(APART.replace("decode: {tensor_parallel_size: 4}", f"decode: {{{settings}}}"))
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "  decode: " in text)
    assert main(["predict", str(path)]) == 2
    assert f"{path}:{line}: {sentence}" in capsys.readouterr().err


def test_the_closed_form_as_json(capsys):
    assert main(["predict", MIXTRAL, "--conc", "32", "--steady", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["steady"]["limited_by"] == "clients"
    assert 31 < data["steady"]["running"] < 32
    assert data["metrics"]["mean_tpot_ms"]["low"] < data["metrics"]["mean_tpot_ms"]["value"]


def test_a_backend_that_does_not_run_there(capsys):
    assert main(["predict", MIXTRAL, "--set", "engine.moe_backend=marlin"]) == 2
    said = capsys.readouterr().err
    assert "'marlin' does not run bfloat16 experts on compute capability 9.0; triton" in said


def test_explain_says_what_runs_and_what_the_interval_is_made_of(capsys):
    qwen = str(paths.SCENARIOS / "qwen3_235b_fp8.yaml")
    assert main(["predict", qwen, "--engine-version", "0.12", "--explain"]) == 0
    said = capsys.readouterr().out
    assert "experts (fp8_block): vllm 0.12 runs deepgemm, where deep_gemm is installed" in said
    assert "it also has triton" in said and "engine version -5% +5%" in said and "machine -4% +4%" in said
    oss = str(paths.SCENARIOS / "gpt_oss_120b_served.yaml")
    arguments = ["--engine-version", "0.25", "--set", "engine.moe_backend=auto", "--set", "workload.num_prompts=8"]
    assert main(["predict", oss, *arguments, "--explain"]) == 0
    assert "or marlin, which is in the interval; moe_backend narrows it" in capsys.readouterr().out


def test_an_image_names_the_version(capsys):
    command = "docker run --gpus all vllm/vllm-openai:v0.12.0 --model Mixtral-8x7B-v0.1 -tp 4"
    arguments = ["--hardware", "h100-sxm", "--isl", "64", "--osl", "16", "--explain"]
    assert main(["predict", "--from-vllm", command, *arguments]) == 0
    assert "vllm 0.12.0 runs triton" in capsys.readouterr().out


def test_a_command_without_quotes(capsys):
    """As it is pasted: vLLM's flags up to the first that vLLM has not, ours after it."""
    command = "vllm serve Mixtral-8x7B-v0.1 -tp=4 --no-enable-prefix-caching --kv-cache-dtype fp8 --max-model-len 4k"
    ours = ["--hardware", "h100-sxm", "--batch-size", "2", "--isl", "64", "--osl", "16", "--json"]
    assert main(["predict", "--from-vllm", *command.split(), *ours]) == 0
    pasted = capsys.readouterr().out
    assert main(["predict", "--from-vllm", command, *ours]) == 0
    assert pasted == capsys.readouterr().out


OSS = "vllm serve openai/gpt-oss-120b --gpu-memory-utilization 0.95 --max-num-batched-tokens 1024"
CODER = "vllm serve Qwen/Qwen3-Coder-480B-A35B-Instruct -dp=8 --enable-expert-parallel --quantization fp8_block"
V32 = "vllm serve deepseek-ai/DeepSeek-V3.2 -tp 8"


@pytest.mark.parametrize(
    ("command", "hardware", "asked", "room_gib", "longest"),
    [
        # vllm-project/vllm issue 27508, of October 2025; what was free held 49,400 tokens of 72 KiB and windows.
        (OSS, "h100-sxm --set engine.version=0.11.0", 131072, 1.71, None),
        # vllm-project/recipes issue 12.
        (f"{CODER} --gpu-memory-utilization 0.9", "hgx-h200", 262144, 48.66, 205728),
        (f"{CODER} --gpu-memory-utilization 0.95", "hgx-h200", 262144, 55.65, 235296),
        (V32, "8xH20-96GB", 163840, None, None),
    ],
)
def test_public_reports_of_lengths_that_did_not_start(capsys, command, hardware, asked, room_gib, longest):
    """Refused as they were; room within 0.5 GiB of a card's memory, the length it names within 1 %."""
    served = ["--conc", "1", "--isl", "1024", "--osl", "64", "--hardware", *hardware.split()]
    assert main(["predict", "--from-vllm", f"{command} --max-model-len {asked}", *served]) == 3
    said = capsys.readouterr().out
    assert f"max_model_len asks for {asked:,}" in said
    room = float(re.search(r"KV cache room +([\d.]+) GiB", said).group(1))
    length = int(re.search(r"max_model_len up to ([\d,]+)", said).group(1).replace(",", ""))
    assert room_gib is None or abs(room - room_gib) < 0.5
    assert longest is None or abs(length / longest - 1) < 0.01


def test_a_length_that_does_not_start(capsys):
    """vLLM asks at start that one request of max_model_len fits."""
    arguments = ["--set", "engine.max_model_len=32768", "--tp", "2", "--set", "engine.gpu_memory_utilization=0.59"]
    assert main(["predict", MIXTRAL, *arguments, "--batch-size", "1", "--isl", "64", "--osl", "16"]) == 3
    assert "max_model_len asks for 32,768" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("vllm serve Mixtral-8x7B-v0.1 --tensor-parallel-size", "--tensor-parallel-size needs a value"),
        ("vllm serve Mixtral-8x7B-v0.1 --max-num-seqs --enforce-eager", "--max-num-seqs needs a value"),
        ("docker run vllm/vllm-openai:gptoss --model Mixtral-8x7B-v0.1", "the image's tag 'gptoss' names no version"),
        ("docker run vllm/vllm-openai@sha256:abc --model Mixtral-8x7B-v0.1", "'sha256:abc' names no version"),
        ("docker run ubuntu sleep 1", "runs no image of vLLM"),
    ],
)
def test_command_lines_that_say_too_little(capsys, command, sentence):
    given = ["--hardware", "h100-sxm", "--isl", "64", "--osl", "16"]
    assert main(["predict", "--from-vllm", command, *given]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "version"),
    [
        ("docker run -e HF_TOKEN=x vllm/vllm-openai --model M -tp 4", "latest"),
        ("docker run --entrypoint vllm registry.example:5000/vllm/vllm-openai:v0.18.0-cu130 serve M", "0.18.0"),
        ("podman run vllm/vllm-openai:nightly vllm serve M", "nightly"),
    ],
)
def test_images(command, version):
    data, notes = scenario_from_vllm(command)
    assert data["engine"]["version"] == version and data["model"] == "M" and notes == []


def test_what_is_not_used_is_said():
    _, notes = scenario_from_vllm("VLLM_MXFP4_USE_MARLIN=1 HF_TOKEN=x vllm serve M --moe-backend deep_gemm more words")
    assert notes == [
        "VLLM_MXFP4_USE_MARLIN=1 is not modelled: the kernel that the version picks itself is priced; "
        "--moe-backend marlin is priced as Marlin",
        "'more words' is not used: it is no flag",
    ]
    _, notes = scenario_from_vllm("docker run -e VLLM_USE_DEEP_GEMM=1 vllm/vllm-openai:v0.12.0 --model M")
    assert len(notes) == 1 and notes[0].startswith("VLLM_USE_DEEP_GEMM=1 is not modelled: ")


def test_kernels_of_hopper_do_not_run_elsewhere(capsys):
    minimax = str(paths.SCENARIOS / "minimax_m25.yaml")
    assert main(["predict", minimax, "--hardware", "mi300x", "--engine-version", "0.12", "--explain"]) == 0
    assert "vllm 0.12 runs triton" in capsys.readouterr().out
