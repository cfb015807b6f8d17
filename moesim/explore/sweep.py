"""What-if analysis: the same scenario over a grid of settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.assembly import Parts, assemble
from moesim.errors import DoesNotFit, SpecError
from moesim.inputs.loading import setting
from moesim.inputs.model_of import seen
from moesim.inputs.scenario import Scenario, dotted_fields
from moesim.memory import fullest_stage, sequence_kv_bytes
from moesim.metrics import STATIC_METRICS
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
_POINTS_AT_ONCE = 20_000


def sweep(
    scenario: Scenario, axes: Mapping[str, Iterable[Any]], progress: Callable[[int, int], None] | None = None
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

    Returns
    -------
    DataFrame
        Static batches: the settings, ``fits``, ``problem`` (why a row could not be predicted, else empty), memory in
        bytes, and each metric with ``_low`` and ``_high`` (90 %). Metrics are NaN where a row does not fit. Under
        load (clients or a request rate): the steady state's means, and ``limited_by``, what holds it back. Offloaded:
        peak bytes on the GPU and in main memory.

    Raises
    ------
    SpecError
        A setting that does not exist, or no values for one.
    """
    import pandas as pd

    values = {name: _options(v) for name, v in axes.items()}
    if len({_dotted(n) for n in values}) < len(values):
        raise SpecError(f"the axes {', '.join(values)} name one setting twice; keep one")
    for name, options in values.items():
        if setting(name) is None:
            raise SpecError(f"'{name}' is not a setting of a scenario; known: {', '.join(sorted(dotted_fields()))}")
        if not options:
            raise SpecError(f"'{name}' has no values to sweep over")
    if scenario.offload is not None or any(_dotted(n).split(".")[0] in {"offload", "host"} for n in values):
        return _one_by_one(scenario, values, progress, predict)
    if scenario.workload.arrivals != "batch" or {"max_concurrency", "request_rate"} & {_leaf(n) for n in values}:
        return _under_load(scenario, values, progress)
    load_axes = {_leaf(n): n for n in values if _leaf(n) in LOAD}
    structural = [n for n in values if n not in load_axes.values()]
    total = int(np.prod([len(v) for v in values.values()])) if values else 1
    frames, done = [], 0
    for chosen in itertools.product(*(values[n] for n in structural)):
        settings = dict(zip(structural, chosen, strict=True))
        grid = _load_grid(scenario, {leaf: values[name] for leaf, name in load_axes.items()})
        for block in _blocks(grid):
            frames.append(_block(scenario, settings, block))
            done += len(block["batch_size"])
            if progress:
                progress(done, total)
    return pd.concat(frames, ignore_index=True)


def _under_load(
    scenario: Scenario, values: dict[str, list[Any]], progress: Callable[[int, int], None] | None
) -> pd.DataFrame:
    """The steady state of every combination."""
    load = scenario.workload
    if load.trace_file or load.lengths.kind == "file" or scenario.disaggregation is not None:
        raise SpecError("a sweep under load is of steady states, which traces, files and engines apart have none of")
    if "batch_size" in {_leaf(name) for name in values}:
        raise SpecError("batch_size is a static batch; sweep it without max_concurrency and request_rate")
    return _one_by_one(scenario, values, progress, predict_steady)


def _one_by_one(
    scenario: Scenario,
    values: dict[str, list[Any]],
    progress: Callable[[int, int], None] | None,
    predicted: Callable[[Scenario], Prediction],
) -> pd.DataFrame:
    """Every combination predicted on its own; one row each."""
    import pandas as pd

    total, rows = int(np.prod([len(v) for v in values.values()])), []
    for done, chosen in enumerate(itertools.product(*values.values()), 1):
        settings = dict(zip(values, chosen, strict=True))
        row: dict[str, Any] = {name: _shown(value) for name, value in settings.items()}
        try:
            found = predicted(scenario.with_(**{_double(n): v for n, v in settings.items()}))
        except (SpecError, DoesNotFit) as error:
            reasons = [p.message for p in error.problems] if isinstance(error, SpecError) else [str(error)]
            rows.append(row | {"fits": False, "problem": "; ".join(reasons)})
        else:
            row |= {"fits": True, "problem": ""}
            if isinstance(found, Steady):
                row["limited_by"] = found.state.limited_by
            if isinstance(found, Offloaded):
                row |= {"gpu_memory_bytes": found.tiers.gpu, "main_memory_bytes": found.tiers.dram}
            for name, metric in found.metrics.items():
                if metric is not None:
                    row |= {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high}
            rows.append(row)
        if progress:
            progress(done, total)
    return pd.DataFrame(rows)


def _options(values: Any) -> list[Any]:
    """An axis as a list; a bare value, a string above all, is one option."""
    if isinstance(values, (str, dict)) or not isinstance(values, Iterable):
        return [values]
    return list(values)


def _dotted(name: str) -> str:
    """A setting's place in the scenario, ``engine.dtype`` for ``dtype``; any other name as it is."""
    return setting(name) or name


def _leaf(name: str) -> str:
    return _dotted(name).rsplit(".", 1)[-1]


def _load_grid(scenario: Scenario, axes: dict[str, list[Any]]) -> dict[str, np.ndarray[Any, Any]]:
    load = scenario.workload
    given = {"batch_size": load.size, "input_len": load.input_len, "output_len": load.output_len}
    options = [axes.get(name, [given[name]]) for name in LOAD]
    for name, choices in zip(LOAD, options, strict=True):
        wrong = [c for c in choices if isinstance(c, bool) or not isinstance(c, (int, np.integer)) or c < 1]
        if wrong:
            raise SpecError(f"'{name}' is {wrong[0]!r} in a sweep; whole numbers from 1 are accepted")
    mesh = np.meshgrid(*(np.asarray(c, np.int64) for c in options), indexing="ij")
    return {name: m.ravel() for name, m in zip(LOAD, mesh, strict=True)}


def _blocks(grid: dict[str, np.ndarray[Any, Any]]) -> Iterable[dict[str, np.ndarray[Any, Any]]]:
    for start in range(0, len(grid["batch_size"]), _POINTS_AT_ONCE):
        yield {name: v[start : start + _POINTS_AT_ONCE] for name, v in grid.items()}


def _block(scenario: Scenario, settings: dict[str, Any], grid: dict[str, np.ndarray[Any, Any]]) -> pd.DataFrame:
    """One structural choice over a block of loads."""
    import pandas as pd

    shown = {name: [_shown(v)] * len(grid["batch_size"]) for name, v in settings.items()}
    table = pd.DataFrame({**shown, **grid})
    try:
        shortest = 1 + scenario.workload.picture_len
        small = {"workload.batch_size": 1, "workload.input_len": shortest, "workload.output_len": 1}
        changed = scenario.with_(**{_double(n): v for n, v in {**settings, **small}.items()})
    except SpecError as error:
        return _with_every_column(table.assign(fits=False, problem="; ".join(p.message for p in error.problems)))
    parts, load = assemble(changed), seen(changed).workload
    grid = grid | {"input_len": grid["input_len"] + (load.input_len or shortest) - shortest}
    fits, problem, memory = _fits(changed, parts, grid)
    table["fits"], table["problem"] = fits, problem
    for name, values in memory.items():
        table[name] = values
    if not fits.any():
        return _with_every_column(table)
    size, input_len, output_len = (grid[name][fits] for name in LOAD)
    budget, images = parts.limits.max_num_batched_tokens, load.images.per_request if load.images else 0
    batch = static_batch(parts.steps, size, input_len, output_len, budget, SAMPLES, images)
    for name, columns in metrics(batch).items():
        for suffix, values in zip(("", "_low", "_high"), columns, strict=True):
            column = np.full(len(table), np.nan)
            column[fits] = values
            table[name + suffix] = column
    return table


def _with_every_column(table: pd.DataFrame) -> pd.DataFrame:
    """Columns do not depend on what fits: NaN where there is nothing to say."""
    names = [*MEMORY, *(name + suffix for name in STATIC_METRICS for suffix in ("", "_low", "_high"))]
    return table.reindex(columns=[*table.columns, *(n for n in names if n not in table.columns)])


def _double(name: str) -> str:
    return _dotted(name).replace(".", "__")


def _shown(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def _fits(
    scenario: Scenario, parts: Parts, grid: dict[str, np.ndarray[Any, Any]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], dict[str, Any]]:
    encoder = parts.rank.model.has_encoder
    total = grid["input_len"] + grid["output_len"]
    context = grid["output_len"] if encoder else total
    replica = parts.rank.plan.share(grid["batch_size"])
    stage, room = fullest_stage(parts.rank, parts.hardware, parts.limits)
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
