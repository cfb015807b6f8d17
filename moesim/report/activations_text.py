"""Activations of experts as a table, and as a heat map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moesim.explore.activations import Activations
from moesim.report.figure import pyplot, save


def activations_text(found: Activations, ranks: int) -> str:
    """A line a layer: how uneven its experts are, and the ranks that hold them."""
    layers, experts = found.counts.shape
    totals = found.counts.sum(1)
    lines = [
        f"{found.source}: {layers} layers of {experts} experts",
        f"{'layer':>6}{'picks':>14}{'max/mean':>10}{'std/mean':>10}{'cold':>6}{'busiest':>9}",
    ]
    lines += [
        f"{i:>6}{totals[i]:>14,.0f}{found.peak[i]:>10.2f}{found.variation[i]:>10.2f}{found.cold[i]:>6}"
        f"{int(found.counts[i].argmax()):>9}"
        for i in range(layers)
    ]
    cold = f"{int(found.cold.sum())} of {found.counts.size} experts are cold (below a tenth of an even share)"
    worst = f"worst {found.peak.max():.2f} (layer {int(found.peak.argmax())})"
    last = [f"max/mean: mean over layers {found.peak.mean():.2f}, {worst}; {cold}"]
    if 1 < ranks <= experts:
        plain, packed, replicas = (found.rank_peak(ranks, r) for r in (None, 0, ranks))
        lines[1] += f"{f'{ranks} ranks':>11}{'packed':>9}{'+replicas':>11}"
        rows = zip(plain, packed, replicas, strict=True)
        lines[2:] = [f"{line}{a:>11.2f}{b:>9.2f}{c:>11.2f}" for line, (a, b, c) in zip(lines[2:], rows, strict=True)]
        last.append(
            f"busiest of {ranks} ranks over the mean: neighbours together {plain.mean():.2f}, packed by load "
            f"{packed.mean():.2f}, with {ranks} replicas {replicas.mean():.2f}"
        )
    return "\n".join([*lines, *last])


def draw_activations(found: Activations, target: Path) -> Path:
    """A heat map: layers down, experts across, picks over the layer's mean. Needs matplotlib."""
    plt = pyplot()
    layers, experts = found.counts.shape
    relative = found.counts / np.maximum(found.counts.mean(1, keepdims=True), 1e-300)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 2.2 + 0.14 * min(layers, 64)), dpi=110, width_ratios=(5, 1), sharey=True
    )
    top = max(float(np.quantile(relative, 0.995)), 1.5)
    image = left.imshow(relative, aspect="auto", cmap="magma", vmin=0, vmax=top, interpolation="nearest")
    figure.colorbar(image, ax=left, label="picks / mean of the layer", pad=0.01)
    left.set(
        xlabel="expert", ylabel="layer with experts", title=f"{found.source}: {layers} layers of {experts} experts"
    )
    right.barh(np.arange(layers), found.peak, color="tab:orange")
    right.axvline(1.0, color="grey", linewidth=0.8)
    right.set(xlabel="max / mean")
    figure.tight_layout()
    return save(figure, target)
