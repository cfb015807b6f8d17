"""The page of claims is what the command writes."""

from __future__ import annotations

import pytest

from moesim.explore.claims import verdicts
from moesim.inputs.claims_file import read_claims, read_questions
from moesim.paths import ROOT
from moesim.report.claims_page import claims_page


@pytest.mark.slow
def test_the_page_is_what_is_predicted():
    questions = read_questions()
    found = list(verdicts(read_claims(), questions))
    page = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    assert claims_page(found, questions) == page, "run: moesim claims -o docs"
    for name in questions.studies:
        assert (ROOT / "docs" / "plots" / f"claims-{name}.png").stat().st_size > 5000
