"""Settings of techniques that contradict each other, say nothing, or cannot be read: one sentence each, exit code 2."""

from __future__ import annotations

import pytest

from moesim.cli.main import main
from moesim.paths import SCENARIOS

TECHNIQUES = SCENARIOS / "techniques"
DRAFT, DROPPING, HALF = (
    str(TECHNIQUES / f"{name}.yaml") for name in ("qwen3_30b_draft", "olmoe_dropping", "olmoe_half_the_experts")
)
FIDDLER = str(SCENARIOS / "offload" / "fiddler_rtx_4090.yaml")
TPU, MTP, IMAGES = (
    str(TECHNIQUES / f"{name}.yaml") for name in ("mixtral_tpu_v5p", "deepseek_r1_mtp", "qwen3_vl_images")
)
COUNTS = str(TECHNIQUES / "qwen3_30b_counts.csv")


def refused(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2, arguments
    out, error = capsys.readouterr()
    assert not out and "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        (DRAFT, ["engine.speculative_config.model=nothere"], "override: speculative_config: the model 'nothere'"),
        (DRAFT, ["engine.speculative_config.prompt_lookup_max=4"], "have a part only under ngram"),
        (DRAFT, ["engine.speculative_config.foo=1"], "'engine.speculative_config.foo' is not a known key"),
        (DRAFT, ["engine.speculative_config=5"], "override: 'engine.speculative_config': a section of keys"),
        (DROPPING, ["engine.moe_pipeline_degree=true"], "found 'True'"),
        (HALF, ["variant.num_experts=0", "variant.pruned_experts=0"], "override: 'variant.num_experts': input"),
        (HALF, ["variant.residual_intermediate_size=1000000000000"], "less than or equal to 1048576"),
        (HALF, ["variant.dropped_layers=-1"], "override: 'variant.dropped_layers': input"),
        (FIDDLER, ["engine.moe_dispatch=looped"], "looped is of experts on the GPU"),
        (FIDDLER, ["engine.moe_dispatch=dropping", "engine.moe_capacity_factor=1"], "dropping is of experts"),
        (TPU, ["engine.nccl_algo=tree"], "runs no NCCL"),
        (MTP, ["engine.speculative_config.model=Qwen3-1.7B"], "own layer, not with"),
        (IMAGES, ["workload.images.width=4000", "workload.images.height=10"],
         "up to 200 times the other"),
    ],
)  # fmt: skip
def test_a_sentence(capsys, file, changes, said):
    sets = [text for change in changes for text in ("--set", change)]
    assert said in refused(capsys, "predict", file, *sets)


@pytest.mark.parametrize("value", ["0", "-1", "1e9"])
def test_a_refused_value_is_not_missed_too(capsys, value):
    error = refused(capsys, "predict", DROPPING, "--set", f"engine.moe_capacity_factor={value}")
    assert len(error.splitlines()) == 1 and "'engine.moe_capacity_factor'" in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layer,expert,count\n0,0,5\n0,0,7\n", ":3: names expert 0 of layer 0 a second time"),
        ("layer,expert,count\n0,0,0\n0,1,0\n1,0,4\n", "counts no pick of layer 0"),
        ("layer,expert,count\n0,0,1e17\n", ":2: is not a layer, an expert and a count from 0 to 1e+15"),
        ("layer,expert\n0,0\n", "neither as a trace"),
        ("1 2 3\n", "with commas"),
    ],
)
def test_counts(capsys, tmp_path, text, said):
    path = tmp_path / "counts.csv"
    path.write_text(text)
    assert said in refused(capsys, "routing", str(path))


def test_files_and_ranks(capsys, tmp_path):
    assert "129 ranks are more than the 128 experts" in refused(capsys, "routing", COUNTS, "--ranks", "129")
    assert "is a folder" in refused(capsys, "routing", str(tmp_path))
    assert "is a folder" in refused(capsys, "predict", HALF, "--economy", "--prices", str(tmp_path))
    command = """vllm serve Qwen3-30B-A3B --speculative-config '{"method": "ngram", "method": "eagle"}'"""
    assert "'method' is written twice" in refused(capsys, "predict", "--from-vllm", command, "--hardware", "h200-sxm")


def test_layers_that_are_wrong_alike_are_told_once(capsys, tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("layer,expert,count\n" + "".join(f"{i},0,5\n{i},127,0\n" for i in range(48)))
    scenario = tmp_path / "few.yaml"
    scenario.write_text(
        "model: Qwen3-30B-A3B\nhardware: h200-sxm\nworkload: {batch_size: 1, input_len: 8, output_len: 8}\n"
        "routing: {kind: by_layer, file: few.csv}\n"
    )
    error = refused(capsys, "predict", str(scenario))
    assert error.count("layer 0 and 47 others: fewer experts") == 1 and len(error.splitlines()) == 1


def test_a_sweep_says_why_rows_do_not_fit(capsys, tmp_path):
    out = str(tmp_path / "out.csv")
    axis = "engine.speculative_config.num_speculative_tokens=3,40"
    assert main(["sweep", DRAFT, "--axis", axis, "-o", out]) == 0
    said = capsys.readouterr().out
    assert "2 points, 1 of them fit" in said and "1 not: 'engine.speculative_config" in said


def test_what_is_drafted_and_varied_is_in_the_title(capsys):
    assert main(["predict", DRAFT, "--set", "engine.speculative_config.model=Qwen3-0.6B"]) == 0
    assert "3 drafts by draft_model Qwen3-0.6B" in capsys.readouterr().out.splitlines()[0]
    assert main(["predict", IMAGES]) == 0
    text = capsys.readouterr().out
    assert "of 768 tokens and" in text.splitlines()[0] and "a host prepares one in" in text
