"""What is no file to read, is too large, would fill the memory, or acts on a terminal is refused in a sentence."""

import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest

from moesim import SpecError, paths
from moesim.cli import main
from moesim.errors import Problem
from moesim.files import json as json_file
from moesim.files import yaml
from moesim.files.archive import Archive
from moesim.files.quantities import file_name
from moesim.files.reading import require_file, text_of

SCENARIO = "model: Qwen1.5-MoE-A2.7B\nhardware: h100-sxm\nworkload: {batch_size: 2, input_len: 64, output_len: 4}\n"


def refused(capsys, *words) -> str:
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin", "."])
def test_only_regular_files_are_read(name):
    with pytest.raises(SpecError, match=r"regular files alone are read|is a folder"):
        require_file(Path(name))


def test_a_pipe_without_a_writer_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "a pipe" in refused(capsys, "predict", tmp_path / "pipe.yaml")


@pytest.mark.parametrize(
    "settings", ["trace_file={}", "routing={{kind: trace, file: {}}}", "lengths={{kind: file, file: {}}}",
                 "model={}", "hardware={}", "calibration={}"],
)  # fmt: skip
def test_endless_devices_are_refused_at_once(settings, capsys):
    text = settings.format("/dev/zero")
    more = ("--conc", "2") if "lengths" in text else ()
    assert "/dev/zero" in refused(capsys, "predict", "mixtral_tp4", "--set", text, *more)


def test_a_nul_in_a_name_is_said(tmp_path, capsys):
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO.replace("output_len: 4", 'output_len: 4, trace_file: "a\\0b"'))
    assert f"{path}:3: holds a control character" in refused(capsys, "predict", path)
    with pytest.raises(SpecError, match="NUL"):
        require_file(Path("a\0b"))


def test_long_names_are_said(capsys):
    assert "longer than the name of a file" in refused(capsys, "predict", "--model", "x" * 300, "--gpu", "h100")


def test_sizes_are_capped(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_bytes(b"a: '" + b"x" * (2 << 20) + b"'")
    with pytest.raises(SpecError, match="512 KiB at most are read"):
        yaml.read(path)
    path.write_text("\n".join(f"key{i}: 1" for i in range(20_000)))
    with pytest.raises(SpecError, match="more than 25,000 keys and values"):
        yaml.read(path)
    path.write_text("[" * 10_000)
    with pytest.raises(SpecError, match="nested more than 30 levels"):
        yaml.read(path)
    with pytest.raises(SpecError, match="nested too deeply"):
        json_file.parse('{"a":' * 100_000, "x")
    with pytest.raises(SpecError, match="objects and lists"):
        json_file.parse("[[]," + "[]," * 1_000_001, "x")
    with pytest.raises(SpecError, match="at most are read"):
        text_of(path, "text", 100)


def test_many_mistakes_are_few_lines(tmp_path, capsys):
    path = tmp_path / "many.yaml"
    path.write_text(SCENARIO + "\n".join(f"key{i}: 1" for i in range(9_000)))
    said = refused(capsys, "predict", path)
    assert len(said.splitlines()) <= 21 and "and 8,980 more" in said


@pytest.mark.parametrize("digits", ["9" * 5000, "1" + "0" * 400, "-" + "9" * 5000])
def test_endless_numbers_are_short_messages(digits, tmp_path, capsys):
    path = tmp_path / "long.yaml"
    path.write_text(SCENARIO.replace("batch_size: 2", f"batch_size: {digits}"))
    assert len(refused(capsys, "predict", path)) < 800
    assert len(refused(capsys, "predict", "mixtral_tp4", "--batch-size", digits)) < 800


def test_packed_traces_that_grow_without_end_are_refused(tmp_path, capsys):
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(b"arrival_s,input_len,output_len\n")
        for _ in range(100):
            file.write(b"\n" * 1_000_000)
    assert "unpacks to more than" in refused(capsys, "predict", "mixtral_tp4", "--set", f"trace_file={path}")
    with gzip.open(path, "wb") as file:
        file.write(b"x" * (20 << 20))
    assert "has a line of more than" in refused(capsys, "predict", "mixtral_tp4", "--set", f"trace_file={path}")


def test_members_of_archives_are_bounded(tmp_path):
    path = tmp_path / "bomb.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large", b"\0" * (65 << 20))
        archive.writestr("text", b"\xff")
        archive.writestr("table", b"no table")
    with Archive(path) as archive:
        for name, read, said in (
            ("large", archive.read, "unpacks to more than 64 MiB"), ("none", archive.read, "has no member none"),
            ("text", archive.text, "is not UTF-8 text"), ("table", archive.parquet, "is no Parquet table"),
        ):  # fmt: skip
            with pytest.raises(SpecError, match=said):
                read(name)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "", ".", "..", ".hidden", "nul", "COM1.txt", "a" * 101, "a\0", "é"]
)
def test_names_that_leave_their_folder_are_none(name):
    with pytest.raises(ValueError, match="no name for a file"):
        file_name(name)


def test_a_hardware_name_writes_nowhere_else(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gpu = (paths.HWSPECS / "nvidia-h100-sxm5-80gb.yaml").read_text(encoding="utf-8")
    (tmp_path / "evil.yaml").write_text(gpu.replace("name: nvidia-h100-sxm5-80gb", 'name: "x/../../outside"'))
    (tmp_path / "nv.json").write_text(json.dumps({"nvbandwidth": {"testcases": [
        {"name": "host_to_device_memcpy_ce", "status": "Passed", "bandwidth_matrix": [["55.1"]]}]}}))  # fmt: skip
    said = refused(capsys, "calibrate", "--from", "nv.json", "--hardware", "evil.yaml")
    assert "evil.yaml:" in said and "is no name for a file" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.yaml", "nv.json"]


def test_files_that_are_something_else_are_not_shown(tmp_path, capsys):
    secret = tmp_path / "shadow"
    secret.write_text("root:$6$salt$hash:19000:0\ndaemon:*:19000:0\n" * 5)
    for words in (
        ["predict", "mixtral_tp4", "--set", f"routing={{kind: trace, file: {secret}}}"],
        ["predict", "mixtral_tp4", "--set", f"trace_file={secret}"],
        ["predict", "mixtral_tp4", "--set", f"calibration={secret}"],
        ["predict", "mixtral_tp4", "--conc", "2", "--set", f"lengths={{kind: file, file: {secret}}}"],
        ["routing", str(secret)],
        ["calibrate", "--from", str(secret)],
        ["recommend", "mixtral_tp4", "--prices", str(secret)],
    ):
        assert "salt" not in refused(capsys, *words), words


def test_messages_act_on_no_terminal(tmp_path):
    assert str(Problem("is\x1b[2J\r\x07\u202egone", "a\nb")) == r"a\nb: is\x1b[2J\r\x07\u202egone"
    with pytest.raises(SpecError, match="control character"):
        yaml.parse('a: "\\e[31m"', "x")
    path = tmp_path / "c.json"
    path.write_text('{"a": {"b": [1,\n "\\u001b"]}}')
    with pytest.raises(SpecError, match=r"c.json:2: holds a control character"):
        json_file.read(path, "a file")
