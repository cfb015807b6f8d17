"""A block of a sweep: one structural choice over many loads priced as arrays, or points predicted one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moesim.assembly import Parts, assemble
from moesim.errors import DoesNotFit, SpecError
from moesim.inputs.loading import setting
from moesim.inputs.model_of import seen
from moesim.inputs.scenario import Scenario
from moesim.memory import sequence_kv_bytes
from moesim.metrics import LOAD_METRICS, STATIC_METRICS, STEADY_METRICS
from moesim.outcome import Offloaded, Prediction, Steady
from moesim.prediction import predict, predict_steady
from moesim.serving.static import static_batch
from moesim.serving.static_metrics import metrics

if TYPE_CHECKING:
    import pandas as pd

LOAD = ("batch_size", "input_len", "output_len")
SAMPLES = 8
"""Steps priced per phase and point: enough for 0.5 % of the sum over all steps (tested)."""
MEMORY = ("weights_bytes", "kv_available_bytes", "kv_needed_bytes")
TIERS = ("gpu_memory_bytes", "main_memory_bytes")
_POINTS_AT_ONCE = 10_000
_WORDS = ("problem", "limited_by", "doubt")
_ONE_BY_ONE = 16
"""Points of a block that are predicted on their own."""


class Grid(NamedTuple):
    """A sweep's axes, and how its points are predicted."""

    scenario: Scenario
    values: dict[str, list[Any]]
    """Setting as the user calls it -> values."""
    kind: str
    """``static``, ``steady`` (under load, in closed form), ``served`` (simulated) or ``offloaded``."""

    @property
    def points(self) -> int:
        return int(np.prod([len(options) for options in self.values.values()], dtype=np.int64))

    @property
    def columns(self) -> tuple[str, ...]:
        """Of every block, whatever fits in it."""
        ends = ("", "_low", "_high")
        if self.kind == "steady":
            own: tuple[str, ...] = ("limited_by", "doubt", *(n + e for n in STEADY_METRICS for e in ends))
            return (*self.values, "fits", "problem", *own)
        if self.kind == "served":
            return (*self.values, "fits", "problem", *(n + e for n in LOAD_METRICS for e in ends))
        found = [n + e for n in STATIC_METRICS for e in ends]
        if self.kind == "offloaded":
            return (*self.values, "fits", "problem", *TIERS, *found)
        structural, _ = _apart(self)
        return (*structural, *LOAD, "fits", "problem", *MEMORY, *found)


class Block(NamedTuple):
    """A part of a grid: a structural choice and a range of its loads, or a range of points."""

    number: int
    settings: dict[str, Any]
    start: int
    stop: int


def blocks(grid: Grid) -> Iterator[Block]:
    """The grid in the order of its product; the same whatever runs it."""
    number = itertools.count()
    if grid.kind != "static":
        for start in range(0, grid.points, _ONE_BY_ONE):
            yield Block(next(number), {}, start, min(start + _ONE_BY_ONE, grid.points))
        return
    structural, loads = _apart(grid)
    many = int(np.prod([len(grid.values[name]) for name in loads.values()], dtype=np.int64))
    for chosen in itertools.product(*(grid.values[name] for name in structural)):
        for start in range(0, many, _POINTS_AT_ONCE):
            settings = dict(zip(structural, chosen, strict=True))
            yield Block(next(number), settings, start, min(start + _POINTS_AT_ONCE, many))


def priced(grid: Grid, block: Block) -> pd.DataFrame:
    """One block's rows, in ``grid.columns``."""
    if grid.kind == "static":
        table = _block(grid.scenario, block.settings, _loads(grid, block))
    else:
        table = _one_by_one(grid, block)
    return _typed(table.reindex(columns=list(grid.columns)), grid)


def kinds(grid: Grid) -> dict[str, Any]:
    """pandas' type of every column, the same for all blocks: a block of refusals looks as any other."""
    own = {"fits": "bool"} | dict.fromkeys(_WORDS, "object") | dict.fromkeys(LOAD, "int64")
    axes = {name: _shared([shown(value) for value in values]) for name, values in grid.values.items()}
    return {name: (own | axes).get(name, "float64") for name in grid.columns}


def _shared(values: list[Any]) -> str:
    """The type of an axis that all its values share; words where they share none."""
    found, gaps = {type(value) for value in values} - {type(None)}, None in values
    if found == {bool}:
        return "boolean" if gaps else "bool"
    if found == {int}:
        return "Int64" if gaps else "int64"
    return "float64" if found and found <= {int, float} else "object"


def _typed(table: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    import pandas as pd

    for name, kind in kinds(grid).items():
        if kind == "object":
            missing = "" if name in _WORDS else None
            words = [missing if pd.isna(value) else str(value) for value in table[name]]
            table[name] = pd.Series(words, table.index, dtype=object)
        else:
            table[name] = table[name].astype(kind)
    return table


def _apart(grid: Grid) -> tuple[list[str], dict[str, str]]:
    """(structural axes, load axis -> as the user calls it)."""
    loads = {_leaf(name): name for name in grid.values if _leaf(name) in LOAD}
    return [name for name in grid.values if name not in loads.values()], loads


def _loads(grid: Grid, block: Block) -> dict[str, np.ndarray[Any, Any]]:
    """Batch, prompt and output of the block's points."""
    _, axes = _apart(grid)
    load = grid.scenario.workload
    given = {"batch_size": load.size, "input_len": load.input_len, "output_len": load.output_len}
    # As the user ordered them.
    order = [*axes, *(name for name in LOAD if name not in axes)]
    options = [np.asarray(grid.values[axes[n]] if n in axes else [given[n]], np.int64) for n in order]
    places = np.unravel_index(np.arange(block.start, block.stop), [len(o) for o in options])
    found = {name: chosen[place] for name, chosen, place in zip(order, options, places, strict=True)}
    return {name: found[name] for name in LOAD}


def _one_by_one(grid: Grid, block: Block) -> pd.DataFrame:
    """Every point of the block predicted on its own."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    names, options = list(grid.values), list(grid.values.values())
    for place in range(block.start, block.stop):
        chosen = np.unravel_index(place, [len(o) for o in options])
        settings = {name: o[i] for name, o, i in zip(names, options, chosen, strict=True)}
        rows.append({name: shown(value) for name, value in settings.items()} | _point(grid, settings))
    return pd.DataFrame(rows)


def _point(grid: Grid, settings: Mapping[str, Any]) -> dict[str, Any]:
    predicted = partial(predict_steady, estimate=True) if grid.kind == "steady" else predict
    try:
        found: Prediction = predicted(grid.scenario.with_(**{_double(n): v for n, v in settings.items()}))
    except (SpecError, DoesNotFit) as error:
        reasons = [p.message for p in error.problems] if isinstance(error, SpecError) else [str(error)]
        return {"fits": False, "problem": "; ".join(reasons)}
    row: dict[str, Any] = {"fits": True, "problem": ""}
    if isinstance(found, Steady):
        row |= {"limited_by": found.state.limited_by, "doubt": found.state.doubt}
    if isinstance(found, Offloaded):
        row |= dict(zip(TIERS, (found.tiers.gpu, found.tiers.dram), strict=True))
    for name, metric in found.metrics.items():
        if metric is not None:
            row |= {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high}
    return row


def dotted(name: str) -> str:
    """A setting's place in the scenario, ``engine.dtype`` for ``dtype``; any other name as it is."""
    return setting(name) or name


def _leaf(name: str) -> str:
    return dotted(name).rsplit(".", 1)[-1]


def _double(name: str) -> str:
    return dotted(name).replace(".", "__")


def shown(value: Any) -> Any:
    """A value as a table holds it."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def _block(scenario: Scenario, settings: dict[str, Any], grid: dict[str, np.ndarray[Any, Any]]) -> pd.DataFrame:
    """One structural choice over a block of loads."""
    import pandas as pd

    chosen = {name: [shown(v)] * len(grid["batch_size"]) for name, v in settings.items()}
    table = pd.DataFrame({**chosen, **grid})
    try:
        shortest = 1 + scenario.workload.picture_len
        small = {"workload.batch_size": 1, "workload.input_len": shortest, "workload.output_len": 1}
        changed = scenario.with_(**{_double(n): v for n, v in {**settings, **small}.items()})
    except SpecError as error:
        return table.assign(fits=False, problem="; ".join(p.message for p in error.problems))
    parts, load = assemble(changed), seen(changed).workload
    grid = grid | {"input_len": grid["input_len"] + (load.input_len or shortest) - shortest}
    fits, problem, memory = _fits(changed, parts, grid)
    table["fits"], table["problem"] = fits, problem
    for name, values in memory.items():
        table[name] = values
    if not fits.any():
        return table
    size, input_len, output_len = (grid[name][fits] for name in LOAD)
    budget, images = parts.limits.max_num_batched_tokens, load.images.per_request if load.images else 0
    batch = static_batch(parts.steps, size, input_len, output_len, budget, SAMPLES, images)
    for name, columns in metrics(batch).items():
        for suffix, values in zip(("", "_low", "_high"), columns, strict=True):
            column = np.full(len(table), np.nan)
            column[fits] = values
            table[name + suffix] = column
    return table


def _fits(
    scenario: Scenario, parts: Parts, grid: dict[str, np.ndarray[Any, Any]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], dict[str, Any]]:
    encoder = parts.rank.model.has_encoder
    total = grid["input_len"] + grid["output_len"]
    context = grid["output_len"] if encoder else total
    replica = parts.rank.plan.share(grid["batch_size"])
    stage, room = parts.fullest
    each = sequence_kv_bytes(stage, context, parts.limits.block_size)
    if encoder:
        source = sequence_kv_bytes(stage, 0, parts.limits.block_size, 1)
        each = each + source * grid["input_len"]
    needed = replica * each
    limit = scenario.engine.max_model_len or parts.rank.model.max_position_embeddings or np.inf
    problem = np.full(len(needed), "", dtype=object)
    problem[needed > room.kv_available] = "the KV cache does not fit"
    problem[replica > parts.limits.max_num_seqs] = "batch_size exceeds max_num_seqs"
    problem[total > limit] = "input_len + output_len exceeds the model's positions"
    if room.kv_available <= 0:
        problem[:] = "the weights do not fit"
    memory = {
        "weights_bytes": room.weights,
        "kv_available_bytes": room.kv_available,
        "kv_needed_bytes": needed,
    }
    return problem == "", problem, memory
