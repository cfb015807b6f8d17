"""Claims of papers: every row has a verdict, and what a verdict is."""

from __future__ import annotations

from collections import Counter
from math import isfinite

import pytest

from moesim.cli.main import main
from moesim.errors import SpecError
from moesim.explore.claim_formulas import FORMULAS
from moesim.explore.claims import verdicts
from moesim.inputs.claims_file import Claim, Question, read_claims, read_questions
from moesim.report.claims_page import study_rows

SLOW = {"2dh", "trillion", "vs_dense", "vs_baseline"}
"""Plans of hundreds of GPUs."""


@pytest.fixture(scope="module")
def found():
    claims = [claim for claim in read_claims() if claim.id not in SLOW]
    return {verdict.claim.id: verdict for verdict in verdicts(claims, read_questions())}


def test_every_claim_has_a_question():
    claims, questions = read_claims(), read_questions().questions
    assert len(claims) == 75 and {claim.id for claim in claims} == set(questions)
    assert sum(q.ask == "not_askable" for q in questions.values()) <= 10
    assert sum(q.bound for q in questions.values()) <= 12
    assert all(question.why for question in questions.values() if question.ask == "not_askable")


def test_verdicts(found):
    count = Counter(verdict.word for verdict in found.values())
    print(dict(count))
    assert count["agrees"] >= 42 and count["cannot hold"] <= 12
    assert all(verdict.reason for verdict in found.values())


@pytest.mark.parametrize(
    ("claim", "value"),
    [("waste_lm", 12.8), ("waste_mt", 64.0), ("oom_grid", 3.0), ("spec_t5-small_t0", 3.158), ("drop", 0.13)],
)
def test_exact_claims(found, claim, value):
    assert found[claim].word == "agrees" and found[claim].value == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize(
    ("claim", "share"),
    [("lm_moe_vs_dense", 0.35), ("mt_enc", 0.35), ("mt_dec", 0.35), ("dyn_lm", 0.35), ("dyn_mt_dec", 0.35)],
)
def test_huang(found, claim, share):
    """Huang et al. (arXiv 2303.06182): MoE over dense, dynamic over static gating, within 35 %."""
    verdict = found[claim]
    print(claim, verdict.value, verdict.claim.low)
    assert abs(verdict.value / verdict.claim.low - 1) <= share


@pytest.mark.parametrize("claim", ["fused_b16", "fused_b64", "fused_moe_batch", "fused_moe_length"])
def test_fused_over_looped(found, claim):
    """vLLM PR #2542 and MoE-Inference-Bench, within 6 points."""
    verdict = found[claim]
    assert verdict.claim.low - 6 <= verdict.value <= verdict.claim.high + 6


def test_what_cannot_hold_says_what_work_at_peak_gives(found):
    held = [verdict for verdict in found.values() if verdict.word == "cannot hold"]
    assert held and all("work at peak alone gives" in verdict.reason for verdict in held)


def claim(low, high, unit="%"):
    return Claim("x", "a paper", "m", "c", "", low, high, unit, "")


BASE = {
    "model": "OLMoE-1B-7B-0924",
    "hardware": "h100-sxm",
    "workload": {"batch_size": 4, "input_len": 64, "output_len": 8},
}


@pytest.mark.parametrize(
    ("row", "other", "word"),
    [
        (claim(-1, 1), {"seed": 5}, "agrees"),
        (claim(-50, -40), {"seed": 5}, "disagrees"),
        (claim(1, None, "x"), {"seed": 5}, "agrees"),
        (claim(3, None, "x"), {"seed": 5}, "disagrees"),
    ],
)
def test_a_comparison(row, other, word):
    how = "change_percent" if row.unit == "%" else "ratio"
    question = Question(ask="compare", base=BASE, other={f"workload.{k}": v for k, v in other.items()}, how=how)
    verdict = next(verdicts([row], type("Q", (), {"questions": {"x": question}})))
    assert verdict.word == word
    # Both sides are the same: all they err by cancels.
    assert verdict.half_width == pytest.approx(0.0)


def test_formulas_by_hand():
    assert FORMULAS["speculation_speed_up"]({"rate": 0.5, "drafts": 1, "cost": 0.25})[0] == pytest.approx(1.5 / 1.25)
    assert FORMULAS["flop_percent"]({"model": "gpt2", "over": "gpt2"})[0] == 100


def test_the_command(capsys, tmp_path):
    assert main(["claims", "--paper", "Leviathan"]) == 0
    out = capsys.readouterr().out
    assert "6 claims: 4 agrees, 2 disagrees" in out
    assert main(["claims", "--paper", "nobody"]) == 2
    assert main(["claims", "--study", "nothing"]) == 2
    assert main(["claims", "--model", "x"]) == 2
    assert (
        main(
            ["claims", "--study", "fused", "--model", "OLMoE-1B-7B-0924", "--hardware", "h100-sxm", "-o", str(tmp_path)]
        )
        == 0
    )
    assert "looped, all rows" in capsys.readouterr().out and (tmp_path / "claims-fused.png").stat().st_size > 5000
    assert main(["claims", "--study", "drafts", "--model", "OLMoE-1B-7B-0924"]) == 2
    assert "compares models of its own" in capsys.readouterr().err


def test_studies_have_values():
    questions = read_questions()
    for name in ("top_k", "prune", "fp8"):
        rows = study_rows(questions.studies[name], None, None)
        assert sum(isfinite(value) for _, values in rows for value in values) > len(rows)


HEAD = "source,id,model,gpu,n_gpu,comparison,condition,claim_low,claim_high,unit,note\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [("a,b\n", "must begin with the columns"), (HEAD + "s,i,m,g,1,c,,x,,%,\n", "must be finite numbers or empty")],
)
def test_files_that_cannot_be_read(tmp_path, text, said):
    file = tmp_path / "claims.csv"
    file.write_text(text)
    with pytest.raises(SpecError, match=said):
        read_claims(file)
