"""What every command is expected to do: versions, help, completion, files or names, nothing computed before a check."""

import json
import subprocess
import sys

import pytest

import moesim
from moesim.cli.completion import completion
from moesim.cli.main import _parser, main


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"moesim {moesim.__version__}\n"


def test_help_names_exit_codes_and_metrics(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "3 does not fit" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "mean_tpot_ms" in out and "2 bad input" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_option(shell):
    script = completion(_parser(), shell)
    for word in ("predict", "recommend", "sweep", "offload-study"):
        assert word in script
    assert "hardware" in script and "backend" in script


def test_bash_takes_the_script():
    script = completion(_parser(), "bash")
    words = "COMP_WORDS=(moesim tornado --pi); COMP_CWORD=2; _moesim; echo ${COMPREPLY[@]}"
    found = subprocess.run(["bash", "-c", f"{script}\n{words}"], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "--picture", found.stderr


def test_scenarios_are_listed(capsys):
    assert main(["scenarios"]) == 0
    assert "mixtral_tp4" in capsys.readouterr().out


def test_predict_without_a_file(capsys):
    words = ["predict", "--model", "Mixtral-8x7B-v0.1", "--gpu", "h200-sxm", "--users", "4", "--dtype", "fp8"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "4 clients, 1024 in, 256 out" in out
    assert "assumed: --input-len 1024, --output-len 256" in out


def test_predict_by_a_name_that_ships(capsys):
    assert main(["predict", "mixtral_tp4", "--osl", "8"]) == 0
    assert "Mixtral-8x7B-v0.1" in capsys.readouterr().out
    assert main(["predict", "mixtral_tp"]) == 2
    assert "did you mean 'mixtral_tp4'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["sweep", "mixtral_tp4", "--axis", "tp=4", "-o", "nowhere/x.csv"],
                                   ["recommend", "--model", "dbrx-base", "--gpu", "h100", "--table", "x.txt"],
                                   ["tornado", "mixtral_tp4", "--picture", "/x.png"]])  # fmt: skip
def test_nothing_is_computed_where_nothing_can_be_written(words, monkeypatch, capsys, tmp_path):
    import os

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setitem(sys.modules, "moesim.inputs.checks", None)
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("moesim: --")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["plan", "olmoe", "--gpus", "2", "--json"], "plan"),
        (["capacity", "mixtral_tp4", "--users", "1", "--isl", "64", "--osl", "8", "--slo", "ttft:300", "--json"], "of"),
        (["search", "mixtral_offloading_rtx_a6000", "--systems", "fiddler", "--top", "2", "--json"], "minimized"),
    ],
)  # fmt: skip
def test_tables_as_json(words, key, capsys):
    import json

    assert main(words) == 0
    data = json.loads(capsys.readouterr().out)
    assert key in (data[0] if isinstance(data, list) else data)


def test_plans_and_searches_as_frames(tmp_path):
    pytest.importorskip("pandas")
    found = moesim.plans(moesim.load("olmoe"), 2)
    assert found.to_frame().attrs["units"]["mean_tpot_ms"] == "ms"
    assert len(found.to_frame()) == len(found)
    searched = moesim.search(moesim.load("mixtral_offloading_rtx_a6000"), systems=["fiddler"])
    assert searched.to_frame().attrs["units"]["gpu_memory"] == "B"
    target = tmp_path / "plans.csv"
    assert main(["plan", "olmoe", "--gpus", "2", "-o", str(target)]) == 0
    assert target.read_text().startswith("plan,gpus,fits,reason")


@pytest.mark.parametrize(("command", "key"), [("hardware", "gpus"), ("models", "flop_per_token"),
                                              ("scenarios", "about"), ("systems", "knobs")])  # fmt: skip
def test_lists_are_data_too(command, key, capsys):
    assert main([command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert key in (found if isinstance(found, dict) else found[0])


@pytest.mark.parametrize(("words", "said"), [
    (["report", "mixtral_tp4", "-o", "x.html", "--metric", "p99_ttft_ms"], "'p99_ttft_ms' is not a metric"),
    (["report", "mixtral_tp4", "-o", "x.html", "--jobs", "-1"], "no number of processes"),
    (["plan", "olmoe", "--gpus", "2", "--json", "--explain"], "--explain is text"),
])  # fmt: skip
def test_words_are_checked_before_anything_is_predicted(words, said, monkeypatch, capsys, tmp_path):
    from moesim import prediction

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction, "predict", None)
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_picture_beside_json_is_not_in_it(capsys, tmp_path):
    assert main(["plan", "olmoe", "--gpus", "2", "--json", "--picture", str(tmp_path / "x.svg")]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out) and out.err.strip().endswith("x.svg")


def test_a_file_is_there_whatever_becomes_of_the_reader(tmp_path):
    target = tmp_path / "x.csv"
    words = [sys.executable, "-m", "moesim", "plan", "olmoe", "--gpus", "2", "-o", str(target)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(60) == 0
    assert target.is_file()


def test_capacity_that_nothing_keeps_is_told_by_its_code(capsys):
    words = ["capacity", "--model", "OLMoE-1B-7B-0924", "--gpu", "h100-sxm", "--users", "2", "--osl", "4"]
    assert main([*words, "--slo", "ttft:1"]) == 3
    assert "no load keeps" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--architectures", "--check"])
def test_json_is_of_the_list_of_models_alone(flag, capsys, tmp_path):
    assert main(["models", "--json", flag, *([str(tmp_path)] if flag == "--check" else [])]) == 2
    assert "--json" in capsys.readouterr().err


def test_under_load_memory_is_of_a_request(capsys):
    assert main(["predict", "--model", "OLMoE-1B-7B-0924", "--gpu", "h100-sxm", "--users", "2", "--osl", "4"]) == 0
    out = capsys.readouterr().out
    assert "  a request " in out and "this workload" not in out
