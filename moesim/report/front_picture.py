"""Time, memory and quality of what a search found, in two dimensions and in three."""

from __future__ import annotations

from pathlib import Path

from moesim.explore.search import Configuration, SearchResult
from moesim.report.figure import pyplot, save

_MARKERS = "osD^vXP*<>hd"


def draw_front(found: SearchResult, target: Path) -> Path:
    """All configurations that fit, by system; the front in black rings. Needs matplotlib."""
    plt = pyplot()
    quality = found.quality
    shown = [c for c in found.configurations if c.fits and (quality is None or c.values[quality] is not None)]
    names = sorted({c.settings["system"] for c in shown})
    figure = plt.figure(figsize=(15, 6.4), dpi=110)
    flat, deep = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2, projection="3d")
    for i, name in enumerate(names):
        mine = [c for c in shown if c.settings["system"] == name]
        marker = _MARKERS[i % len(_MARKERS)]
        x, y, z = zip(*(_place(c, quality) for c in mine), strict=True)
        flat.scatter(x, y, s=22, marker=marker, label=name, alpha=0.6, linewidths=0)
        deep.scatter(x, y, z, s=14, marker=marker, alpha=0.6, linewidths=0)
    front = [_place(c, quality) for c in shown if c.on_front]
    if front:
        x, y, z = zip(*front, strict=True)
        flat.scatter(x, y, s=46, facecolors="none", edgecolors="black", linewidths=0.8, label="front")
        deep.scatter(x, y, z, s=34, facecolors="none", edgecolors="black", linewidths=0.8, depthshade=False)
    for constraint in found.constraints:
        if constraint.metric == "gpu_memory":
            flat.axvline(constraint.limit / 2**30, color="grey", linestyle=":")
        if constraint.metric == "tpot":
            flat.axhline(1e3 * constraint.limit, color="grey", linestyle=":")
    flat.set(xlabel="GPU memory, GiB", ylabel="TPOT, ms", yscale="log")
    flat.legend(fontsize=8, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    deep.set(xlabel="GPU memory, GiB", ylabel="TPOT, ms", zlabel=quality or "")
    deep.set_title(f"with {quality} as the third axis" if quality else "", fontsize=10)
    figure.tight_layout()
    return save(figure, target)


def _place(c: Configuration, quality: str | None) -> tuple[float, float, float]:
    value = c.values[quality] if quality else 0.0
    return (c.values["gpu_memory"] or 0.0) / 2**30, 1e3 * (c.values["tpot"] or 0.0), value or 0.0
