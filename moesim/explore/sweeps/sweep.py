"""A grid of settings as one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.errors import Problem, SpecError, nearest
from moesim.explore.pool import pool
from moesim.explore.sweeps.blocks import LOAD, Grid, blocks, dotted, priced
from moesim.files.quantities import MOST_WHOLE
from moesim.inputs.loading import setting
from moesim.inputs.scenario import Scenario, dotted_fields, require_scenario

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    scenario: Scenario,
    axes: Mapping[str, Iterable[Any]],
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
    backend: str = "processes",
    scheduler: str | None = None,
    simulate: bool = False,
) -> pd.DataFrame:
    """Predict every combination of ``axes``; one row each, in the order of the product.

    Parameters
    ----------
    scenario : Scenario
        What stays the same.
    axes : mapping of str to iterable
        Setting (``batch_size``, ``tensor_parallel_size``, ``routing``, ...) -> values.
    progress : callable, optional
        Called with (points done, points in all).
    jobs, backend, scheduler :
        Processes, and where they run (``moesim.explore.pool``); the table is the same whatever they are.
    simulate : bool
        Under load, run every point through the scheduler, as ``predict`` does, instead of the closed form.

    Returns
    -------
    DataFrame
        Static batches: the settings, ``fits``, ``problem`` (why a row could not be predicted, else empty), memory in
        bytes, and each metric with ``_low`` and ``_high`` (90 %), percentiles over eight steps of each phase. Metrics
        are NaN where a row does not fit. Under load (clients or a request rate): the steady state's means in closed
        form, ``limited_by``, what holds it back, and ``doubt``, why a simulation may differ; all metrics of
        ``predict`` where points are simulated. Offloaded: peak bytes on the GPU and in main memory.
        ``attrs["units"]`` has the unit of every column.

    Raises
    ------
    SpecError
        A setting that does not exist, or no values for one.
    """
    import pandas as pd

    grid, frames, done = grid_of(scenario, axes, simulate), [], 0
    with pool(jobs, backend, scheduler) as workers:
        for table in workers.map(partial(priced, grid), blocks(grid)):
            frames.append(table)
            done += len(table)
            if progress:
                progress(done, grid.points)
    found = pd.concat(frames, ignore_index=True)
    found.attrs["units"] = units_of(grid)
    return found


def units_of(grid: Grid) -> dict[str, str]:
    """The unit of every column that has one, told by its name."""
    ends = {"_bytes": "B", "_ms": "ms", "request_throughput": "req/s", "_throughput": "tok/s", "_len": "tok"}
    found = {}
    for name in grid.columns:
        bare = name.removesuffix("_low").removesuffix("_high")
        unit = next((unit for end, unit in ends.items() if bare.endswith(end)), None)
        found |= {name: unit} if unit else {}
    return found


def grid_of(scenario: Scenario, axes: Mapping[str, Iterable[Any]], simulate: bool = False) -> Grid:
    """Axes checked. Raises SpecError."""
    require_scenario(scenario)
    if not isinstance(axes, Mapping) or not all(isinstance(name, str) for name in axes):
        raise TypeError("axes are a mapping of settings' names to their values")
    values = {name: options(v) for name, v in axes.items()}
    if len({dotted(n) for n in values}) < len(values):
        raise SpecError([Problem(f"the axes {', '.join(values)} name one setting twice; keep one", "axes")])
    for name, found in values.items():
        if setting(name) is None:
            hint = nearest(name.replace("-", "_"), dotted_fields(), "moesim schema")
            raise SpecError([Problem(f"'{name}' is not a setting of a scenario; {hint}", "axes")])
        if not found:
            raise SpecError([Problem(f"'{name}' has no values to sweep over", "axes")])
        large = any(isinstance(value, int) and abs(value) > MOST_WHOLE for value in found)
        if large:
            message = f"'{name}' holds a number too large; whole numbers up to {MOST_WHOLE:,} are accepted"
            raise SpecError([Problem(message, "axes")])
    return Grid(scenario, values, _kind(scenario, values, simulate))


def _kind(scenario: Scenario, values: dict[str, list[Any]], simulate: bool) -> str:
    """How the grid's points are predicted. Raises SpecError."""
    leaves, load = {dotted(n).rsplit(".", 1)[-1] for n in values}, scenario.workload
    if scenario.offload is not None or any(dotted(n).split(".")[0] in {"offload", "host"} for n in values):
        return "offloaded"
    if load.arrivals != "batch" or {"max_concurrency", "request_rate"} & leaves:
        if "batch_size" in leaves:
            message = "batch_size is a static batch; sweep it without max_concurrency and request_rate"
            raise SpecError([Problem(message, "axes")])
        if simulate:
            return "served"
        if load.trace_file or load.lengths.kind == "file" or scenario.disaggregation is not None:
            raise SpecError("traces, files of lengths and engines apart have no closed form; simulate every point")
        return "steady"
    if simulate:
        raise SpecError("a static batch is not simulated; give max_concurrency or request_rate")
    for name, found in values.items():
        if dotted(name).rsplit(".", 1)[-1] in LOAD:
            wrong = [c for c in found if isinstance(c, bool) or not isinstance(c, (int, np.integer)) or c < 1]
            if wrong:
                message = f"'{name}' is {wrong[0]!r} in a sweep; whole numbers from 1 are accepted"
                raise SpecError([Problem(message, "axes")])
    return "static"


def options(values: Any) -> list[Any]:
    """An axis as a list; a bare value, a string above all, is one option."""
    if isinstance(values, (str, dict)) or not isinstance(values, Iterable):
        return [values]
    return list(values)
