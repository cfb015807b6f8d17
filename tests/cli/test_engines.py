"""Engines, engine versions and engines apart on the command line."""

import json
import math

import pytest

from moesim import paths
from moesim.cli import main

MIXTRAL = str(paths.SCENARIOS / "mixtral_tp4.yaml")
APART = (paths.SCENARIOS / "mixtral_disaggregated.yaml").read_text(encoding="utf-8")


def test_versions_of_the_same_file_say_the_same(capsys):
    main(["predict", MIXTRAL])
    default = capsys.readouterr().out
    for version in (["--set", "engine.version=0.25"], ["--engine-version", "0.25.1"]):
        assert main(["predict", MIXTRAL, *version]) == 0
        assert capsys.readouterr().out == default


def test_another_version_widens_and_one_beyond_all_is_refused_under_strict(capsys):
    main(["predict", MIXTRAL, "--json"])
    known = json.loads(capsys.readouterr().out)["metrics"]["mean_tpot_ms"]
    assert main(["predict", MIXTRAL, "--json", "--set", "engine.version=0.12"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["mean_tpot_ms"]
    widths = [math.log(metric["high"] / metric["low"]) for metric in (found, known)]
    assert widths[0] > 1.05 * widths[1] and found["value"] > known["value"], "synchronous, norms on their own"
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
