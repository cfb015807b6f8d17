"""The page: a sentence first, then numbers, then pictures, then where it all comes from."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from moesim import __version__
from moesim.files.writing import write_whole
from moesim.inputs.scenario_file import scenario_text
from moesim.memory import Room
from moesim.metrics import unit_of
from moesim.outcome import Prediction, Served
from moesim.report.html import watch as watching
from moesim.report.html.icicle import icicle
from moesim.report.html.plan import plan_picture
from moesim.report.html.provenance import constants
from moesim.report.html.roofline import roofline
from moesim.report.html.style import STYLE
from moesim.report.html.svg import COLORS, Axis, Mark, axes, bars, figure, intervals, path, stacked, words
from moesim.report.parts import memory_parts
from moesim.report.text import knowledge_lines, number, title
from moesim.serving.under_load import gpus_of
from moesim.units import bytes_text

if TYPE_CHECKING:
    from moesim.explore.tornado import Tornado

_DRAWN = ("mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "output_throughput")
_STEPS = 200
_ARMS = 14


def report_html(
    prediction: Prediction, to: str | Path | None = None, watch: watching.Watch | None = None,
    sensitivity: Tornado | None = None,
) -> str:  # fmt: skip
    """One self-contained page; written to ``to`` where that is given.

    Parameters
    ----------
    watch : Watch, optional
        What was seen of a run under load, for its timeline.
    sensitivity : Tornado, optional
        Which parameters move a metric.
    """
    sections = [
        ("Metrics", _metrics(prediction)),
        ("Memory of each GPU", _memory(prediction)),
        ("Where the time goes", icicle(prediction.cost) + _bounds(prediction)),
        ("Operations under the roofline", roofline(prediction)),
        ("Latency over requests", _distributions(prediction)),
        ("The run over time", watch.picture() if watch else watching.lanes(prediction) * (not _served(prediction))),
        ("GPUs of the plan", plan_picture(prediction)),
        ("What moves it", _sensitivity(sensitivity)),
        ("How well it is known", _known(prediction)),
        ("Where every constant comes from", _constants(prediction)),
        ("The scenario", _scenario(prediction)),
    ]
    shown = [(name, body) for name, body in sections if body]
    links = "".join(f'<a href="#s{i}">{escape(name)}</a>' for i, (name, _) in enumerate(shown))
    parts = "".join(f'<section id="s{i}"><h2>{escape(n)}</h2>{b}</section>' for i, (n, b) in enumerate(shown))
    heading = f"<h1>{escape(title(prediction))}</h1><p class='answer'>{escape(sentence(prediction))}</p>"
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title(prediction))}</title><style>{STYLE}</style></head><body><main>{heading}<nav>{links}</nav>{parts}"
        f"<footer>moesim {__version__}; intervals hold 90 %</footer></main></body></html>\n"
    )
    if to is not None:
        write_whole(Path(to), page)
    return page


def fragment_html(prediction: Prediction) -> str:
    """What a notebook shows."""
    body = _metrics(prediction) + _memory(prediction) + icicle(prediction.cost)
    return f'<div class="moesim"><style>{STYLE}</style><p><b>{escape(title(prediction))}</b></p>{body}</div>'


def sentence(prediction: Prediction) -> str:
    """The summary in a sentence."""
    scenario, found = prediction.scenario, prediction.metrics
    said = []
    for name, label in (("mean_ttft_ms", "first token after"), ("mean_tpot_ms", "then one every")):
        metric = found.get(name)
        if metric is not None:
            said.append(f"{label} {number(metric.value)} ms ({number(metric.low)} to {number(metric.high)})")
    out = found["output_throughput"]
    assert out is not None
    gpus = gpus_of(scenario)
    each = f", {out.value / gpus:,.0f} from each of {gpus} GPUs" if gpus > 1 else ""
    bounds = "; ".join(f"{phase} is bound by {what}" for phase, what in prediction.bounds.items())
    whole = f"{', '.join(said)}: {out.value:,.0f} output tokens a second{each}"
    return ". ".join(f"{part[:1].upper()}{part[1:]}" for part in (whole, bounds)) + "."


def _served(prediction: Prediction) -> bool:
    return isinstance(prediction, Served)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], numeric: int = 1) -> str:
    """A table whose columns from ``numeric`` on are numbers."""
    cells = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if i >= numeric else ''}>{escape(c)}</td>" for i, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<div class='wide'><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"


def _metrics(prediction: Prediction) -> str:
    found = {name: m for name, m in prediction.metrics.items() if m is not None and not name.startswith("std_")}
    drawn = [
        n for n in ("mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "output_throughput") if n in found
    ]
    chart = intervals([(n, found[n].value, found[n].low, found[n].high) for n in drawn], "metrics with 90 % intervals")
    rows = [(n, number(m.value), number(m.low), number(m.high), unit_of(n)) for n, m in found.items()]
    return chart + _details("all metrics", _table(("metric", "value", "low", "high", "unit"), rows))


def _details(name: str, body: str) -> str:
    return f"<details><summary>{escape(name)}</summary>{body}</details>"


def _memory(prediction: Prediction) -> str:
    parts = [Mark(name, value, bytes_text(value)) for name, value in memory_parts(prediction)]
    said = ""
    if isinstance(room := prediction.memory, Room):
        said = (
            f"<p>{bytes_text(room.total)} in all, {bytes_text(room.usable)} usable; "
            f"{bytes_text(room.kv_bytes_per_token)} of cache a token; at most {room.largest_batch:,} sequences of this "
            f"length, {room.longest_context:,} tokens each at this batch.</p>"
        )
    return stacked(parts, "memory of each GPU") + said


def _bounds(prediction: Prediction) -> str:
    from moesim.explore.compare import operation_seconds

    seconds = sorted(operation_seconds(prediction.cost).items(), key=lambda item: -item[1])
    total = sum(value for _, value in seconds) or 1.0
    rows = [(name, f"{1e3 * value:,.4g}", f"{value / total:.1%}") for name, value in seconds]
    return _details("every operation", _table(("operation", "ms in all", "share"), rows))


def _distributions(prediction: Prediction) -> str:
    """The share of requests that are faster, for each latency."""
    if not isinstance(prediction, Served):
        return ""
    body, report = "", prediction.report
    named = (("TTFT", report.ttft), ("TPOT", report.tpot), ("end-to-end", report.e2el))
    shown = [(name, d) for name, d in named if d.count and d.most > 0]
    for i, (name, found) in enumerate(shown):
        shares = [j / _STEPS for j in range(1, _STEPS + 1)]
        values = [1e3 * found.quantile(share) for share in shares]
        left = 60 + 300 * i
        x, y = Axis(0.0, values[-1] * 1.02, left, left + 240), Axis(0.0, 100.0, 200, 25)
        body += axes(x, y, f"{name}, ms", "% of requests faster")
        body += path([(x.at(v), y.at(100 * s)) for v, s in zip(values, shares, strict=True)], COLORS[i], name)
        for share in (0.5, 0.9, 0.99):
            at = 1e3 * found.quantile(share)
            body += f'<circle cx="{x.at(at):.1f}" cy="{y.at(100 * share):.1f}" r="3" fill="{COLORS[i]}"/>'
            right = x.at(at) - left < 90
            place = x.at(at) + (5 if right else -5), y.at(100 * share) + 12
            body += words(*place, f"p{share * 100:.0f} {number(at)}", 10, "start" if right else "end")
    return figure(900, 240, body, "latency distributions")


def _sensitivity(found: Tornado | None) -> str:
    if found is None:
        return ""
    marks = [
        Mark(arm.parameter, arm.elasticity, f"{arm.values[0]:.4g} to {arm.values[2]:.4g}")
        for arm in found.arms
        if arm.moves
    ]
    said = f"<p>Per cent of {escape(found.metric)} for a per cent of each parameter.</p>"
    return said + bars(marks[:_ARMS], f"elasticity of {found.metric}", both_ways=True)


def _known(prediction: Prediction) -> str:
    tags = [
        Mark(tag, share, f"{share:.0%}")
        for tag, share in sorted(prediction.knowledge.tags.items(), key=lambda x: -x[1])
    ]
    notes = "".join(f"<li>{escape(line.strip())}</li>" for line in knowledge_lines(prediction)[1:])
    return stacked(tags, "what the time is priced by") + (f"<ul>{notes}</ul>" if notes else "")


def _constants(prediction: Prediction) -> str:
    rows = [(c.of, c.name, c.value, c.error, c.meaning, c.source) for c in constants(prediction)]
    head = ("of", "constant", "value", "standard error", "meaning", "source")
    return _details(f"{len(rows)} constants", _table(head, rows, numeric=6))


def _scenario(prediction: Prediction) -> str:
    text = scenario_text(prediction.scenario)
    coded = base64.b64encode(text.encode()).decode()
    link = f'<a download="scenario.yaml" href="data:text/yaml;base64,{coded}">scenario.yaml</a>'
    return f"<p>{link}: <code>moesim predict scenario.yaml --explain</code></p><pre>{escape(text)}</pre>"
