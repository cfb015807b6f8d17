"""Which parameter moves a metric most: as text, as data and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moesim.explore.tornado import Arm, Tornado
from moesim.report.figure import pyplot, save
from moesim.report.text import model_words, number, workload_words

_LEFT, _WIDTH, _ENDS = 30, 40, 2
_FAR = 1.5
"""Times the share asked for, from which a step is named for what it is."""


def tornado_text(found: Tornado, top: int = 15) -> str:
    """A bar each way for every parameter that moves the metric."""
    scenario = found.scenario
    lines = [
        f"{found.metric} {number(found.value)}: {model_words(scenario)} on {scenario.hardware}, "
        f"{workload_words(scenario.workload)}; each parameter {found.by:.0%} less and more; "
        "elasticity is per cent by per cent",
        "",
        f"{'parameter':{_LEFT}}{'less':>9}{'more':>9}{'elasticity':>12}",
    ]
    shown = [arm for arm in found.arms if arm.moves][:top]
    most = max((abs(arm.elasticity) for arm in shown), default=1.0)
    for arm in shown:
        less, more = (f"{c:+.1%}" if c is not None else "-" for c in arm.changes)
        bar = "#" * max(round(_WIDTH * abs(arm.elasticity) / most), 1)
        known = [value for value, change in zip(arm.values[::2], arm.changes, strict=True) if change is not None]
        ends = " -> ".join(f"{value:.4g}" for value in (known if len(known) == _ENDS else [arm.values[1], *known]))
        low, middle, high = arm.values
        if max(high / middle, 2.0 - low / middle) - 1.0 > _FAR * found.by and isinstance(middle, int):
            ends += ", whole steps alone"
        lines.append(f"{arm.parameter:{_LEFT}}{less:>9}{more:>9}{arm.elasticity:>+12.2f}  {bar}  {ends}".rstrip())
    if still := [arm.parameter for arm in found.arms if not arm.moves and not arm.problem]:
        lines.append(f"no effect: {', '.join(still)}")
    unknown = [arm for arm in found.arms if not arm.moves and arm.problem]
    lines += [f"not moved: {arm.parameter} ({arm.problem})" for arm in unknown[:3]]
    return "\n".join(lines)


def tornado_data(found: Tornado) -> dict[str, Any]:
    """Everything, for ``--json``."""
    return {"metric": found.metric, "value": found.value, "by": found.by, "parameters": [_data(a) for a in found.arms]}


def _data(arm: Arm) -> dict[str, Any]:
    return {"parameter": arm.parameter, "values": arm.values, "changes": arm.changes, "elasticity": arm.elasticity,
            "problem": arm.problem}  # fmt: skip


def draw_tornado(found: Tornado, target: Path, top: int) -> Path:
    """Horizontal bars, the longest on top. Needs matplotlib."""
    plt = pyplot()
    shown = [arm for arm in found.arms if arm.moves][:top][::-1]
    figure, axes = plt.subplots(figsize=(9, 0.36 * len(shown) + 1.4), dpi=110)
    for sign, color, label in ((-1.0, "#4878a8", "less"), (1.0, "#d8803a", "more")):
        changes = [100 * ((1.0 + sign * found.by) ** arm.elasticity - 1.0) for arm in shown]
        axes.barh(range(len(shown)), changes, color=color, label=f"{100 * found.by:g} % {label}", height=0.7)
    axes.set_yticks(range(len(shown)), [arm.parameter for arm in shown], fontsize=9)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_xlabel(f"change of {found.metric}, %")
    axes.set_title(f"{model_words(found.scenario)} on {found.scenario.hardware}", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return save(figure, target)
