"""What a dataset's ``meta.yaml`` says: its data sheet, and what each table holds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from moesim.files.quantities import FileName, Strict

Text = Annotated[str, Field(min_length=1)]


class Table(Strict):
    """One tidy table of the dataset."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the table's rows, whatever file holds them."""
    rows_kept: int = Field(ge=1)
    rows_read: int = Field(ge=1)
    rows_dropped: dict[str, int] = {}
    """Reason -> rows."""
    source: str | None = None
    """Where the whole dataset's is another."""
    file: str | None = None
    sha256_of_source: str | None = None
    device: str | None = None
    provenance: dict[str, str] = {}
    """What the source says of its making: kind, image, digest, date, status."""
    kernels: list[str] = []


class DatasetFile(Strict):
    """A data sheet: what was measured, where, when and how, and what to doubt."""

    title: Text
    gpu: FileName
    """moesim's name of the GPU; of the host where the processor was measured."""
    stack: FileName
    """Engine or library and version."""
    source: Text
    licence: Text
    measured_at: Text
    units: dict[str, str] = Field(min_length=1)
    """Column -> unit, for every column that has one."""
    repetitions: Text
    environment: dict[str, Any] = Field(min_length=1)
    doubts: list[str] = Field(min_length=1)
    tables: dict[str, Table] = Field(min_length=1)
