"""Measured runs of served models: what ran, as a scenario, and one row of figures a configuration.

A run set is a YAML file and a CSV file of the same name beside it. The YAML names the scenario that all rows share and
where the figures come from; each CSV column is a setting of the scenario or a measured metric under vLLM bench's name.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from moesim import paths
from moesim.errors import Problem, SpecError
from moesim.files.quantities import Capacity, Strict
from moesim.files.reading import text_of
from moesim.files.validation import read_as
from moesim.inputs.scenario import Scenario, dotted_fields

FOLDER = paths.CALIBRATION / "runs"
METRICS = tuple(f"{statistic}_{name}_ms" for statistic in ("mean", "median", "p90", "p99")
                for name in ("ttft", "tpot", "itl", "e2el"))  # fmt: skip


ID = "id"
"""A column that names a row as its source does."""


class MeasuredMemory(Strict):
    """What an engine's own memory profile said when it started."""

    weights: Capacity
    activations: Capacity | None = None
    """Peak of the profile run."""
    cuda_graphs: Capacity | None = None
    kv_blocks: int = Field(ge=1)
    starts_at: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest gpu_memory_utilization tried at which the engine started."""
    fails_at: Annotated[float, Field(gt=0, le=1)] | None = None
    """Largest tried at which it did not for want of memory."""


class RunFile(Strict):
    """The YAML half."""

    title: str = Field(min_length=1)
    role: Literal["fit", "control", "validation"]
    """``fit``: constants were fitted on it. ``control``: a dense model, fitted nowhere. ``validation``: an MoE model,
    fitted nowhere."""
    source: str = Field(min_length=1)
    statistic: Literal["mean", "median"] = "mean"
    """What a published figure is, where its source does not say."""
    select: dict[str, Any] = {}
    """Rows of the published table this set was taken from."""
    seats_are_concurrency: bool = False
    """max_num_seqs was set to each run's concurrency."""
    fitted_rows: Literal["odd"] | None = None
    """Rows that a constant was fitted on, counted from one; a row that differs from an earlier one in a setting that is
    not believed goes with that one. They are no part of any figure."""
    not_believed: dict[str, str] = {}
    """Setting of a row -> why it is not believed: a plan flag that moves nothing against its twin at the same load."""
    scenario: Scenario
    memory: MeasuredMemory | None = None
    doubts: list[str] = []


@dataclass(frozen=True)
class Run:
    """One measured configuration."""

    scenario: Scenario
    measured: dict[str, float]
    """vLLM bench's name -> milliseconds or tokens per second."""
    settings: dict[str, Any]
    """What the row says beyond the set's common scenario."""
    line: int
    id: str = ""
    """What the source calls it."""
    fitted: bool = False
    """A constant was fitted on it."""


@dataclass(frozen=True)
class RunSet:
    """Measured runs of one model, engine and system."""

    name: str
    about: RunFile
    runs: tuple[Run, ...]


def run_sets(folder: Path = FOLDER) -> list[Path]:
    """Every run set under a folder."""
    return sorted(folder.glob("*.yaml"))


def load_about(path: Path) -> RunFile:
    """The YAML half of a run set. Raises SpecError."""
    return read_as(RunFile, path)[0]


def load_runs(path: Path) -> RunSet:
    """A run set with its rows.

    Raises
    ------
    SpecError
        Every problem of both files: unknown columns, figures that are no positive numbers, settings that do not go
        together.
    """
    about = load_about(path)
    table = path.with_suffix(".csv")
    text = text_of(table, "a CSV file")
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    rows = csv.DictReader(io.StringIO("\n".join(line for _, line in lines)))
    try:
        columns, told = rows.fieldnames or [], list(rows)
    except csv.Error as error:
        raise SpecError([Problem(f"is not a CSV file ({error})", str(table))]) from None
    unknown = [c for c in columns if c not in METRICS and c not in dotted_fields() and c != ID]
    if unknown or not set(columns) & set(METRICS):
        what = f"'{unknown[0]}' is neither a setting nor a metric" if unknown else "there is no measured column"
        raise SpecError([Problem(f"{what}; metrics are mean_ttft_ms, mean_tpot_ms and the like", f"{table}:1")])
    problems: list[Problem] = []
    runs = []
    for (line, _), row in zip(lines[1:], told, strict=False):
        try:
            if None in row or None in row.values():
                raise SpecError([Problem(f"has not {len(columns)} cells, as the first line has")])
            runs.append(_run(about, row, line))
        except SpecError as error:
            problems += [Problem(problem.message, f"{table}:{line}") for problem in error.problems]
        except (ValueError, TypeError):
            problems.append(Problem("holds a figure that is no positive number", f"{table}:{line}"))
    if not runs and not problems:
        problems.append(Problem("holds no row; at least one is needed", str(table)))
    if problems:
        raise SpecError(problems)
    return RunSet(path.stem, about, _with_fitted(about, runs))


def _with_fitted(about: RunFile, runs: list[Run]) -> tuple[Run, ...]:
    """Runs with those marked that a constant was fitted on."""
    if about.fitted_rows is None:
        return tuple(runs)
    first: dict[Any, int] = {}
    found: list[Run] = []
    for number, run in enumerate(runs, 1):
        key = tuple(sorted((k, v) for k, v in run.settings.items() if k not in about.not_believed))
        found.append(replace(run, fitted=first.setdefault(key, number) % 2 == 1))
    return tuple(found)


def _run(about: RunFile, row: dict[str, str], line: int) -> Run:
    measured = {name: float(value) for name, value in row.items() if name in METRICS and value}
    if not measured or not all(0 < value < float("inf") for value in measured.values()):
        raise ValueError
    settings = {name: _value(value) for name, value in row.items() if name not in METRICS and name != ID and value}
    scenario = about.scenario.with_(**{k: v for k, v in settings.items() if k not in about.not_believed})
    if scenario.workload.arrivals == "batch":
        raise SpecError([Problem("says not how requests came; give max_concurrency or request_rate")])
    if scenario.workload.output_len == 1 and any("tpot" in name or "itl" in name for name in measured):
        raise SpecError([Problem("measures time between tokens of answers that have one; leave those cells empty")])
    return Run(scenario, measured, settings, line, row.get(ID, ""))


def _value(text: str) -> Any:
    return {"true": True, "false": False}.get(text.lower(), int(text) if text.lstrip("-").isdigit() else text)
