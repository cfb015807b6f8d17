"""Questions that two rows answer together: what changes a figure, as it was predicted and as it was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from moesim.bench.point import Point
from moesim.campaign.file import Contrast


@dataclass(frozen=True)
class Figure:
    """A contrast's metric of one point, as far as it is known."""

    point: Point
    predicted: float | None
    measured: float | None


@dataclass(frozen=True)
class Ratio:
    """A row held against the base that differs from it in the contrast's columns alone."""

    base: Point
    point: Point
    predicted: float | None
    """Of the metric, over the base's; None where one of the two was not predicted."""
    measured: float | None
    """None where one of the two was not measured."""


def ratios(contrast: Contrast, figures: Iterable[Figure]) -> list[Ratio]:
    """Every pair that the contrast asks for, in the order of the figures, which may be of any table."""
    groups: dict[tuple[Any, ...], list[Figure]] = {}
    for figure in figures:
        said = _said(figure.point)
        if figure.point.table != contrast.table and "table" not in contrast.over:
            continue
        if all(said.get(name) in values for name, values in contrast.where.items()):
            rest = tuple(sorted((k, v) for k, v in said.items() if k not in contrast.over))
            groups.setdefault(rest, []).append(figure)
    return [ratio for group in groups.values() for ratio in _of_group(contrast, group)]


def _said(point: Point) -> dict[str, Any]:
    return {"table": point.table, **point.columns}


def _of_group(contrast: Contrast, group: list[Figure]) -> Iterator[Ratio]:
    base = next((f for f in group if contrast.base.items() <= _said(f.point).items()), None)
    for figure in group if base else ():
        assert base
        if figure is not base:
            yield Ratio(
                base.point, figure.point, _over(figure.predicted, base.predicted), _over(figure.measured, base.measured)
            )


def _over(value: float | None, base: float | None) -> float | None:
    return value / base if value and base else None
