"""The command line end to end: output, exit codes, and clear sentences instead of tracebacks."""

import json
import subprocess
import sys

import pytest

from moesim import paths
from moesim.cli import main

MIXTRAL = str(paths.SCENARIOS / "mixtral_tp4.yaml")
TOO_BIG = str(paths.SCENARIOS / "mixtral_does_not_fit.yaml")


def test_predict_prints_metrics_intervals_and_bounds(capsys):
    assert main(["predict", MIXTRAL]) == 0
    out = capsys.readouterr().out
    for text in (
        "TTFT, mean",
        "TPOT, mean",
        "90 % interval",
        "experts (memory)",
        "KV cache room",
        "time priced by",
    ):
        assert text in out


def test_explain_prints_the_tree(capsys):
    assert main(["predict", MIXTRAL, "--explain"]) == 0
    out = capsys.readouterr().out
    for text in ("decoder layer (MoE)", "all_reduce", "x32", "fused_moe/bfloat16", "formulas:", "t_launch"):
        assert text in out


def test_json_carries_everything(capsys):
    assert main(["predict", MIXTRAL, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["metrics"]["mean_tpot_ms"]["low"] < data["metrics"]["mean_tpot_ms"]["value"]
    phases = {child["name"] for child in data["cost"]["children"]}
    assert phases == {"prefill", "decode"}
    leaf = data["cost"]["children"][0]["children"][0]["children"][0]
    assert leaf["source"] and leaf["formula"] and leaf["tag"] in {"fitted", "extrapolated"}
    total = sum(child["seconds"] * child["count"] for child in data["cost"]["children"])
    assert total == pytest.approx(data["cost"]["seconds"])


def test_does_not_fit_is_exit_code_3_without_latency(capsys):
    assert main(["predict", TOO_BIG]) == 3
    out = capsys.readouterr().out
    assert "GiB too much on each GPU" in out and "would fit: tensor_parallel_size 2" in out
    assert "TPOT" not in out
    assert main(["predict", TOO_BIG, "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["fits"] is False and data["shortfall_bytes"] > 0 and "metrics" not in data


def test_overrides(capsys):
    assert main(["predict", TOO_BIG, "--tensor-parallel-size", "2", "--set", "workload.batch_size=4"]) == 0
    assert "on 2 x h100-sxm under vllm 0.25: batch 4" in capsys.readouterr().out
    assert main(["predict", MIXTRAL, "--tp=8", "--set", "routing={kind: zipf, s: 1}", "--json"]) == 0
    scenario = json.loads(capsys.readouterr().out)["scenario"]
    assert scenario["engine"]["tensor_parallel_size"] == 8
    assert scenario["routing"] == {"kind": "zipf", "s": 1.0}
    assert main(["predict", MIXTRAL, "--enforce-eager", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scenario"]["engine"]["enforce_eager"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([MIXTRAL, "--tp", "3"], "3 does not divide the 32 attention heads"),
        ([MIXTRAL, "--bach-size", "3"], "did you mean 'batch_size'"),
        ([MIXTRAL, "--batch-size"], "'--batch-size' needs a value"),
        ([MIXTRAL, "extra"], "'extra' is not expected here"),
        ([MIXTRAL, "--set", "nonsense"], "'nonsense' is not NAME=VALUE"),
        (["nowhere.yaml"], "there is no such file"),
        ([str(paths.HWSPECS / "nvidia-t4-16gb.yaml")], "is not a known key"),
        ([MIXTRAL, "--set", "routing.kind=zipfy"], "did you mean 'routing.kind: zipf'?"),
        ([MIXTRAL, "--tp", "2", "--tp", "4"], "'--tp' is given twice"),
        ([MIXTRAL, "--set", "routing={kind: histogram, counts: [.inf,1,1,1,1,1,1,1]}"], "finite number"),
        ([MIXTRAL, "--max-num-batched-tokens", "8", "--max-num-seqs", "64"], "vLLM refuses that"),
    ],
    ids=str,
)
def test_bad_input_is_exit_code_2_and_a_sentence(capsys, arguments, message):
    assert main(["predict", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out


def test_strict_refuses_extrapolation(capsys):
    assert main(["predict", str(paths.SCENARIOS / "molmoe.yaml"), "--strict"]) == 4
    captured = capsys.readouterr()
    assert "fitted on nvidia-l40s-48gb" in captured.err and not captured.out
    assert main(["predict", MIXTRAL, "--strict"]) == 0


def test_sweep_writes_csv_and_parquet(tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    for name in ("out.csv", "out.parquet"):
        target = tmp_path / name
        axes = ["--axis", "batch_size=1,4", "--axis", "input_len=128:512:128", "--axis", "tp=1,4"]
        assert main(["sweep", MIXTRAL, *axes, "--output-len", "32", "-o", str(target)]) == 0
        table = pandas.read_csv(target) if name.endswith("csv") else pandas.read_parquet(target)
        assert len(table) == 16 and table["fits"].sum() == 8
        assert table.loc[table["fits"], "mean_tpot_ms"].notna().all()
    assert "16 points, 8 of them fit" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "out.parquet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--axis", "batch_size=0"], "'batch_size' is 0 in a sweep"),
        (["--axis", "batch_size=9:1"], "is empty"),
        (["--axis", "speed=1,2"], "'speed' is not a setting"),
        (["--axis", "batch_size"], "is not NAME=VALUES"),
        (["--axis", "batch_size=1:99999999999"], "more than 1,000,000 values"),
        (["--axis", "batch_size=1", "--axis", "batch_size=2"], "is given twice"),
        (["--axis", "tp=2", "--axis", "tensor_parallel_size=4"], "name one setting twice"),
    ],
)
def test_bad_axes(tmp_path, capsys, arguments, message):
    assert main(["sweep", MIXTRAL, *arguments, "-o", str(tmp_path / "x.csv")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_sweep_refuses_other_files(tmp_path, capsys):
    assert main(["sweep", MIXTRAL, "--axis", "batch_size=1", "-o", str(tmp_path / "x.xlsx")]) == 2
    assert "must end in .csv or .parquet" in capsys.readouterr().err
    assert main(["sweep", MIXTRAL, "--axis", "batch_size=1", "-o", str(tmp_path / "no" / "x.csv")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_lists(capsys):
    assert main(["models"]) == 0
    assert "46,702,792,704" in capsys.readouterr().out
    assert main(["hardware"]) == 0
    assert "nvidia-h100-sxm5-80gb" in capsys.readouterr().out


def test_schema_accepts_every_shipped_scenario(capsys):
    jsonschema = pytest.importorskip("jsonschema")
    from moesim.files import yaml

    assert main(["schema"]) == 0
    text = capsys.readouterr().out
    assert text == (paths.ROOT / "docs" / "scenario.schema.json").read_text(), "run: moesim schema > docs/..."
    schema = json.loads(text)
    for path in paths.SCENARIOS.glob("*.yaml"):
        jsonschema.validate(yaml.read(path).data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"model": "x", "hardware": "y", "workload": {}, "hardwear": 1}, schema)


def test_module_entry_point_and_a_closed_pipe():
    command = f"{sys.executable} -m moesim models | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=paths.ROOT, check=False)
    assert done.stdout.startswith("model") and "Traceback" not in done.stderr


def test_no_command_prints_help(capsys):
    assert main([]) == 0
    assert "predict" in capsys.readouterr().out
