"""A prediction as a picture: metrics with intervals, memory, and where time goes. Needs matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.explore.compare import operation_seconds
from moesim.memory import Room
from moesim.outcome import Prediction
from moesim.report.figure import pyplot
from moesim.report.parts import memory_parts, of_gib
from moesim.report.text import number, title

_METRICS = ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "output_throughput", "total_token_throughput")
_OPERATIONS = 12


def prediction_figure(prediction: Prediction) -> Any:
    """Three panels side by side."""
    figure, (left, middle, right) = pyplot().subplots(1, 3, figsize=(15, 4.2), dpi=100, layout="constrained")
    shown = [(name, m) for name in _METRICS if (m := prediction.metrics.get(name)) is not None]
    for place, (name, metric) in enumerate(shown[::-1]):
        left.plot([metric.low / metric.value, metric.high / metric.value], [place, place], lw=6, color="#9bb8d3")
        left.plot([1.0], [place], "o", color="#1f4e79")
        left.annotate(f"{name} {number(metric.value)}", (1.0, place + 0.22), ha="center", fontsize=8)
    left.set(yticks=[], xlabel="over the prediction, 90 %", ylim=(-0.5, len(shown) - 0.3))
    bottom = 0.0
    for name, value in memory_parts(prediction):
        middle.bar([0], [of_gib(value)], bottom=bottom, label=f"{name} {of_gib(value):.3g} GiB", width=0.5)
        bottom += of_gib(value)
    if isinstance(prediction.memory, Room):
        middle.axhline(of_gib(prediction.memory.total), color="black", lw=0.8)
    middle.set(xticks=[], ylabel="GiB of each GPU", xlim=(-0.4, 1.6))
    middle.legend(fontsize=7, loc="upper right", frameon=False)
    seconds = sorted(operation_seconds(prediction.cost).items(), key=lambda item: -item[1])[:_OPERATIONS][::-1]
    total = max(float(np.sum(prediction.cost.seconds)), 1e-30)
    right.barh([name for name, _ in seconds], [100 * value / total for _, value in seconds], color="#d8803a")
    right.set(xlabel="% of the time")
    right.tick_params(axis="y", labelsize=8)
    figure.suptitle(title(prediction), fontsize=10)
    return figure
