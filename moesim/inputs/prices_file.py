"""What GPUs cost an hour: a table with providers, dates and sources."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from moesim import paths
from moesim.errors import SpecError
from moesim.files.reading import require_file
from moesim.files.table import read_table
from moesim.hardware.catalogue import load_hardware

COLUMNS = ("gpu", "provider", "instance", "usd_per_hour", "gpus", "date", "source")
SHIPPED = paths.HWSPECS / "prices.csv"


@dataclass(frozen=True)
class Price:
    """One provider's price of a GPU."""

    gpu: str
    provider: str
    instance: str
    usd_per_gpu_hour: float
    date: str
    source: str
    gpus: int = 1
    """Of the instance, which is rented whole; of an instance of one as many are rented as are needed."""

    def hourly(self, gpus: int) -> float:
        """Dollars an hour for so many GPUs. [$/h]"""
        return -(-gpus // self.gpus) * self.gpus * self.usd_per_gpu_hour

    def describe(self) -> str:
        """Who, what and when."""
        return " ".join(filter(None, [self.provider, f"{self.instance}, {self.date}" if self.date else ""]))


def prices_of(gpu: str, path: Path | None = None) -> list[Price]:
    """What a table says of a GPU, cheapest first; the project's where none is named. Raises SpecError."""
    found = [price for price in read_prices(path or SHIPPED) if price.gpu == gpu]
    return sorted(found, key=lambda price: price.usd_per_gpu_hour)


def read_prices(path: Path) -> list[Price]:
    """All that a table says. Raises SpecError."""
    return _read(require_file(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read(path: Path, _stamp: int) -> list[Price]:
    return read_table(path, COLUMNS, _price)


def _price(row: dict[str, str]) -> Price:
    """A row of the table. Raises ValueError."""
    try:
        name = load_hardware(row["gpu"]).name
    except SpecError as error:
        raise ValueError(error.problems[0].message) from None
    try:
        dollars, gpus = float(row["usd_per_hour"]), int(row["gpus"])
        datetime.date.fromisoformat(row["date"])
    except ValueError:
        dollars, gpus = 0.0, 0
    if not (0 < dollars < 1e6 and 0 < gpus < 1e6):
        raise ValueError("needs dollars an hour, a number of GPUs, and a date like 2026-11-09")
    if not row["source"].strip():
        raise ValueError("names no source")
    return Price(name, row["provider"], row["instance"], dollars / gpus, row["date"], row["source"], gpus)
