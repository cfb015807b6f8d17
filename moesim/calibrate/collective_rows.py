"""Tables of collectives and DeepEP: which rows a family fits, and each row as an operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from moesim.calibrate.family import Family
from moesim.calibrate.groups import by
from moesim.cost.forms import collective, deepep
from moesim.cost.forms.form import Form
from moesim.cost.gpu import GpuNumbers
from moesim.engines.engine import load_engine
from moesim.ops import Collective, ExpertAllToAll
from moesim.ops.collective import BUS_FACTOR

if TYPE_CHECKING:
    import pandas as pd


def _message(kind: str) -> Callable[[pd.DataFrame], Collective]:
    return lambda t: Collective(t["message_bytes"].to_numpy(float), t["num_gpus"].to_numpy(float), kind)


def _nccl_rows(kind: str) -> Callable[[pd.DataFrame, GpuNumbers], pd.DataFrame]:
    """Both number formats where bytes only move; bfloat16-sized elements where they are added up."""

    def select(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
        moves = kind in {"all_gather", "alltoall"}
        return table[(table["collective"] == kind) & (moves | (table["nccl_dtype"] == "half"))]

    return select


def _expert_all_to_all(backend: str, phase: str) -> Callable[[pd.DataFrame], ExpertAllToAll]:
    """DeepEP's own benchmark lets a token reach four nodes at most (tests/test_internode.py)."""

    def operation(table: pd.DataFrame) -> ExpertAllToAll:
        columns = ("num_tokens", "hidden_size", "topk", "num_experts", "ep_size", "nodes", "bytes_per_element", "sms")
        values = [table[c].to_numpy(float) for c in columns]
        nodes = values[5]
        limited = backend == "deepep_high_throughput"
        n_group, topk_group = (nodes, np.minimum(nodes, 4.0)) if limited else (1.0, 1.0)
        return ExpertAllToAll(backend, phase, *values, n_group=n_group, topk_group=topk_group)

    return operation


deepep_shape = by("hidden_size", "topk", "num_experts")
"""hidden/top-k/experts of each row, the unit that is left out whole."""


def _deepep(backend: str, form: Form, phase: str, across_nodes: bool) -> Family:
    def select(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
        rows = table[table["phase"] == phase]
        if not across_nodes:
            return rows[rows["nodes"] == 1]
        if rows["nodes"].nunique() == 1:
            return rows[:0]
        return rows[rows["nodes"] <= 4] if backend == "deepep_high_throughput" else rows

    suffix, scheme, group = ("_nodes", "one node count at a time", _node_count) if across_nodes else (
        "", "one (hidden, top-k, experts) at a time", deepep_shape)  # fmt: skip
    note = _EIGHT_NODES if across_nodes and backend == "deepep_high_throughput" else ""
    return Family(f"{backend}{suffix}/{phase}", form, backend, select, _expert_all_to_all(backend, phase), group,
                  scheme, weights_for_l2_rule=False, note=note)  # fmt: skip


def _notify_rows(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
    """Short calls between nodes: in long ones ranks wait here for each other's transfers."""
    if "notify_seconds" not in table:
        return table[:0]
    rows = table[(table["nodes"] > 1) & (table["num_tokens"] <= _SHORT_CALL)]
    return rows.assign(seconds=rows["notify_seconds"])


_SHORT_CALL = 64
_EIGHT_NODES = (
    "fitted up to 4 nodes; at 8 this table runs at 15 GB/s a GPU whatever the SMs, where low latency on the same nodes "
    "keeps 44: that fabric's congestion, which no constant here stands for"
)


def across_all_nodes(family: Family) -> Family:
    """A DeepEP family between nodes with every row, those no fit uses too."""
    phase = family.name.rpartition("/")[2]
    return replace(family, select=lambda table, gpu: table[table["phase"] == phase])


def _node_count(table: pd.DataFrame) -> pd.Series:
    return table["nodes"].astype(str)


def _all_reduce_rows(kernel: str) -> Callable[[pd.DataFrame, GpuNumbers], pd.DataFrame]:
    """Rows of vLLM's all-reduce in a CUDA graph that its rule gives to ``kernel``."""

    def select(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
        rule, kept = load_engine().file.all_reduce, table["backend"] == "vllm_graph"
        for ranks in table["num_gpus"].unique():
            here = table["num_gpus"] == ranks
            chosen = rule.kernels(gpu.compute_capability, int(ranks), table["message_bytes"].to_numpy())
            kept = kept & (~here | chosen.get(kernel, False))
        return table[kept]

    return select


def _size_fold(table: pd.DataFrame) -> pd.Series:
    return table["message_bytes"].astype(str)


COLLECTIVE_FAMILIES: tuple[Family, ...] = (
    *(
        Family(f"nccl/{kind}", collective.NCCL, "nccl",
               _nccl_rows(kind), _message(kind), _size_fold, "message sizes, 5 folds", folds=5,
               weights_for_l2_rule=False)
        for kind in BUS_FACTOR
    ),
    Family("custom_all_reduce", collective.CUSTOM, "custom_all_reduce", _all_reduce_rows("custom"),
           _message("all_reduce"), _size_fold, "message sizes, 5 folds", folds=5, weights_for_l2_rule=False),
    Family("symmetric_memory_all_reduce", collective.SYMMETRIC, "custom_all_reduce",
           _all_reduce_rows("symmetric_memory"), _message("all_reduce"), _size_fold, "message sizes, 5 folds",
           folds=5, weights_for_l2_rule=False),
    *(
        _deepep(backend, form, phase, across_nodes)
        for backend, form in (("deepep_low_latency", deepep.LOW_LATENCY),
                              ("deepep_high_throughput", deepep.HIGH_THROUGHPUT))
        for across_nodes in (False, True)
        for phase in ("dispatch", "combine")
    ),
    Family("deepep_notify", deepep.NOTIFY, "deepep_high_throughput", _notify_rows,
           _expert_all_to_all("deepep_high_throughput", "dispatch"), _node_count, "one node count at a time",
           weights_for_l2_rule=False),
)  # fmt: skip
