"""A sweep into one Parquet or CSV file: blocks are kept as they come, so that what is stopped goes on.

Blocks lie in a folder beside the target until all are there, each written whole; then they become the file, in their
order, and the folder goes. The file's bytes depend on the grid alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from moesim.errors import Problem, SpecError
from moesim.explore.pool import pool
from moesim.explore.sweeps.blocks import Block, Grid, blocks, kinds, priced
from moesim.explore.sweeps.sweep import grid_of, units_of
from moesim.files.writing import HALF, alone, whole, write_whole
from moesim.inputs.scenario import Scenario
from moesim.inputs.scenario_file import scenario_data


class Swept(NamedTuple):
    """What a sweep wrote."""

    path: Path
    points: int
    fit: int
    problems: Counter[str]
    """Why others do not, with how many."""
    resumed: int
    """Points that an earlier run had left."""
    doubts: Counter[str]
    """Why simulations may differ from closed forms, with how many."""


def sweep_into(
    path: str | Path,
    scenario: Scenario,
    axes: Mapping[str, Iterable[Any]],
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
    backend: str = "processes",
    scheduler: str | None = None,
    simulate: bool = False,
) -> Swept:
    """``sweep`` into a .parquet or .csv file, in flat memory; run again after a stop, it goes on.

    Raises
    ------
    SpecError
        As ``sweep``; a name that is neither, or blocks of another sweep beside the target.
    """
    path, grid = Path(path), grid_of(scenario, axes, simulate)
    if path.suffix not in {".parquet", ".csv"}:
        raise SpecError([Problem(f"'{path}' must end in .csv or .parquet", "--output")])
    folder = path.with_name(f"{path.name}.blocks")
    folder.mkdir(exist_ok=True)
    with alone(folder, path):
        _mark(folder, grid)
        found = _filled(path, grid, folder, progress, jobs, backend, scheduler)
        shutil.rmtree(folder)
    return found


def _filled(
    path: Path, grid: Grid, folder: Path, progress: Callable[[int, int], None] | None, jobs: int, backend: str,
    scheduler: str | None,
) -> Swept:  # fmt: skip
    """Price the blocks that are missing, and write the file of all."""
    done, resumed = 0, 0
    missing = []
    for block in blocks(grid):
        if (size := _kept(folder, block)) is None:
            missing.append(block)
        else:
            resumed += size
    done = resumed
    with pool(jobs, backend, scheduler) as workers:
        for size in workers.map(partial(_stored, grid, folder), missing):
            done += size
            if progress:
                progress(done, grid.points)
    fit, problems, doubts = _together(path, grid, folder)
    return Swept(path, grid.points, fit, problems, resumed, doubts)


def _mark(folder: Path, grid: Grid) -> None:
    """Say in the folder that its blocks are of this grid alone. Raises SpecError where they are of another."""
    mark, told = folder / "grid", _fingerprint(grid)
    for left in folder.glob(f".*{HALF}"):
        # Nobody else writes here now: it is of a run that was killed.
        left.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        write_whole(mark, told)
    elif not mark.is_file() or mark.read_text(encoding="utf-8") != told:
        raise SpecError([Problem(f"'{folder}' holds blocks of another sweep; remove it, or name another", "--output")])


def _fingerprint(grid: Grid) -> str:
    """What the blocks depend on."""
    from moesim import __version__

    scenario, axes = scenario_data(grid.scenario), {name: [str(v) for v in grid.values[name]] for name in grid.values}
    data = {"version": __version__, "scenario": scenario, "kind": grid.kind, "axes": axes,
            "files": {name: _contents(name) for name in _words([scenario, axes])}}  # fmt: skip
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _words(data: Any) -> set[str]:
    """Every string in it."""
    if isinstance(data, (dict, list, tuple)):
        return set().union(*(_words(one) for one in (data.values() if isinstance(data, dict) else data)))
    return {data} if isinstance(data, str) else set()


def _contents(name: str) -> str:
    """Of a user's file, or a model's folder; nothing for what is no path."""
    path = Path(name) if "/" in name or "." in name else None
    if path is not None and path.is_dir():
        path /= "config.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else ""


def _place(folder: Path, block: Block) -> Path:
    return folder / f"{block.number:06d}.parquet"


def _kept(folder: Path, block: Block) -> int | None:
    """Points of a block that is there; None where it is not."""
    return block.stop - block.start if _place(folder, block).is_file() else None


def _stored(grid: Grid, folder: Path, block: Block) -> int:
    """Price a block and keep it. A worker of a cluster shares the folder's file system."""
    table = priced(grid, block)
    with whole(_place(folder, block)) as half:
        table.to_parquet(half, index=False)
    return len(table)


def _tables(grid: Grid, folder: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    for block in blocks(grid):
        yield pq.read_table(_place(folder, block))


def _together(path: Path, grid: Grid, folder: Path) -> tuple[int, Counter[str], Counter[str]]:
    """Write the file out of its blocks, one at a time. (points that fit, why others do not, doubts of closed forms)."""
    fit, problems, doubts = 0, Counter[str](), Counter[str]()
    with whole(path) as half:
        write = _parquet if path.suffix == ".parquet" else _csv
        for table in write(half, grid, _tables(grid, folder)):
            fit += sum(table["fits"].to_pylist())
            problems.update(table["problem"].to_pylist())
            if "doubt" in table.column_names:
                # Figures in a reason differ from point to point.
                doubts.update(reason.partition(": ")[2] or reason for reason in table["doubt"].to_pylist())
    del problems[""], doubts[""]
    return fit, problems, doubts


def _parquet(half: Path, grid: Grid, tables: Iterator[Any]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole, flag = pa.int64(), pa.bool_()
    # pandas has other types for what may have gaps; a Parquet column may anyway.
    types = {
        "bool": flag,
        "boolean": flag,
        "int64": whole,
        "Int64": whole,
        "float64": pa.float64(),
        "object": pa.string(),
    }
    units = units_of(grid)
    schema = pa.schema([
        pa.field(name, types[kind], metadata=_marked(units.get(name)))
        for name, kind in kinds(grid).items()
    ])  # fmt: skip
    with pq.ParquetWriter(half, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
            yield table


def _marked(unit: str | None) -> dict[Any, Any] | None:
    return {"unit": unit} if unit else None


def _csv(half: Path, grid: Grid, tables: Iterator[Any]) -> Iterator[Any]:
    with half.open("w", encoding="utf-8", newline="") as file:
        for number, table in enumerate(tables):
            table.to_pandas().to_csv(file, index=False, header=not number)
            yield table
