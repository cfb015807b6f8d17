"""The page that says how few points a fit needs: chosen against random. Written by ``moesim design-study``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from moesim.calibrate.dataset import stored
from moesim.calibrate.design_study import SIZES, Studied, study
from moesim.cost.gpu import GpuNumbers
from moesim.files.writing import write_whole
from moesim.hardware.catalogue import load_hardware
from moesim.report.figure import pyplot, save

GPU, STACK = "nvidia-h100-sxm5-80gb", "vllm-0.25.0"
FAMILIES = ("fused_moe/bfloat16", "fused_moe/fp8_block", "gemm/bfloat16", "attention_prefill", "attention_decode")
TARGETS = {300: 1.3, 100: 1.6}
"""Points -> most that their held-out error may be of that of all rows."""


def write_design_page(folder: Path, told: Callable[[str], None] = lambda text: None) -> list[Path]:
    """Write ``calibrate_points.md`` and its plot. Several minutes."""
    numbers, found = GpuNumbers.of(load_hardware(GPU)), []
    for name in FAMILIES:
        found.append(study(stored(GPU, STACK), numbers, name))
        told(name)
    page = folder / "calibrate_points.md"
    write_whole(page, "\n".join(_page(found)) + "\n")
    return [page, _plot(found, folder / "plots" / "calibrate_points.png")]


def _page(found: Sequence[Studied]) -> list[str]:
    lines = [
        "# How few points a fit needs",
        "",
        f"Written by `moesim design-study` from the public tables of {GPU}, {STACK}; do not edit.",
        "",
        "`moesim calibrate` measures the most telling points first (`moesim/calibrate/design.py`). Here it chooses",
        "among the rows of a public table, without the group that is asked for afterwards; the fit sees the chosen",
        "rows alone.",
        "Ratios are held-out errors (mean over groups) over that of a fit to all rows; random is the mean of",
        f"{len(found[0].random[SIZES[0]])} draws, with the worst in brackets.",
        "",
        "| family | rows | groups | error of all rows | "
        + " | ".join(f"{n} chosen | {n} random" for n in SIZES)
        + " |",
        "|---" * (4 + 2 * len(SIZES)) + "|",
    ]
    for s in found:
        cells = [
            f"{s.ratio(n):.2f} | {s.random_ratio(n):.2f} ({max(s.random[n]) / s.everything:.2f})" for n in SIZES
        ]  # fmt: skip
        lines.append(f"| {s.family} | {s.rows:,} | {s.groups} | {s.everything:.1%} | {' | '.join(cells)} |")
    lines.append("")
    for many, most in TARGETS.items():
        ratios = [s.ratio(many) for s in found]
        word = (
            "reached by every family"
            if max(ratios) <= most
            else "missed by " + ", ".join(s.family for s in found if s.ratio(many) > most)
        )
        lines.append(
            f"- {many} chosen points, target {most:g}: worst {max(ratios):.2f}, mean {np.mean(ratios):.2f}; {word}."
        )
    lines += [
        "",
        "Why so few are enough: a form has 11 to 17 constants with physical starts and bounds, and a weak prior holds",
        "what few rows do not tell. Those starts were set by people who had seen such tables, which no draw of rows",
        "can undo: on a GPU unlike all of these the first points will tell less. Random rows of a public table are no",
        "pushover either, for the table's own grid is already spread over shapes and loads. Among the points that a",
        "calibration may measure, the design also counts what each costs; here every row costs the same.",
        "",
        "![error against number of points](plots/calibrate_points.png)",
    ]
    return lines


def _plot(found: Sequence[Studied], target: Path) -> Path:
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.2, 4.0), dpi=110)
    for i, s in enumerate(found):
        colour = f"C{i}"
        axes.plot(SIZES, [s.ratio(n) for n in SIZES], color=colour, marker="o", label=s.family)
        axes.plot(SIZES, [s.random_ratio(n) for n in SIZES], color=colour, linestyle=":", marker="x")
    for many, most in TARGETS.items():
        axes.plot([many * 0.85, many * 1.18], [most, most], color="black", linewidth=2)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="points fitted (solid: chosen, dotted: random; bars: targets)",
             ylabel="held-out error / error of all rows")  # fmt: skip
    axes.set_xticks(SIZES, [str(n) for n in SIZES])
    axes.set_yticks([1, 1.3, 1.6, 2, 3], ["1", "1.3", "1.6", "2", "3"])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    return save(figure, target, metadata={"Software": None})
