"""``docs/claims.md``: every claim with its prediction and verdict, and a picture for each study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moesim.errors import DoesNotFit, SpecError
from moesim.explore.claims import POINTS, RATIO, WIDEST, Verdict, paper_of, scenario_of
from moesim.files.writing import write_whole
from moesim.inputs.claims_file import Questions, Study
from moesim.prediction import predict
from moesim.report.figure import pyplot, save

WORDS = ("agrees", "disagrees", "cannot hold", "not askable")
_LOGARITHMIC = 8.0


def value_text(verdict: Verdict) -> str:
    """What is predicted, in the claim's unit, with its half-width where there is one."""
    if verdict.value is None:
        return "-"
    if verdict.claim.low is None:
        return "as claimed" if verdict.value > 0 else "otherwise"
    width = "" if verdict.half_width is None else f" (+-{verdict.half_width:.0%})"
    return f"{verdict.value:.3g} {verdict.claim.unit}{width}"


def claims_text(found: list[Verdict]) -> str:
    """A line a claim, and how many came out how."""
    lines, paper = [], ""
    for verdict in found:
        if paper_of(verdict.claim) != paper:
            paper = paper_of(verdict.claim)
            lines += ["", verdict.claim.source]
        lines.append(
            f"  {verdict.claim.id:28}{verdict.claim.text:20}{value_text(verdict):22}{verdict.word:13}{verdict.reason}"
        )
    return "\n".join([*lines[1:], "", summary(found)])


def summary(found: list[Verdict]) -> str:
    """How many claims came out how, and how many of the intervals are narrow."""
    count = Counter(verdict.word for verdict in found)
    asked = count["agrees"] + count["disagrees"]
    wide = sum(verdict.wide for verdict in found)
    share = f", {count['agrees'] / asked:.0%} of those that can be asked and can hold" if asked else ""
    return (
        f"{len(found)} claims: {', '.join(f'{count[word]} {word}' for word in WORDS if count[word])}{share}; "
        f"{wide} intervals are wider than +-{WIDEST:.0%}"
    )


def write_claims(
    found: list[Verdict], questions: Questions, folder: Path, progress: Callable[[str], None]
) -> list[Path]:
    """The page and its pictures."""
    pictures = [
        draw_study(name, study, folder / "plots" / f"claims-{name}.png", progress)
        for name, study in questions.studies.items()
    ]
    page = folder / "claims.md"
    write_whole(page, claims_page(found, questions))
    return [page, *pictures]


_HEAD = f"""# What papers claim, asked of the simulator

Written by `moesim claims -o docs`; do not edit. Claims are `calibration/claims/published-claims.csv`; how each is
asked, and what a paper does not say, stands in `questions.yaml` beside it. No constant was fitted on any of them.

**SUMMARY.**

*Agrees*: within {RATIO:.0%} of a ratio, {POINTS:g} points of a percentage, or in order or sign. *Cannot hold*: the same
comparison of bytes and arithmetic at datasheet rates, without any fit, does not reach the claim. Half-widths are of the
ratio behind a value, 90 %; what both sides err by alike has cancelled.
"""


def claims_page(found: list[Verdict], questions: Questions) -> str:
    lines = [_HEAD.replace("SUMMARY", summary(found))]
    paper = ""
    for verdict in found:
        claim = verdict.claim
        if claim.source != paper:
            paper = claim.source
            lines += ["", f"## {paper}", "", "| claim | of | condition | claimed | predicted | verdict | asked as |",
                      "|---|---|---|---|---|---|---|"]  # fmt: skip
        cells = (claim.id, f"{claim.model}: {claim.comparison}", claim.condition, claim.text, value_text(verdict),
                 f"**{verdict.word}**", verdict.reason)  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    lines += ["", "## Studies", "", "Each is one command with a model and machine of your own: "
              "`moesim claims --study NAME --model M --hardware H -o FOLDER`.", ""]  # fmt: skip
    for name, study in questions.studies.items():
        lines += [f"### {name}: {study.title}", "", f"![{study.title}](plots/claims-{name}.png)", ""]
    return "\n".join(lines) + "\n"


def study_rows(study: Study, model: str | None, hardware: str | None) -> list[tuple[str, list[float]]]:
    """(a line's name, its metric at each value; NaN where it does not fit or cannot be). Raises SpecError."""
    if model and study.fixed_model:
        raise SpecError("this study compares models of its own; leave out --model")
    named = {key: value for key, value in (("model", model), ("hardware", hardware)) if value}
    rows = []
    for line in study.lines:
        settings = {key: value for key, value in line.items() if key != "_name"}
        values = []
        for value in study.values:
            try:
                found = predict(scenario_of({**study.base, **named}, {**settings, study.axis: value}))
                values.append(found[study.metric])
            except (DoesNotFit, SpecError):
                values.append(float("nan"))
        rows.append((str(line["_name"]), values))
    if all(np.isnan(v) for _, values in rows for v in values):
        # Why nothing can be predicted, in a sentence.
        line = {key: value for key, value in study.lines[0].items() if key != "_name"}
        predict(scenario_of({**study.base, **named}, {**line, study.axis: study.values[0]}))
    return rows


def draw_study(
    name: str, study: Study, target: Path, progress: Callable[[str], None], model: str | None = None,
    hardware: str | None = None,
) -> Path:  # fmt: skip
    """A study's grid as lines. Needs matplotlib."""
    progress(name)
    rows = study_rows(study, model, hardware)
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 4.4), dpi=110)
    for i, (label, values) in enumerate(rows):
        axes.plot(range(len(study.values)), values, marker="osD^vXP*"[i % 8], markersize=4, label=label)
    axes.set_xticks(range(len(study.values)), [str(v) for v in study.values])
    finite = [v for _, values in rows for v in values if np.isfinite(v)]
    if finite and max(finite) > _LOGARITHMIC * min(finite):
        axes.set_yscale("log")
    who = ", ".join(x for x in (model or str(study.base["model"]), hardware or str(study.base["hardware"])) if x)
    title = study.title if study.fixed_model else f"{study.title}: {who}"
    axes.set(xlabel=study.axis.rsplit(".", 1)[-1], ylabel=study.metric, title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    return save(figure, target)


def study_text(study: Study, rows: list[tuple[str, list[Any]]]) -> str:
    """The same as a table."""
    wide = max(len(name) for name, _ in rows) + 2
    head = f"{study.metric}\n{'':{wide}}" + "".join(f"{v!s:>11}" for v in study.values)
    lines = [
        f"{name:{wide}}" + "".join(f"{'-' if np.isnan(v) else f'{v:.4g}':>11}" for v in values) for name, values in rows
    ]
    return "\n".join([f"{study.title}, by {study.axis}:", head, *lines])
