"""Pages: examples run, links lead somewhere, answers are what commands print."""

import re
import shlex

import pytest

from moesim import paths
from moesim.cli.main import main
from moesim.report.questions_page import answers, questions

DOCS = paths.ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), paths.ROOT / "README.md", paths.ROOT / "CONTRIBUTING.md"])


def test_every_example_of_the_api_runs(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "api.md").read_text(), re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    import matplotlib.pyplot as plt

    plt.close("all")


def test_the_api_page_uses_every_public_function():
    import moesim

    text = (DOCS / "api.md").read_text()
    functions = [name for name in moesim.__all__ if name[0].islower()]
    assert {n for n in functions if f"moesim.{n}(" not in text} <= {"validate"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"(https?|mailto):|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_every_question_has_its_answer():
    page = answers((DOCS / "questions.md").read_text())
    assert [asked.command for asked in questions(DOCS)] == list(page)
    assert len(page) == 10


ASKED = questions(DOCS)


@pytest.mark.parametrize("asked", [q for q in ASKED if "recommend" not in q.command], ids=lambda q: q.question)
def test_answers_are_what_commands_print(asked, capsys):
    shown = answers((DOCS / "questions.md").read_text())[asked.command]
    assert main(shlex.split(asked.command)[1:]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines()]
    assert printed[:60] == shown.splitlines()[:60], "run: moesim questions -o docs"


@pytest.mark.slow
@pytest.mark.parametrize("asked", [q for q in ASKED if "recommend" in q.command], ids=lambda q: q.question)
def test_recommendations_are_what_commands_print(asked, capsys):
    test_answers_are_what_commands_print(asked, capsys)


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(paths.ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    assert (tmp_path / "site" / "questions" / "index.html").is_file()


@pytest.mark.slow
def test_the_tour_runs():
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    notebook = nbformat.read(DOCS / "tour.ipynb", as_version=4)
    client.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(paths.ROOT))
