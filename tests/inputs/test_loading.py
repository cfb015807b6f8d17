"""Scenario files: all problems at once, each with its line, and nothing that is not understood is accepted."""

import pytest

from moesim import load
from moesim.errors import SpecError
from moesim.files import yaml

GOOD = """model: Mixtral-8x7B-v0.1
hardware: h100-sxm
engine: {tensor_parallel_size: 4}
workload: {batch_size: 2, input_len: 128, output_len: 16}
"""


def problems(path, **overrides) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(path, overrides)
    return [str(p) for p in caught.value.problems]


def test_aliases_and_overrides(write):
    path = write(GOOD.replace("tensor_parallel_size", "tp").replace("input_len", "isl"))
    scenario = load(path, {"osl": 99, "engine.block_size": 32, "routing.kind": "zipf", "routing.s": 1})
    assert scenario.engine.tensor_parallel_size == 4
    assert scenario.workload.output_len == 99
    assert scenario.engine.block_size == 32
    assert scenario.routing.kind == "zipf"


def test_cards_whose_names_are_numbers(write):
    path = write("model: Qwen3-0.6B\nhardware: 4090\nworkload: {batch_size: 1, input_len: 9, output_len: 9}\n")
    assert load(path).hardware == "4090"


def test_every_problem_at_once_with_its_line(write):
    path = write("""model: Mixtral-8x7B-v0.1
hardwear: h100
hardware: h1000
engine: {tensor_parallel_size: 3, gpu_memory_utilization: 1.5}
workload:
  input_len: 10
  output_len: ten
  batch: 2
""")
    found = "\n".join(problems(path))
    for line, text in (
        (2, "'hardwear' is not a known key; did you mean 'hardware'?"),
        (3, "the hardware 'h1000' is not known"),
        (4, "less than or equal to 1"),
        (7, "'workload.output_len'"),
        (8, "'workload.batch' is not a known key; did you mean 'workload.batch_size'?"),
    ):
        assert f"scenario.yaml:{line}: " in found and text in found
    assert "scenario.yaml:4: 3 does not divide the 32 attention heads" in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tp": 3}, "3 does not divide the 32 attention heads"),
        ({"tp": 16}, "16 GPUs (TP 16 x PP 1 x DP 1), more than the 8 of nvidia-h100-sxm5-80gb; name a cluster"),
        ({"isl": 40000}, "more than the positions of Mixtral-8x7B-v0.1"),
        ({"max_model_len": 99999}, "99999 exceeds the 32768 positions"),
        ({"max_model_len": 100}, "more than max_model_len"),
        ({"engine.hf_overrides.num_experts_per_tok": 9}, "num_experts_per_tok is 9, above the 8 experts"),
        ({"hardware": "v100-32gb", "quantization": "fp8"}, "fp8 from compute capability 7.5"),
        ({"hardware": "t4", "kv_cache_dtype": "fp8"}, "has no fp8 arithmetic"),
        ({"routing": {"kind": "histogram", "counts": [1, 2]}}, "has 2 counts"),
        ({"routing": {"kind": "trace", "file": "nowhere.csv"}}, "there is no file"),
        (
            {"routing.kind": "histogram", "routing.counts": [1, 0, 0, 0, 0, 0, 0, 0]},
            "fewer experts are ever picked",
        ),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"batch_size": 1.5}, "valid integer"),
        ({"batch_size": 5000}, "exceeds max_num_seqs"),
        ({"quantization": "fp3"}, "did you mean 'fp8'"),
        ({"model": "gpt-5"}, "neither in the catalogue nor a folder with a config.json; nearest: gpt"),
        ({"calibration": "nothing"}, "neither stored nor a file"),
        ({"speed": 3}, "is not a setting of a scenario"),
    ],
    ids=str,
)
def test_impossible_combinations(write, change, message):
    assert message in "\n".join(problems(write(GOOD), **change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a map"),
        ("- a\n- b\n", "must be a map"),
        ("a: [1, 2\n", "not valid YAML"),
        ("a: 1\na: 2\n", "'a' is written twice (first on line 1)"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not accepted; plain values only"),
        ("a: !thing 1\n", "is not accepted"),
        ("a: &x [1]\nb: *x\n", "anchors and aliases are not accepted"),
        ("? [1, 2]\n: 3\n", "a key must be plain text"),
        ("a: " + "[" * 60 + "]" * 60 + "\n", "nested more than 30"),
        ("\x00", "not valid YAML"),
    ],
)
def test_files_that_do_not_describe(write, text, message):
    assert message in "\n".join(problems(write(text)))


def test_not_text(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00bad")
    assert "not UTF-8" in problems(path)[0]
    assert "there is no such file" in problems(tmp_path / "missing.yaml")[0]
    assert "is a folder" in problems(tmp_path)[0]


def test_yaml_is_1_2():
    assert yaml.parse("a: 989e12\nb: yes\nc: 0o17\nd: 1_000\ne: .inf\n", "x").data == {
        "a": 989e12, "b": "yes", "c": 15, "d": 1000, "e": float("inf"),
    }  # fmt: skip


def test_a_model_beside_the_scenario(write, tmp_path):
    from moesim import paths

    folder = tmp_path / "my-moe"
    folder.mkdir()
    (folder / "config.json").write_text((paths.MODELS / "OLMoE-1B-7B-0924" / "config.json").read_text())
    scenario = load(write(GOOD.replace("Mixtral-8x7B-v0.1", "my-moe")))
    assert scenario.model.endswith("my-moe")


def test_with_checks_too(mixtral):
    assert mixtral.with_(batch_size=3).workload.batch_size == 3
    assert mixtral.with_(workload__batch_size=3).workload.batch_size == 3
    with pytest.raises(SpecError, match="did you mean 'batch_size'"):
        mixtral.with_(bach_size=3)
    with pytest.raises(SpecError, match="3 does not divide"):
        mixtral.with_(tensor_parallel_size=3)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("workload: {trace: a.csv}", "'workload.trace' is not a known key; did you mean 'workload.trace_file'?"),
        ("workload: {traces: 4}", "'workload.traces' is not a known key; did you mean 'workload.trace_file'?"),
        ("engine: {tensor_parallel: 2}", "'engine.tensor_parallel' is not a known key; did you mean 'engine.tensor_"),
        ("engine: {histogram: 1}", "'engine.histogram' is not a known key; did you mean 'routing.kind: histogram'?"),
        ("engine: {request_rate: 1}", "'engine.request_rate' is not a known key; did you mean 'workload.request"),
        ("max_num_seqs: 8", "'max_num_seqs' is not a known key; did you mean 'engine.max_num_seqs'?"),
        ("routing: {kind: zipf, s: 1, k: 3}", "'routing.k' is not a known key; known here: kind, s"),
        (
            "workload: {max_concurrency: 2, input_len: 8, output_len: 8, lengths: {kind: uniform, lo: 1}}",
            "'workload.lengths.lo' is not a known key; did you mean 'workload.lengths.low'?",
        ),
        ("zzz: 1", "'zzz' is not a known key; known here: calibration"),
    ],
)
def test_a_key_that_is_not_known_has_its_full_name(write, section, said):
    load = "" if section.startswith("workload") else "workload: {batch_size: 1, input_len: 8, output_len: 8}\n"
    path = write(f"model: Mixtral-8x7B-v0.1\nhardware: h100-sxm\n{load}{section}\n")
    assert any(said in problem for problem in problems(path))
