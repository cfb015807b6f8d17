"""What a tester once got past the readers: each is one sentence, at once."""

import json

import pytest

import moesim
from moesim import SpecError
from moesim.cli import main

QUESTIONS = "source: s\nquestions:\n  x: {}\n"
CLAIM = "source,id,model,gpu,n_gpu,comparison,condition,claim_low,claim_high,unit,note\ns,x,m,g,1,c,,1,2,%,\n"
SERVED = "model: Qwen1.5-MoE-A2.7B\nhardware: h100-sxm\nworkload: {max_concurrency: 2, input_len: 64, output_len: 4}\n"


def refused(capsys, *words) -> str:
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "question",
    [
        "{ask: formula, formula: nope}",
        "{ask: formula, formula: speculation_speed_up}",
        "{ask: formula, formula: speculation_speed_up, values: {rate: a, drafts: 2, cost: 1}}",
        "{ask: formula, formula: speculation_speed_up, values: {rate: 0.5, drafts: 1000000000, cost: 1}}",
        "{ask: formula, formula: slots_over_tokens, values: {experts: 0, top_k: 1, tokens: 0, factor: 1}}",
    ],
)
def test_questions_that_no_formula_answers(question, tmp_path, capsys):
    (tmp_path / "claims.csv").write_text(CLAIM)
    (tmp_path / "questions.yaml").write_text(QUESTIONS.format(question))
    assert "the question of 'x' cannot be worked out" in refused(capsys, "claims", tmp_path / "claims.csv")


@pytest.mark.parametrize("limit", ["nan", "inf"])
def test_limits_of_claims_are_finite(limit, tmp_path, capsys):
    (tmp_path / "claims.csv").write_text(CLAIM.replace(",1,2,", f",1,{limit},"))
    (tmp_path / "questions.yaml").write_text(QUESTIONS.format("{ask: not_askable, why: x}"))
    assert "finite numbers" in refused(capsys, "claims", tmp_path / "claims.csv")


@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_quality_is_finite(value, tmp_path, capsys):
    table = tmp_path / "q.csv"
    table.write_text(
        f"model,experts_format,attention_format,metric,value,source\nM,bfloat16,bfloat16,perplexity,{value},x\n"
    )
    assert "is not a finite number" in refused(capsys, "search", "fiddler_rtx_4090", "--quality", table)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("engine.version=0." + "9" * 5000, "is no version of vllm"),
        ("batch_size=true", "not true or false"),
        ("hardware=h100-sxm[", "is no changed GPU"),
        ("hardware=h100-sxm]", "is no changed GPU"),
        ("hf_overrides={tie_word_embeddings: 'yes'}", "true or false is expected"),
        ("cached_share=0.5", "says nothing of a static batch"),
        ("num_prompts=5", "says nothing of a static batch"),
        ("burstiness=2", "says nothing of a static batch"),
        ("ignore_eos=false", "says nothing of a static batch"),
        ("offload={system: fiddler, host_bandwidth: 10 PB/s}", "is more than the"),
    ],
)
def test_settings(setting, said, capsys):
    assert said in refused(capsys, "predict", "mixtral_tp4", "--set", setting)


def test_burstiness_is_of_a_rate(capsys):
    assert "give request_rate" in refused(capsys, "predict", "mixtral_closed_loop", "--set", "burstiness=2")


@pytest.mark.parametrize("names", [("tp", "tensor_parallel_size"), ("gpu", "hardware"), ("users", "max_concurrency")])
def test_one_setting_has_one_name(names):
    with pytest.raises(SpecError, match="say the same thing; keep one"):
        moesim.load("mixtral_tp4").with_(**dict.fromkeys(names, 4))


def test_engines_apart_share_one_cache(capsys):
    decode = "disaggregation.decode={tensor_parallel_size: 4, kv_cache_dtype: fp8}"
    assert "one cache is of both" in refused(capsys, "predict", "mixtral_disaggregated", "--set", decode)


@pytest.mark.parametrize("text", ["1 " * 20_000, json.dumps({"completed": 1}) + "\n" + "{}\n" * 20_000])
def test_many_results_are_counted_before_they_are_read(text, tmp_path, capsys):
    (tmp_path / "b.json").write_text(text)
    (tmp_path / "s.yaml").write_text(SERVED)
    words = ("import-bench", tmp_path / "b.json", "--scenario", tmp_path / "s.yaml", "-o", tmp_path / "r.yaml")
    assert "more than 10,000 results" in refused(capsys, *words)


def test_counts_of_a_benchmark_are_counts(tmp_path, capsys):
    result = {"backend": "vllm", "duration": 1, "completed": 1e-308, "total_input_tokens": 1, "total_output_tokens": 1,
              "max_concurrency": 1, "mean_ttft_ms": 1.0}  # fmt: skip
    (tmp_path / "b.json").write_text(json.dumps(result))
    (tmp_path / "s.yaml").write_text(SERVED)
    words = ("import-bench", tmp_path / "b.json", "--scenario", tmp_path / "s.yaml", "-o", tmp_path / "r.yaml")
    assert "from 1 to" in refused(capsys, *words)


@pytest.mark.parametrize("call", [
    lambda: moesim.load("mixtral_tp4", 5), lambda: moesim.load("mixtral_tp4", {1: 2}),
])  # fmt: skip
def test_what_is_no_mapping_of_settings(call):
    with pytest.raises(TypeError, match="overrides are a mapping"):
        call()


@pytest.mark.parametrize("call", [
    lambda: moesim.predict("mixtral_tp4"), lambda: moesim.sweep("x", {"tp": [1]}), lambda: moesim.plans(None, 1),
    lambda: moesim.tornado(None), lambda: moesim.capacity(5, moesim.Slo(ttft_s=1)),
])  # fmt: skip
def test_what_is_no_scenario(call):
    with pytest.raises(TypeError, match="a Scenario is expected"):
        call()


@pytest.mark.parametrize("axes", [None, {1: [2]}, "tp"])
def test_what_are_no_axes(axes):
    with pytest.raises(TypeError, match="axes are a mapping"):
        moesim.sweep(moesim.load("mixtral_tp4"), axes)


@pytest.mark.parametrize("load", [moesim.load_model, moesim.load_hardware])
def test_endless_names_are_short_refusals(load):
    with pytest.raises(SpecError) as caught:
        load("a" * 100_000)
    assert len(str(caught.value)) < 400


def test_words_are_not_shortened(capsys):
    assert main(["search", "fiddler_rtx_4090", "--gpu", "rtx-4090", "--osl", "2", "--systems", "fiddler"]) == 0
    assert "rtx-4090" in capsys.readouterr().out
