"""The order in which candidates are measured: in every family the most telling first, families side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.bench.point import Point
from moesim.calibrate.candidates import HOST_TABLES
from moesim.calibrate.design import telling_order
from moesim.calibrate.families import FAMILIES
from moesim.calibrate.family import Family
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import TunedTiles

if TYPE_CHECKING:
    import pandas as pd

SOURCES = {
    ("fused_moe", "bfloat16"): "vllm_fused_moe",
    ("fused_moe", "fp8_block"): "vllm_fp8moe_triton",
    ("gemm", "deep_gemm"): "DeepGemmFp8BlockScaledMMKernel",
    ("gemm", "cutlass"): "CutlassFp8BlockScaledMMKernel",
    ("gemm", "triton"): "TritonFp8BlockScaledMMKernel",
}
"""(table, number format or kernel) -> what `moesim.bench` calls its kernel, where a family asks for one by name."""
_MOST_CHOSEN = 300
"""Chosen by what they tell; the rest of a family follows in random order."""
_BUILDING_S, _SAMPLING_S, _REPLAYS = 0.03, 4e-4, 22
_CPU_BUILDING_S, _CPU_SAMPLING_S, _CPU_SAMPLES, _CPU_FILLED_BYTES_PER_S = 0.1, 0.04, 12, 4e8


def ordered(
    points: Sequence[Point], shares: dict[str, float], gpu: GpuNumbers, tuned: TunedTiles, device: str
) -> list[Point]:
    """Every point once: within a table by what it tells for the seconds it costs, tables by their share of the time."""
    import pandas as pd

    place: list[tuple[float, int, Point]] = []
    for table in dict.fromkeys(p.table for p in points):
        here = [p for p in points if p.table == table]
        rows = pd.DataFrame([dict(p.columns) for p in here])
        rows["kernel_source"] = [_source(p) for p in here]
        order, cost_s = _table_order(table, rows, gpu, tuned, device)
        spent = np.cumsum(cost_s[order]) / shares.get(table, 1.0)
        place += [(float(at), len(place) + i, here[row]) for i, (at, row) in enumerate(zip(spent, order, strict=True))]
    return [point for _, _, point in sorted(place, key=lambda entry: entry[:2])]


def _source(point: Point) -> str:
    kind = point.columns.get("moe_dtype") or point.columns.get("gemm_backend") or ""
    return SOURCES.get((point.table, str(kind)), "")


def _table_order(table: str, rows: pd.DataFrame, gpu: GpuNumbers, tuned: TunedTiles, device: str) -> tuple[Any, Any]:
    """Positions of a table's rows in order, and what each costs to measure. [s]"""
    cost_s = np.full(len(rows), _BUILDING_S if device == "cuda" else _CPU_BUILDING_S)
    queues: list[list[int]] = []
    left = np.ones(len(rows), bool)
    for family in FAMILIES:
        if family.table != table:
            continue
        mine = family.select(rows, gpu)
        if mine.empty:
            continue
        at = mine.index.to_numpy()
        cost_s[at] = _measuring_s(family, mine, gpu, tuned, device)
        chosen = telling_order(family, mine.reset_index(drop=True), gpu, tuned, _MOST_CHOSEN, cost_s[at])
        rest = np.setdiff1d(np.arange(len(mine)), chosen)
        queues.append([*at[chosen], *np.random.default_rng(0).permutation(at[rest])])
        left[at] = False
    # Rows that nothing is fitted to, such as other routings: a queue of their own.
    queues.append(list(np.random.default_rng(0).permutation(np.flatnonzero(left))))
    queues = [queue for queue in queues if queue]
    turns = sorted((i / len(queue), n, int(row)) for n, queue in enumerate(queues) for i, row in enumerate(queue))
    return np.array([row for _, _, row in turns]), cost_s


def _measuring_s(family: Family, rows: pd.DataFrame, gpu: GpuNumbers, tuned: TunedTiles, device: str) -> Any:
    """Seconds to measure each row, from the model's own idea of how long it runs."""
    start = {q.name: q.start for q in family.form.parameters}
    each = np.broadcast_to(np.asarray(family.evaluator(rows, gpu, tuned)(start).seconds, float), len(rows))
    if device == "cuda" and family.table not in HOST_TABLES:
        return _BUILDING_S + _REPLAYS * np.maximum(each, _SAMPLING_S)
    filled = np.broadcast_to(np.asarray(family.operation(rows).hbm_bytes, float), len(rows))
    samples = _CPU_SAMPLES * np.maximum(each, _CPU_SAMPLING_S)
    return _CPU_BUILDING_S + samples + np.maximum(filled, 2e8) / _CPU_FILLED_BYTES_PER_S
