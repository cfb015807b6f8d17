"""What ``calibration/campaign.yaml`` says: calls, what each measures, and what is asked of the rows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from moesim import paths
from moesim.bench.kernels import TABLES
from moesim.bench.point import Point
from moesim.bench.point import Value as Cell
from moesim.calibrate.candidates import gpu_points, host_points
from moesim.calibrate.engine_ask import EngineAsk
from moesim.calibrate.grid_file import load_grid
from moesim.campaign.predicted import METRICS
from moesim.files.quantities import FileName, Strict
from moesim.files.validation import read_as
from moesim.hardware.hardware import Hardware
from moesim.hardware.host import load_host
from moesim.models.catalogue import load_model

_ENGINES = ("engine_batch", "engine_load", "engine_memory")


def _table(name: str) -> str:
    if name not in TABLES:
        raise ValueError(f"'{name}' is no table of kernels; {', '.join(TABLES)} are")
    return name


def _rows(name: str) -> str:
    return name if name in _ENGINES else _table(name)


def _metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"'{name}' is no metric; {', '.join(METRICS)} are")
    return name


class KernelsAsk(Strict):
    """Kernels of the machine, the most telling points first; options of ``moesim calibrate``."""

    minutes: Annotated[float, Field(gt=0)]
    models: tuple[str, ...] = ()
    """Whose shapes; none are those of the grid."""
    tables: tuple[Annotated[str, AfterValidator(_table)], ...] = ()


class Step(Strict):
    """One thing that a call measures."""

    kernels: KernelsAsk | None = None
    engine: EngineAsk | None = None

    @model_validator(mode="after")
    def _one(self) -> Step:
        if (self.kernels is None) == (self.engine is None):
            raise ValueError("a step measures kernels or an engine; give one of the two")
        return self

    @property
    def minutes(self) -> float:
        ask = self.kernels or self.engine
        assert ask is not None
        return ask.minutes


class Contrast(Strict):
    """A question that rows answer which differ in some columns alone."""

    question: Annotated[str, Field(min_length=1)]
    table: Annotated[str, AfterValidator(_rows)]
    metric: Annotated[str, AfterValidator(_metric)]
    over: Annotated[list[str], Field(min_length=1)]
    """Columns that differ; ``table`` is one."""
    base: Annotated[dict[str, Cell], Field(min_length=1)]
    """Of those, the value that the others are held against."""
    where: dict[str, list[Cell]] = {}
    """Column -> values; other rows are left out."""


class Campaign(Strict):
    """The whole file."""

    vllm: Annotated[str, Field(min_length=1)]
    """The version whose runs are predicted."""
    calls: Annotated[dict[FileName, Annotated[list[Step], Field(min_length=1)]], Field(min_length=1)]
    contrasts: list[Contrast] = []

    @property
    def digest(self) -> str:
        """SHA-256 of what is measured: version, calls and grid, however they are written."""
        said = [self.vllm, {name: [step.model_dump() for step in steps] for name, steps in self.calls.items()}]
        return hashlib.sha256(json.dumps([*said, load_grid().model_dump()], sort_keys=True).encode()).hexdigest()

    @property
    def engines(self) -> list[EngineAsk]:
        """Every engine that is started, in order."""
        return [step.engine for steps in self.calls.values() for step in steps if step.engine]

    def kernel_points(self, hardware: Hardware) -> list[Point]:
        """Every kernel that may be measured on one such GPU and the host it usually has, whichever the time allows."""
        asks = [step.kernels for steps in self.calls.values() for step in steps if step.kernels]
        grid, found = load_grid(), dict[str, Point]()
        cores = int(load_host(hardware.host).cpu.cores.value)
        fp8 = hardware.gpu.dense_fp8 is not None
        for ask in asks:
            models = [load_model(name) for name in ask.models or grid.models]
            points = [*gpu_points(models, grid, fp8, 1), *host_points(models, grid, cores)]
            found |= {p.key: p for p in points if not ask.tables or p.table in ask.tables}
        return list(found.values())


def load_campaign(path: Path = paths.CAMPAIGN) -> Campaign:
    """A campaign's file. Raises SpecError."""
    return read_as(Campaign, path)[0]
