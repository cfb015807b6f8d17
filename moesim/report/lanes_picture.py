"""The lanes of one decode step as a picture or a Chrome trace."""

from __future__ import annotations

import json
from pathlib import Path

from moesim.files.writing import write_whole
from moesim.offload.lanes import LANES
from moesim.offload.report import OffloadReport
from moesim.report.figure import pyplot, save
from moesim.report.offload_text import placement_words

_COLOURS = (
    ("attention", "#4c78a8"), ("arrived", "#f58518"), ("guesses", "#b279a2"), ("evicted", "#9d755d"),
    ("experts", "#54a24b"), ("shared", "#72b7b2"), ("layer", "#8c8c8c"), ("head", "#d37295"),
)  # fmt: skip
_SHOWN_LAYERS = 8


def write_lanes(report: OffloadReport, target: Path) -> Path:
    """Write the lanes: .json opens in Perfetto, .png and .svg show the first layers. Pictures need matplotlib."""
    return _trace(report, target) if target.suffix == ".json" else _picture(report, target)


def _trace(report: OffloadReport, target: Path) -> Path:
    events: list[dict[str, object]] = [
        {"ph": "M", "pid": 0, "tid": i, "name": "thread_name", "args": {"name": lane}} for i, lane in enumerate(LANES)
    ]
    for lane, what, start, end in report.lanes().events:
        events.append(
            {"ph": "X", "pid": 0, "tid": LANES.index(lane), "name": what, "ts": 1e6 * start, "dur": 1e6 * (end - start)}
        )
    write_whole(target, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
    return target


def _colour(what: str) -> str:
    return next(colour for word, colour in _COLOURS if word in what)


def _picture(report: OffloadReport, target: Path) -> Path:
    plt = pyplot()
    timeline, layers = report.lanes(), len(report.plan.resident)
    last = min(_SHOWN_LAYERS, layers) - 1
    ends = [end for _, what, _, end in timeline.events if what.split(":")[0] == f"layer {last}"]
    until = max(ends, default=timeline.end_s)
    used = [lane for lane in LANES if timeline.busy()[lane] > 0]
    figure, axes = plt.subplots(figsize=(11, 1.2 + 0.6 * len(used)), dpi=110)
    for row, lane in enumerate(reversed(used)):
        for name, what, start, end in timeline.events:
            if name == lane and start < until:
                bar = [(1e3 * start, 1e3 * (end - start))]
                axes.broken_barh(bar, (row - 0.38, 0.76), color=_colour(what), linewidth=0)
    axes.set_yticks(range(len(used)), list(reversed(used)))
    axes.set_xlim(0, 1e3 * until)
    axes.set_xlabel(f"ms of a decode step of {1e3 * timeline.end_s:.4g} ms: the first {last + 1} of {layers} layers")
    plan = report.plan
    axes.set_title(
        f"{plan.rank.model.name}, {plan.system.title} on {plan.hardware.title}: {placement_words(plan)}", fontsize=10
    )
    shown = [(word, c) for word, c in _COLOURS if any(_colour(what) == c for _, what, *_ in timeline.events)]
    axes.legend(
        [plt.Rectangle((0, 0), 1, 1, color=c) for _, c in shown], [w for w, _ in shown], ncols=len(shown), fontsize=8,
        loc="upper center", bbox_to_anchor=(0.5, -0.32 - 0.1 * (len(used) < 3)), frameon=False,
    )  # fmt: skip
    figure.tight_layout()
    return save(figure, target)
