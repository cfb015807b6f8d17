"""Every operation under the GPU's roofs: how much arithmetic a byte, how fast it runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.assembly import assemble
from moesim.cost.cost import Cost, leaf_seconds
from moesim.cost.registry import priced_here
from moesim.outcome import Prediction
from moesim.report.html.svg import COLORS, Axis, axes, figure, line, path, words
from moesim.serving.under_load import memory_side

_WIDTH, _HEIGHT = 900.0, 380.0


def roofline(prediction: Prediction) -> str:
    """A dot for each operation of each phase, as large as its share of the time; the roofs behind them."""
    machine = assemble(memory_side(prediction.scenario)).steps.machine
    gpu, points = machine.gpu, _points(prediction.cost, machine)
    if not points:
        return ""
    roofs = {"bf16": gpu.bf16_flop_per_s, "fp8": gpu.fp8_flop_per_s}
    low = 10 ** np.floor(np.log10(min(p[2] for p in points)))
    high = 10 ** np.ceil(np.log10(max([p[2] for p in points] + [2 * gpu.bf16_flop_per_s / gpu.hbm_bytes_per_s])))
    bottom = 10 ** np.floor(np.log10(min(*(p[3] for p in points), low * gpu.hbm_bytes_per_s)))
    x = Axis(float(low), float(high), 70, _WIDTH - 20, log=True)
    y = Axis(float(bottom), 2 * max(roofs.values()), _HEIGHT - 45, 25, log=True)
    body = axes(x, y, "FLOP a byte of memory", "FLOP/s")
    for i, (name, peak) in enumerate(dict.fromkeys((n, p) for n, p in roofs.items())):
        ridge = peak / gpu.hbm_bytes_per_s
        start = max(low, bottom / gpu.hbm_bytes_per_s)
        roof = [(x.at(start), y.at(start * gpu.hbm_bytes_per_s)), (x.at(ridge), y.at(peak)), (x.at(high), y.at(peak))]
        body += path(roof, "currentColor", f"{name} peak {peak / 1e12:,.0f} TFLOP/s", f'opacity="{0.7 - 0.3 * i}"')
        body += words(_WIDTH - 24, y.at(peak) - 5, f"{name} {peak / 1e12:,.0f} TFLOP/s", 10, "end")
    phases = list(dict.fromkeys(p[1] for p in points))
    for name, phase, intensity, rate, share in points:
        told = f"{name} in {phase}: {intensity:.3g} FLOP/B, {rate / 1e12:.3g} TFLOP/s, {share:.1%} of the time"
        color = COLORS[phases.index(phase) % len(COLORS)]
        body += (
            f'<circle cx="{x.at(intensity):.2f}" cy="{y.at(rate):.2f}" r="{3 + 22 * share**0.5:.2f}" fill="{color}" '
            f'fill-opacity="0.55" stroke="{color}"><title>{told}</title></circle>'
        )
        if share > 0.05:
            body += words(x.at(intensity), y.at(rate) - 6 - 22 * share**0.5, name, 10, "middle")
    for i, phase in enumerate(phases):
        body += f'<circle cx="{90 + 90 * i}" cy="34" r="5" fill="{COLORS[i]}"/>' + words(100 + 90 * i, 38, phase)
    return figure(_WIDTH, _HEIGHT, body + line(0, 0, 0, 0), "operations under the roofline")


def _points(cost: Cost, machine: Any) -> list[tuple[str, str, float, float, float]]:
    """(operation, phase, FLOP a byte, FLOP/s, share of the time)."""
    total = max(float(np.sum(cost.seconds)), 1e-30)
    found: dict[tuple[str, str], list[float]] = {}
    for phase in cost.children:
        for leaf, seconds in leaf_seconds(phase):
            taken = float(np.sum(seconds))
            if not priced_here(leaf.op) or taken <= 0 or leaf.bound in {"host", "overlap"}:
                continue
            flop, moved = (float(np.mean(np.asarray(getattr(leaf.op, n, 0.0), float))) for n in ("flop", "hbm_bytes"))
            each = float(np.mean(np.asarray(machine.seconds(leaf.name, leaf.op), float)))
            if flop > 0 and moved > 0 and each > 0:
                so_far = found.setdefault((leaf.name, phase.name), [0.0, 0.0, 0.0])
                times = taken / each
                for i, value in enumerate((flop * times, moved * times, taken)):
                    so_far[i] += value
    return [(name, phase, f / b, f / s, s / total) for (name, phase), (f, b, s) in found.items()]
