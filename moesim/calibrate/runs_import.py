"""Published runs -> run sets: rows of aiconfigurator's table of served models, one a configuration."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.errors import CalibrationError, SpecError
from moesim.files.archive import Archive
from moesim.files.writing import write_whole
from moesim.inputs.model_of import model_of
from moesim.inputs.run_file import FOLDER, RunFile, load_about, run_sets

if TYPE_CHECKING:
    import pandas as pd

_SAMPLE = "aiconfigurator_core/systems/silicon_sample.csv"
_CAPPED_CONCURRENCY = 512
"""Rows of this concurrency were capped by the engine."""
_SETTINGS = ["tensor_parallel_size", "data_parallel_size", "enable_expert_parallel", "input_len", "output_len",
             "max_concurrency", "max_num_seqs"]  # fmt: skip


def import_runs(wheel: Path, folder: Path = FOLDER) -> list[Path]:
    """Fill every run set that names its rows of the published table (``select``)."""
    import pandas as pd

    with Archive(wheel) as archive:
        try:
            table = pd.read_csv(io.StringIO(archive.text(_SAMPLE)))
        except ValueError as error:
            raise CalibrationError(f"'{wheel}' holds no table of runs: {error}") from None
    written = []
    for path in run_sets(folder):
        about = load_about(path)
        if about.select:
            tidy, read = tidied(table, about)
            head = (
                f"# {about.title}. From {wheel.name.split('-cp')[0]} (Apache-2.0, NVIDIA), {_SAMPLE}:\n"
                f"# {len(table)} rows read, {read} selected, {len(tidy)} configurations (medians). Milliseconds.\n"
            )
            write_whole(path.with_suffix(".csv"), head + tidy.to_csv(index=False))
            written.append(path.with_suffix(".csv"))
    return written


def tidied(table: pd.DataFrame, about: RunFile) -> tuple[pd.DataFrame, int]:
    """(a row a configuration, rows they come from) of the published table.

    The table counts concurrency per attention replica. Widths of data parallelism follow from the MoE's.
    """
    rows = table
    for column, value in about.select.items():
        rows = rows[rows[column].isna() if value is None else rows[column] == value]
    rows = rows[rows["batch_size"] != _CAPPED_CONCURRENCY]
    tp = rows["tp_size"].astype(int)
    experts = (rows["moe_tp_size"] * rows["moe_ep_size"]).fillna(1).clip(lower=1).astype(int)
    dense = model_of(about.scenario).moe is None
    dp = tp * 0 + 1 if dense else np.maximum(experts // tp, 1)
    statistic = about.statistic
    tidy = rows.assign(
        tensor_parallel_size=tp,
        data_parallel_size=dp,
        enable_expert_parallel=(rows["moe_ep_size"].fillna(1) > 1) & (not dense),
        input_len=rows["isl"].astype(int),
        output_len=rows["osl"].astype(int),
        max_concurrency=rows["batch_size"].astype(int) * dp,
    )
    tidy["max_num_seqs"] = rows["batch_size"].astype(int) if about.seats_are_concurrency else 0
    named = {"silicon_ttft_ms": f"{statistic}_ttft_ms", "silicon_tpot_ms": f"{statistic}_tpot_ms"}
    grouped = tidy.groupby(_SETTINGS, as_index=False)[list(named)].median().rename(columns=named)
    for i, row in grouped.iterrows():
        if _refused(about, row):
            grouped.loc[i, "enable_expert_parallel"] = True
    constant = [c for c, plain in (("data_parallel_size", 1), ("enable_expert_parallel", False), ("max_num_seqs", 0))
                if (grouped[c] == plain).all()]  # fmt: skip
    return grouped.drop(columns=constant), len(rows)


def _refused(about: RunFile, row: Any) -> bool:
    """Whether the engine would not start this plan without expert parallelism."""
    plan = {name: int(row[name]) for name in ("tensor_parallel_size", "data_parallel_size")}
    if row["enable_expert_parallel"] or max(plan.values()) == 1:
        return False
    try:
        about.scenario.with_(**plan, enable_expert_parallel=False)
    except SpecError as error:
        return any("block-scaled" in problem.message for problem in error.problems)
    return False
