"""The README shows what the program prints, and names the two commands CI runs."""

import re

from moesim import paths
from moesim.cli import main

README = (paths.ROOT / "README.md").read_text(encoding="utf-8")


def _shown(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.rstrip().splitlines())


def test_output_shown_is_real(capsys):
    for name in ("mixtral_tp4", "mixtral_does_not_fit"):
        main(["predict", f"{paths.SCENARIOS}/{name}.yaml"])
        assert _shown(capsys.readouterr().out) in README, f"update the output of {name} in README.md"


def test_the_costs_shown_are_real(capsys):
    main(["predict", f"{paths.SCENARIOS}/mixtral_tp4.yaml", "--explain"])
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("  decode "))
    assert _shown("\n".join(lines[first : first + 13])) in README, "update the cost tree in README.md"


def test_the_run_under_load_is_real(capsys):
    main(["predict", f"{paths.SCENARIOS}/mixtral_closed_loop.yaml"])
    assert _shown(capsys.readouterr().out.split("\n\nmemory of")[0]) in README, "update the run under load in README.md"


def test_plans_shown_are_real(capsys):
    main(["plan", f"{paths.SCENARIOS}/olmoe.yaml", "--gpus", "2"])
    assert _shown(capsys.readouterr().out) in README, "update the plans of olmoe in README.md"


def test_the_search_shown_is_real(capsys):
    limits = ["--where", "gpu_memory <= 16 GiB", "--where", "perplexity <= 5", "--top", "4"]
    main(["search", f"{paths.SCENARIOS}/offload/mixtral_offloading_rtx_a6000.yaml", *limits])
    assert _shown(capsys.readouterr().out) in README, "update the search in README.md"


def test_headline_figures_are_those_of_the_accuracy_page():
    page = (paths.ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    by_name = {cells[0].strip(): [c.strip() for c in cells] for cells in rows if len(cells) == 6}
    shown = re.findall(r"^\| (.+?) \| ([\d.]+ %) \| ([\d.]+ %) \| ([\d.]+ %) \|$", README, re.MULTILINE)
    assert len(shown) >= 8
    for name, reached, roofline, coverage in shown:
        assert [reached, roofline, coverage] == [by_name[name][i] for i in (2, 4, 5)], name


def test_two_commands():
    commands = re.findall(r"^    (pip install .*)$", README, re.MULTILINE)
    assert len(commands) == 2
    assert "moesim predict scenarios/mixtral_tp4.yaml" in commands[0] and commands[1].endswith("pytest")


def test_the_question_it_leads_with_is_real():
    from moesim.report.questions_page import led

    page = (paths.ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    assert led(README, page) == README, "run: moesim questions -o docs"
    assert "configurations considered" in README
