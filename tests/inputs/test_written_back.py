"""A scenario written back: as a file, and as the vllm command of its engine."""

import shlex

import pytest

import moesim
from moesim.files import yaml
from moesim.inputs.loading import from_data
from moesim.inputs.scenario_file import scenario_data, scenario_text
from moesim.inputs.vllm_command import docker_command, scenario_from_vllm, serve_command
from moesim.paths import SCENARIOS

FILES = sorted(p for p in SCENARIOS.rglob("*.yaml") if "models" not in p.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_what_is_written_is_read_as_the_same(path):
    scenario = moesim.load(path)
    text = scenario_text(scenario, "One line\nand another")
    assert text.startswith("# One line\n# and another\nmodel: ")
    assert from_data(yaml.parse(text, "again").data, "again") == scenario


def test_defaults_are_not_written():
    scenario = moesim.load(SCENARIOS / "mixtral_tp4.yaml")
    assert set(scenario_data(scenario)) <= {"model", "hardware", "workload", "engine", "routing", "description"}
    assert scenario_data(scenario)["engine"] == {"tensor_parallel_size": 4}


VLLM = [p for p in FILES if moesim.load(p).engine.name == "vllm" and moesim.load(p).offload is None]
SAID = {
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel", "enable_eplb",
    "num_redundant_experts", "all2all_backend", "enable_dbo", "kv_cache_dtype", "max_num_batched_tokens",
    "max_num_seqs", "max_model_len", "enable_chunked_prefill", "enable_prefix_caching", "gpu_memory_utilization",
    "block_size", "enforce_eager", "moe_backend", "nccl_algo", "hf_overrides", "async_scheduling",
}  # fmt: skip


@pytest.mark.parametrize("path", VLLM, ids=lambda p: p.stem)
def test_a_command_reads_back_as_the_settings(path):
    scenario = moesim.load(path)
    command = serve_command(scenario)
    data, _ = scenario_from_vllm(command.text)
    assert data["model"] == scenario.model
    mine = scenario.engine.model_dump(exclude_defaults=True, exclude_none=True)
    for name in SAID & mine.keys():
        assert data["engine"].get(name) == mine[name], name
    if scenario.engine.drafts is not None:
        assert data["engine"]["speculative_config"]["num_speculative_tokens"] == (
            scenario.engine.drafts.num_speculative_tokens
        )


def test_a_format_without_a_flag_says_what_to_serve():
    scenario = moesim.load(SCENARIOS / "mixtral_tp4.yaml")
    assert "--quantization fp8" in serve_command(scenario.with_(quantization="fp8")).text
    command = serve_command(scenario.with_(quantization="int4"))
    assert "--quantization" not in command.text
    assert "stored so" in command.notes[0]


def test_docker_names_the_version():
    scenario = moesim.load(SCENARIOS / "mixtral_tp4.yaml").with_(engine__version="0.24", nccl_algo="ring")
    text = docker_command(serve_command(scenario), scenario.engine)
    assert "vllm/vllm-openai:v0.24.0 --model Mixtral-8x7B-v0.1 --tensor-parallel-size 4" in text
    assert "-e NCCL_ALGO=RING" in text
    assert shlex.split(text)[0] == "docker"


def test_another_engine_has_no_vllm_command():
    scenario = moesim.load(SCENARIOS / "mixtral_tp4.yaml")
    other = scenario.model_copy(update={"engine": scenario.engine.model_copy(update={"name": "sglang"})})
    with pytest.raises(moesim.SpecError, match="sglang"):
        serve_command(other)
