"""docs/models.md is what the command writes, and every architecture that is read stands in it."""

from moesim import paths
from moesim.models.hub import readers
from moesim.report.models_page import models_page


def test_the_page_has_not_drifted():
    page = models_page()
    assert page == (paths.ROOT / "docs" / "models.md").read_text(), "run `moesim models --page docs/models.md`"
    assert all(f"- `{kind}`: " in page for kind in readers())
