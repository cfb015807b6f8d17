"""Traces and results of other tools on the command line: a prediction, or one sentence and exit code 2."""

from __future__ import annotations

import json

import pytest

from moesim import paths
from moesim.cli import main

MIXTRAL = str(paths.SCENARIOS / "mixtral_tp4.yaml")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,48,3\n"),
        ("b.csv", "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,GPT-4,47,3,50,Chat\n"),
        ("m.json", '[{"timestamp": 0, "input_length": 100, "output_length": 3, "hash_ids": [0]}]'),
    ],
)
def test_published_traces_are_predicted(tmp_path, capsys, name, text):
    (tmp_path / name).write_text(text)
    (tmp_path / "s.yaml").write_text(
        f"model: Mixtral-8x7B-v0.1\nhardware: h100-sxm\nengine: {{tp: 4}}\nworkload: {{trace_file: {name}}}\n"
    )
    assert main(["predict", str(tmp_path / "s.yaml")]) == 0
    assert "1 requests in" in capsys.readouterr().out


def test_turns_that_wait_for_answers_are_refused(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"session_id": "s", "timestamp": 0, "input_length": 9, "output_length": 3}\n'
                    '{"session_id": "s", "delay": 5, "input_length": 9, "output_length": 3}\n')  # fmt: skip
    assert main(["predict", MIXTRAL, "--trace-file", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("a.jsonl:2: this turn of a session has no timestamp") == 1 and "Traceback" not in error


def test_results_of_several_clients_are_validated(tmp_path, capsys):
    served = {
        "completed": 8,
        "total_input_tokens": 8 * 64,
        "total_output_tokens": 8 * 4,
        "mean_ttft_ms": 60.0,
        "mean_tpot_ms": 9.0,
    }
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(served | {"max_concurrency": n}) + "\n" for n in (1, 2)))
    said = {"request_count": {"avg": 8}, "time_to_first_token": {"avg": 60.0, "unit": "ms"},
            "inter_token_latency": {"avg": 9.0, "unit": "ms"},
            "input_sequence_length": {"avg": 64}, "output_sequence_length": {"avg": 4},
            "error_request_count": {"avg": 1},
            "input_config": {"loadgen": {"concurrency": 2}}}  # fmt: skip
    (tmp_path / "p.json").write_text(json.dumps(said))
    target = str(tmp_path / "runs.yaml")
    given = [str(tmp_path / name) for name in ("v.jsonl", "p.json")]
    assert main(["import-bench", *given, "--scenario", MIXTRAL, "-o", target]) == 0
    assert main(["validate", target, "-o", str(tmp_path)]) == 0
    assert "my runs (3)" in capsys.readouterr().out
    assert "1 of 9 requests failed" in (tmp_path / "served.md").read_text()
