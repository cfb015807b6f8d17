"""How well a calibration fits its own rows: a table for the terminal, a page with a plot for each family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moesim.calibrate.candidates import HOST_TABLES
from moesim.calibrate.check import Verdict
from moesim.calibrate.dataset import Dataset
from moesim.calibrate.fitting import FamilyFit
from moesim.calibrate.store import at_bound
from moesim.files.writing import write_whole
from moesim.report.figure import pyplot, save

_MOST_ROWS = 6000
_POOR, _LOOSE = 0.3, 0.5


def _error(fit: FamilyFit) -> float:
    return float(fit.errors.mean())


def quality_text(fits: Sequence[FamilyFit]) -> str:
    """One line a family: rows, error on rows left out, coverage, what the rows do not identify."""
    lines = [f"{'family':28}{'rows':>6}{'held-out error':>16}{'90 % holds':>12}  not identified by these rows"]
    for fit in fits:
        loose = ", ".join(_loose(fit))
        mark = "!" if _error(fit) > _POOR else " "
        lines.append(
            f"{fit.family.name:28}{len(fit.held_out):>6,}{_error(fit):>15.1%}{mark}{fit.coverage:>11.0%}  {loose}"
        )
    if any(_error(fit) > _POOR for fit in fits):
        lines += [
            "",
            f"! off by more than {_POOR:.0%}: too few rows, a busy machine, or a kernel the formula does not fit",
        ]
    return "\n".join(lines)


def _loose(fit: FamilyFit) -> list[str]:
    """Parameters at a bound, or whose standard error is half as large as they are."""
    return [
        q.name
        for q in fit.family.form.parameters
        if at_bound(q, fit.parameters[q.name]) or fit.standard_errors[q.name] >= _LOOSE * abs(fit.parameters[q.name])
    ]


def verdict_text(dataset: Dataset, verdict: Verdict) -> str:
    """Each point measured again, and whether the calibration holds."""
    lines = [f"{'point':84}{'stored':>12}{'now':>12}{'change':>9}"]
    for again in verdict.points:
        said = " ".join(f"{k}={v}" for k, v in again.point.columns.items())
        name = f"{again.point.table} {said}"
        name = name if len(name) <= 82 else f"{name[:79]}..."
        lines.append(f"{name:84}{again.stored_s * 1e6:>9,.1f} us{again.now_s * 1e6:>9,.1f} us{again.change:>+9.1%}")
    lines += [f"not measured: {why}" for why in verdict.missing]
    word = "still holds" if verdict.holds else "no longer holds"
    return "\n".join(
        [*lines, "", f"{dataset.label} {word} here: median {verdict.median:+.1%}, "
         f"{sum(abs(p.change) <= verdict.within for p in verdict.points)} of {len(verdict.points)} points within "
         f"{verdict.within:.0%} (four of five must be, and the median)"]
    )  # fmt: skip


def write_quality(folder: Path, dataset: Dataset, fits: Sequence[FamilyFit]) -> list[Path]:
    """Write ``quality.md`` and a plot for each family into ``folder``."""
    plots = {fit.family.name: _plot(fit, dataset, folder / "plots") for fit in fits}
    page = folder / "quality.md"
    write_whole(page, "\n".join(_page(folder, dataset, fits, plots)) + "\n")
    return [page]


def _page(folder: Path, dataset: Dataset, fits: Sequence[FamilyFit], plots: dict[str, Path]) -> list[str]:
    sheet = dataset.sheet
    lines = [
        f"# {dataset.gpu}, {dataset.stack}",
        "",
        "Written by `moesim calibrate`; do not edit. Errors are mean absolute relative errors on rows left out whole",
        "groups at a time; 'roofline' is max(FLOP/peak, bytes/bandwidth) over one fitted efficiency.",
        "",
        f"{sheet['title']}. Measured {sheet['measured_at']}.",
        "",
        "| family | rows | left out | error | roofline | 90 % interval holds | parameters (standard error) |",
        "|---|---|---|---|---|---|---|",
    ]
    for fit in fits:
        held = fit.held_out
        # A processor has no peaks to draw one from.
        host = fit.family.table in HOST_TABLES
        roofline = "-" if host else f"{float(np.abs(held['roofline'] / held['seconds'] - 1).mean()):.1%}"
        values = ", ".join(
            f"{q.name} {fit.parameters[q.name]:.3g} ({fit.standard_errors[q.name]:.1g}) {q.unit}"
            for q in fit.family.form.parameters
        )
        lines.append(
            f"| {fit.family.name} | {len(held):,} | {fit.family.scheme} | {_error(fit):.1%} | {roofline} | "
            f"{fit.coverage:.0%} | {values} |"
        )
    lines += ["", "## What was left out", "", "| table | rows | kept | why |", "|---|---|---|---|"]
    for name, table in sheet["tables"].items():
        why = "; ".join(f"{reason} ({many})" for reason, many in table["rows_dropped"].items()) or "-"
        lines.append(f"| {name} | {table['rows_read']:,} | {table['rows_kept']:,} | {why} |")
    lines += ["", "## Doubts", "", *(f"- {doubt}" for doubt in sheet["doubts"]), "", "## Fit against data", ""]
    return [*lines, *(f"![{name}]({path.relative_to(folder).as_posix()})" for name, path in plots.items())]


def _plot(fit: FamilyFit, dataset: Dataset, folder: Path) -> Path:
    """Measured over predicted (rows left out) against predicted time, with the 90 % band."""
    plt = pyplot()
    rows = fit.held_out
    if len(rows) > _MOST_ROWS:
        rows = rows.sample(_MOST_ROWS, random_state=0)
    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=110)
    predicted, ratio = rows["predicted"] * 1e6, rows["seconds"] / rows["predicted"]
    axes.scatter(predicted, ratio, zorder=3, s=6 if len(rows) > 500 else 24, alpha=0.6, linewidths=0, rasterized=True)
    x = np.geomspace(predicted.min() * 0.9, predicted.max() * 1.1, 200)
    band = np.exp(fit.residuals.interval(x * 1e-6))
    axes.fill_between(x, 1 / band, band, color="tab:orange", alpha=0.2, label="90 % interval")
    axes.axhline(1.0, color="black", linewidth=0.8)
    most = max(2.5, float(ratio.max()) * 1.1, 1.1 / float(ratio.min()))
    axes.set(xscale="log", yscale="log", ylim=(1 / most, most), xlabel="predicted time [us]",
             ylabel="measured / predicted")  # fmt: skip
    ticks = [t for t in (0.01, 0.1, 0.2, 0.5, 0.7, 1, 1.4, 2, 5, 10, 100) if 1 / most <= t <= most]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.yaxis.set_minor_locator(plt.NullLocator())
    axes.set_title(f"{fit.family.name}, {dataset.gpu}, {dataset.stack}: {len(fit.held_out):,} rows", fontsize=9)
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    figure.tight_layout()
    return save(figure, folder / f"{fit.family.name.replace('/', '-')}.png", metadata={"Software": None})
