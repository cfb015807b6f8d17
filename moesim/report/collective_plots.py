"""Time against size, measured and predicted, one picture a collective: what docs/collectives/ shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.calibrate.collective_rows import across_all_nodes, deepep_shape
from moesim.calibrate.dataset import read_table
from moesim.calibrate.families import FAMILIES
from moesim.calibrate.family import Family
from moesim.cost.fit_file import load_fits
from moesim.cost.gpu import GpuNumbers
from moesim.hardware.catalogue import load_hardware
from moesim.ops.collective import BUS_FACTOR
from moesim.report.accuracy_parallel import GPUS, KERNEL_STACK, NODES_STACK, STACK, deepep_families
from moesim.report.figure import pyplot, save

if TYPE_CHECKING:
    import pandas as pd

GPU = GPUS[0]
_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


def draw_collectives(folder: Path) -> list[Path]:
    """Every picture; returns the files written."""
    by_name = {family.name: family for family in FAMILIES}
    written = []
    for kind in BUS_FACTOR:
        written.append(_draw(by_name[f"nccl/{kind}"], STACK, folder, "message_bytes", "num_gpus", "GPUs", _all))
    for name in ("custom_all_reduce", "symmetric_memory_all_reduce"):
        written.append(_draw(by_name[name], STACK, folder, "message_bytes", "num_gpus", "GPUs", _all))
    for name in deepep_families():
        written.append(_draw(by_name[name], KERNEL_STACK, folder, "num_tokens", "shape", "", _some_shapes))
        across = by_name[name.replace("/", "_nodes/")]
        written.append(_draw(across_all_nodes(across), NODES_STACK, folder, "num_tokens", "nodes", "nodes", _usual_sms))
    return written


def _all(rows: pd.DataFrame) -> pd.DataFrame:
    return rows


def _some_shapes(rows: pd.DataFrame) -> pd.DataFrame:
    """Four shapes, from the smallest to the largest message a token, at 20 SMs where SMs are chosen."""
    rows = rows.assign(shape=deepep_shape(rows))
    kept = rows["shape"].isin(["2048/8/128", "4096/2/8", "4096/8/256", "7168/8/256"])
    return rows[kept & rows["sms"].isin([0, 20])]


def _usual_sms(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["sms"].isin([0, 20])]


def _draw(
    family: Family, stack: str, folder: Path, x: str, series: str, unit: str, choose: Callable[[Any], Any]
) -> Path:
    plt = pyplot()
    numbers = GpuNumbers.of(load_hardware(GPU))
    rows = choose(family.select(read_table(GPU, stack, family.table), numbers))
    p = load_fits(f"{GPU}/{stack}").family(family.name).parameters
    figure, axes = plt.subplots(figsize=(6.4, 3.8), dpi=110)
    for colour, (value, group) in zip(_COLOURS, rows.sort_values(x).groupby(series), strict=False):
        axes.scatter(group[x], group["seconds"] * 1e6, s=12, color=colour, linewidths=0)
        line = group.drop_duplicates(x)
        predicted = np.asarray(family.form.seconds(p, family.operation(line), numbers).seconds)
        axes.plot(line[x], predicted * 1e6, color=colour, linewidth=1.2, label=f"{value} {unit}".strip())
    label = "message [B]" if x == "message_bytes" else "tokens of each rank"
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="time [us]")
    axes.set_title(f"{family.name}, H100, {stack}: points measured, lines fitted", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    target = folder / f"time-{family.name.replace('/', '-')}.png"
    return save(figure, target, metadata={"Software": None})
