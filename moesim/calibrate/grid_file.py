"""What ``calibration/grid.yaml`` says: the loads and models that a calibration may measure."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from moesim import paths, units
from moesim.files.quantities import Strict
from moesim.files.validation import read_as

_Whole = Annotated[int, Field(ge=1, le=1 << 40)]
_Size = Annotated[int, BeforeValidator(lambda text: round(units.parse(text, "B"))), Field(ge=1)]
Counts = Annotated[list[_Whole], Field(min_length=1)]
Sizes = Annotated[list[_Size], Field(min_length=1)]


class HostGrid(Strict):
    """What is measured on the processor."""

    tokens: Counts
    stream: Sizes
    matmul: list[tuple[_Whole, _Whole, _Whole]]
    """(m, n, k)."""
    types: list[str]
    products: list[str]
    """Types of plain matrix products; experts run in ``types``."""


class CheckRule(Strict):
    """When a stored calibration still holds."""

    points: _Whole
    within: Annotated[float, Field(gt=0, lt=1)]


class Grid(Strict):
    """Models whose shapes are measured, and under which loads."""

    models: Annotated[list[str], Field(min_length=1)]
    tensor_parallel: Counts
    block_kernels: Annotated[list[str], Field(min_length=1)]
    """Of dense products in block-scaled fp8, by ``moesim.bench``'s names."""
    tokens: Counts
    routing: Annotated[list[str], Field(min_length=1)]
    loop_tokens: Counts
    batch: Counts
    context: Counts
    prompt: Counts
    prompt_batch: Counts
    most_cached_tokens: _Whole
    stream: Sizes
    copy_: Annotated[Sizes, Field(alias="copy")]
    most_pageable: _Size
    kernels: Counts
    message: Sizes
    collectives: Annotated[list[str], Field(min_length=1)]
    host: HostGrid
    shares: dict[str, Annotated[float, Field(gt=0)]]
    """Table -> its part of the time."""
    check: CheckRule


def load_grid() -> Grid:
    """The grid that ships. Raises SpecError."""
    return read_as(Grid, paths.GRID)[0]
