"""``moesim models`` end to end: the list, the architectures, a folder of configs."""

import json

from moesim.cli.main import main
from moesim.paths import MODELS


def test_a_folder_is_read_config_by_config(tmp_path, capsys):
    for name in ("Qwen3-30B-A3B", "DeepSeek-V4-Flash"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((MODELS / name / "config.json").read_text())
    assert main(["models", "--check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Qwen3-30B-A3B: qwen3_moe, 30.532 B parameters (3.04 B active); 48 Gqa + Moe; weights bfloat16" in said
    assert "weights experts mxfp4; fp8_block" in said and "2 of 2 read" in said
    (tmp_path / "odd_config.json").write_text(json.dumps({"model_type": "qwen4_moe"}))
    assert main(["models", "--check", str(tmp_path)]) == 2
    said = capsys.readouterr().out
    assert (
        "odd: refused: the architecture 'qwen4_moe' is not known; the nearest known" in said and "2 of 3 read" in said
    )


def test_a_folder_without_configs_says_so(tmp_path, capsys):
    assert main(["models", "--check", str(tmp_path)]) == 2
    assert "holds no config.json" in capsys.readouterr().err


def test_architectures_are_listed(capsys):
    assert main(["models", "--architectures"]) == 0
    listed = capsys.readouterr().out.split()
    assert listed == sorted(listed) and {"qwen3_next", "nemotron_h", "deepseek_v41"} <= set(listed)
