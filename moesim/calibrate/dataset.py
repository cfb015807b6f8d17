"""A dataset: a folder of tidy tables, a row a measured point in SI units, with a data sheet beside them."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim import paths
from moesim.calibrate.dataset_file import DatasetFile
from moesim.errors import CalibrationError, SpecError
from moesim.files import yaml
from moesim.files.document import Document
from moesim.files.parquet import read_parquet
from moesim.files.quantities import file_name
from moesim.files.validation import validated
from moesim.files.writing import whole, write_whole

if TYPE_CHECKING:
    import pandas as pd

META = "meta.yaml"
POINTS = "points.jsonl"
"""Rows as they were measured, where we measured them."""
UNITS = {
    "seconds": "s", "seconds_q1": "s", "seconds_q3": "s", "notify_seconds": "s", "sm_clock_hz": "Hz",
    "message_bytes": "B", "bytes": "B", "bytes_per_element": "B",
}  # fmt: skip
"""Column -> unit, of every column of every table that has one; the others are counts and names."""


@dataclass(frozen=True)
class Dataset:
    """Tables of one GPU (or host) and stack."""

    folder: Path
    gpu: str
    stack: str

    def __post_init__(self) -> None:
        """Both name folders of fits. Raises CalibrationError."""
        for name in (self.gpu, self.stack):
            try:
                file_name(name)
            except ValueError as error:
                raise CalibrationError(f"'{name}' of the dataset '{self.folder}' {error}") from None

    def path(self, table: str) -> Path:
        return self.folder / f"{table}.parquet"

    def has(self, table: str) -> bool:
        return self.path(table).is_file()

    def table(self, name: str) -> pd.DataFrame:
        """A tidy table. Raises CalibrationError where there is none."""
        if not self.has(name):
            raise CalibrationError(f"there is no table '{name}' for {self.gpu} under {self.stack}")
        return read_parquet(self.path(name), str(self.path(name)))

    @property
    def tables(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.parquet"))

    @property
    def label(self) -> str:
        """Its folder, from the project's calibration folder where it lies there."""
        inside = self.folder.is_relative_to(paths.CALIBRATION)
        return self.folder.relative_to(paths.CALIBRATION).as_posix() if inside else self.folder.name

    @property
    def sheet(self) -> dict[str, Any]:
        """The data sheet as plain data. Raises SpecError."""
        return yaml.read(self.folder / META).data


def stored(gpu: str, stack: str) -> Dataset:
    """The project's own dataset of a GPU and stack, whether it is there or not."""
    return Dataset(paths.KERNELS / gpu / stack, gpu, stack)


def stored_datasets() -> list[Dataset]:
    """Every dataset under ``calibration/kernels``."""
    return [stored(p.parent.parent.name, p.parent.name) for p in sorted(paths.KERNELS.glob(f"*/*/{META}"))]


def open_dataset(name: str | Path) -> Dataset:
    """A dataset by folder, or by the name ``<gpu>/<stack>`` of one that ships. Raises CalibrationError, SpecError."""
    for folder in (Path(name), paths.KERNELS / name):
        if (folder / META).is_file():
            sheet = yaml.read(folder / META).data
            return Dataset(folder, str(sheet.get("gpu", "")), str(sheet.get("stack", "")))
    known = ", ".join(dataset.label.removeprefix("kernels/") for dataset in stored_datasets())
    raise CalibrationError(
        f"'{name}' is no dataset: a folder with {META} and tables, or one of: {known or 'none ship'}"
    )


def read_table(gpu: str, stack: str, table: str) -> pd.DataFrame:
    """A table of the project's own dataset. Raises CalibrationError where there is none."""
    return stored(gpu, stack).table(table)


def content_sha256(table: pd.DataFrame) -> str:
    """Hash of a table's columns and rows: the same whichever library wrote the file."""
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.17g", lineterminator="\n")
    return hashlib.sha256(text.getvalue().encode()).hexdigest()


@lru_cache(maxsize=256)
def file_sha256(path: Path, _stamp: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sha256(path: Path) -> str:
    """Hash of a file."""
    return file_sha256(path, path.stat().st_mtime_ns)


def write_table(folder: Path, name: str, table: pd.DataFrame) -> Path:
    """Write one tidy table, whole or not at all."""
    target = folder / f"{name}.parquet"
    with whole(target) as half:
        table.to_parquet(half, index=False, compression="zstd")
    return target


def write_sheet(folder: Path, written_by: str, sheet: dict[str, Any]) -> Path:
    """Write the data sheet. Raises SpecError where it lacks what a data sheet must say."""
    _, problems = validated(DatasetFile, sheet, Document(sheet, META))
    if problems:
        raise SpecError(problems)
    target = folder / META
    write_whole(target, f"# Written by `{written_by}`; do not edit.\n{yaml.text(sheet)}")
    return target


def units_of(tables: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Units of the columns that these tables have."""
    columns = {column for table in tables.values() for column in table.columns}
    return {column: unit for column, unit in UNITS.items() if column in columns}
