"""Charts as SVG text: every mark has a title that a pointer or a screen reader reads."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10
from typing import NamedTuple

COLORS = ("#2f6690", "#d8803a", "#5b8e55", "#8a5a9e", "#b8494e", "#3f8f8f", "#a68a3a", "#6b6f76", "#c37aa5", "#7fa8c9")


class Mark(NamedTuple):
    """A value with its name and what to say of it."""

    name: str
    value: float
    title: str = ""


def figure(width: float, height: float, body: str, label: str) -> str:
    """A chart that scales with its place."""
    said = escape(label, quote=True)
    size = f'viewBox="0 0 {width:g} {height:g}" preserveAspectRatio="xMinYMin meet"'
    return f'<div class="wide"><svg {size} role="img" aria-label="{said}">{body}</svg></div>'


def rect(x: float, y: float, width: float, height: float, fill: str, title: str = "", more: str = "") -> str:
    said = f"<title>{escape(title)}</title>" if title else ""
    size = f'x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" height="{height:.2f}"'
    return f'<rect {size} fill="{fill}" {more}>{said}</rect>'


def words(x: float, y: float, text: str, size: float = 11, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:g}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, more: str = 'stroke="currentColor"') -> str:
    return f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" {more}/>'


def stacked(parts: Sequence[Mark], label: str, width: float = 900) -> str:
    """One bar of parts beside each other, with a legend below."""
    total = sum(part.value for part in parts) or 1.0
    body, x, row = "", 0.0, 0
    place = 0.0
    for i, part in enumerate(parts):
        wide = width * part.value / total
        body += rect(x, 0, wide, 34, COLORS[i % len(COLORS)], part.title or part.name)
        text = f"{part.name} {part.title}"
        size = 24 + 6.4 * len(text)
        if place + size > width:
            place, row = 0.0, row + 1
        body += rect(place, 46 + 20 * row, 11, 11, COLORS[i % len(COLORS)])
        body += words(place + 16, 56 + 20 * row, text)
        place, x = place + size, x + wide
    return figure(width, 66 + 20 * row, body, label)


def intervals(rows: Sequence[tuple[str, float, float, float]], label: str, width: float = 900) -> str:
    """(name, value, low, high): each as a bar around 1, all on one relative axis."""
    most = max(
        [abs(high / value - 1) for _, value, _, high in rows] + [abs(1 - low / value) for _, value, low, _ in rows]
    )
    most = max(most, 0.05) * 1.1
    left, wide = 190.0, width - 200.0

    def x(relative: float) -> float:
        return left + wide * (relative - (1 - most)) / (2 * most)

    body = line(x(1), 0, x(1), 22 * len(rows) + 4, 'stroke="currentColor" stroke-dasharray="3 3" opacity="0.5"')
    for i, (name, value, low, high) in enumerate(rows):
        y = 22 * i + 6
        body += words(left - 8, y + 10, name, anchor="end")
        said = f"{name}: {value:,.4g}, 90 % between {low:,.4g} and {high:,.4g}"
        body += rect(x(low / value), y + 2, x(high / value) - x(low / value), 10, COLORS[9], said)
        body += f'<circle cx="{x(1):.2f}" cy="{y + 7:.2f}" r="4" fill="{COLORS[0]}"/>'
    y = 22 * len(rows) + 18
    for step in (-most / 1.1, 0.0, most / 1.1):
        body += words(x(1 + step), y, f"{100 * step:+.0f} %" if step else "predicted", 10, "middle")
    return figure(width, y + 6, body, label)


def bars(marks: Sequence[Mark], label: str, unit: str = "", width: float = 900, both_ways: bool = False) -> str:
    """Horizontal bars, one below the other; from the middle where values have a sign."""
    most = max((abs(mark.value) for mark in marks), default=1.0) or 1.0
    left = 230.0
    wide, zero = width - left - 90, left + (0.5 * (width - left - 90) if both_ways else 0.0)
    body = ""
    for i, mark in enumerate(marks):
        y, size = 20 * i + 2, abs(mark.value) / most * wide * (0.5 if both_ways else 1.0)
        start = zero - size if mark.value < 0 else zero
        body += words(left - 8, y + 12, mark.name, anchor="end")
        body += rect(start, y + 2, size, 13, COLORS[0 if mark.value < 0 or not both_ways else 1], mark.title)
        body += words(start + size + 5 if mark.value >= 0 else start - 5, y + 12, f"{mark.value:.3g}{unit}", 10,
                      "start" if mark.value >= 0 else "end")  # fmt: skip
    body += line(zero, 0, zero, 20 * len(marks) + 2, 'stroke="currentColor" opacity="0.4"')
    return figure(width, 20 * len(marks) + 6, body, label)


class Axis(NamedTuple):
    """A scale: from, to, on which pixels, logarithmic or not."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        if self.log:
            low, high, value = log10(self.low), log10(self.high), log10(max(value, 1e-300))
        else:
            low, high = self.low, self.high
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1.0)

    def ticks(self) -> list[float]:
        if self.log:
            first, last = int(log10(self.low)) - 1, int(log10(self.high)) + 1
            return [10.0**p for p in range(first, last + 1) if self.low <= 10.0**p <= self.high]
        return [self.low + (self.high - self.low) * i / 5 for i in range(6)]


def _figure(value: float, log: bool) -> str:
    return f"{value:.3g}" if log or value < 1000 else f"{value:,.0f}"


def axes(x: Axis, y: Axis, x_name: str, y_name: str) -> str:
    """Both axes with ticks and names."""
    faint = 'stroke="currentColor" opacity="0.15"'
    body = line(x.start, y.start, x.end, y.start) + line(x.start, y.start, x.start, y.end)
    for tick in x.ticks():
        body += line(x.at(tick), y.start, x.at(tick), y.end, faint)
        body += words(x.at(tick), y.start + 14, _figure(tick, x.log), 10, "middle")
    for tick in y.ticks():
        body += line(x.start, y.at(tick), x.end, y.at(tick), faint)
        body += words(x.start - 6, y.at(tick) + 4, _figure(tick, y.log), 10, "end")
    body += words((x.start + x.end) / 2, y.start + 30, x_name, 11, "middle")
    return body + words(x.start, y.end - 8, y_name, 11)


def path(points: Sequence[tuple[float, float]], color: str, title: str = "", more: str = "") -> str:
    places = " ".join(f"{a:.2f},{b:.2f}" for a, b in points)
    said = f"<title>{escape(title)}</title>" if title else ""
    return f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2" {more}>{said}</polyline>'
