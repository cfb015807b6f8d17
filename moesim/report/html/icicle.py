"""The cost tree as an icicle: a row for each level, as wide as its share of the time."""

from __future__ import annotations

import numpy as np

from moesim.cost.cost import Cost
from moesim.report.html.svg import COLORS, figure, rect, words

_WIDTH, _ROW = 900.0, 26.0
_LEAST = 0.002
"""Share of the whole below which a part has no place of its own."""
_LETTER = 6.2


def icicle(cost: Cost) -> str:
    """Every part with its seconds, what bounds it and where its constants come from as a title."""
    total = max(float(np.sum(cost.seconds)), 1e-30)
    body, depth = _part(cost, 0.0, _WIDTH, 0, 1.0, total, 0)
    return figure(_WIDTH, _ROW * (depth + 1), body, "where the time goes")


def _part(cost: Cost, x: float, width: float, level: int, times: float, total: float, hue: int) -> tuple[str, int]:
    seconds = float(np.sum(cost.seconds)) * cost.count * times
    own = seconds if level else total
    told = f"{cost.name}: {1e3 * own:,.4g} ms, {own / total:.1%}"
    if cost.bound and not cost.children:
        told += f", bound by {cost.bound}, {cost.tag}: {cost.source}"
    body = rect(x, _ROW * level, width, _ROW - 1, COLORS[hue % len(COLORS)], told, 'stroke="var(--paper)"')
    fits = int((width - 8) / _LETTER)
    if fits >= 3:
        text = cost.name if len(cost.name) <= fits else cost.name[: fits - 1] + "…"
        body += words(x + 4, _ROW * level + 16, text, 11, more='fill="white" pointer-events="none"')
    deepest, place = level, x
    whole = sum(max(float(np.sum(c.seconds)) * c.count, 0.0) for c in cost.children) or 1.0
    for i, child in enumerate(cost.children):
        share = max(float(np.sum(child.seconds)) * child.count, 0.0) / whole
        wide = width * share
        if wide / _WIDTH >= _LEAST:
            below = times * (cost.count if level else 1)
            part, reached = _part(child, place, wide, level + 1, below, total, hue + i + 1 if level else i)
            body, deepest = body + part, max(deepest, reached)
        place += wide
    return body, deepest
