"""Fused-experts tables: which rows a family fits, which it only predicts, and each row's tiles and loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.calibrate.family import Evaluate, Family
from moesim.calibrate.groups import by
from moesim.cost.forms import fused_moe
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import Tile, TunedTiles, tile_for
from moesim.experts.placement import group_loads
from moesim.inputs.scenario import Balanced, PowerLaw
from moesim.ops import FusedExperts

if TYPE_CHECKING:
    import pandas as pd

UNGATED_SHAPES = {(1024, 2688, 22, 512), (2048, 5120, 22, 512), (2688, 1856, 6, 128)}
"""(hidden, width, top-k, experts) of models with squared-ReLU experts (two matrices)."""


class _TableLoads:
    """Loads of table rows: each row has its own experts, top-k and routing."""

    def __init__(self, table: pd.DataFrame):
        self.shapes = list(
            zip(*(table[c] for c in ("num_experts", "topk", "moe_ep_size", "distribution", "num_tokens")), strict=True)
        )
        self.cache: dict[Any, Any] = {}

    def _of(self, experts: int, k: int, ranks: int, distribution: str) -> Any:
        """The tables put the heaviest rank's experts on the one GPU that was measured."""
        key = (experts, k, ranks, distribution)
        if key not in self.cache:
            kind, _, alpha = distribution.rpartition("_")
            routing = PowerLaw(kind="power_law", alpha=float(alpha)) if kind else Balanced(kind="balanced")
            self.cache[key] = group_loads(routing, experts, k, ranks, "linear", 0)
        return self.cache[key]

    def rows(self, tokens: Any) -> Any:
        return np.array([float(self._of(*shape).rows(n)) for *shape, n in self.shapes])

    def distinct(self, tokens: Any) -> Any:
        return np.array([float(self._of(*shape).distinct(n)) for *shape, n in self.shapes])

    def blocks(self, tokens: Any, block: Any) -> Any:
        sizes = np.broadcast_to(block, len(self.shapes))
        return np.array(
            [float(self._of(*shape).blocks(n, int(b))) for (*shape, n), b in zip(self.shapes, sizes, strict=True)]
        )

    def spread(self, tokens: Any) -> Any:
        return np.array([float(self._of(*shape).spread(n)) for *shape, n in self.shapes])


class _FixedLoads:
    def __init__(self, rows: Any, distinct: Any, blocks: Any):
        self._rows, self._distinct, self._blocks = rows, distinct, blocks

    def rows(self, tokens: Any) -> Any:
        return self._rows

    def distinct(self, tokens: Any) -> Any:
        return self._distinct

    def blocks(self, tokens: Any, block: Any) -> Any:
        return self._blocks


def _evaluator(family: Family, table: pd.DataFrame, gpu: GpuNumbers, tuned: TunedTiles) -> Evaluate:
    """Tiles and loads are worked out once, for they do not depend on the parameters."""
    op = family.operation(table)
    tile = _table_tiles(family.kernel, table, op.weights, tuned)
    op = _with_cached_loads(op, tile)
    return lambda p: fused_moe.seconds(p, op, gpu, tile)


def _with_cached_loads(op: FusedExperts, tile: Tile) -> FusedExperts:
    fixed = _FixedLoads(op.rows, op.loads.distinct(op.tokens), op.loads.blocks(op.tokens, tile.block_m))
    return replace(op, loads=fixed)


def _table_tiles(kernel: str, table: pd.DataFrame, weights: str, tuned: TunedTiles) -> Tile:
    """The tile of every row: rows of one shape are asked for together."""
    columns = np.empty((len(table), 6))
    widths = (table["inter_size"] // table["moe_tp_size"]).to_numpy()
    experts, k = (table["num_experts"] // table["moe_ep_size"]).to_numpy(), table["topk"].to_numpy()
    tokens = table["num_tokens"].to_numpy().astype(float)
    keys = np.stack([experts, k, widths])
    for e, top_k, w in np.unique(keys, axis=1).T:
        mask = (keys == np.array([[e], [top_k], [w]])).all(0)
        shape = FusedExperts(tokens[mask], 0, int(w), int(e), int(top_k), None, weights=weights)
        tile = tile_for(kernel, weights, shape, tuned)
        columns[mask] = np.stack([np.broadcast_to(x, mask.sum()) for x in tile], axis=1)
    return Tile(*columns.T)


_LOCAL_ONLY = {"triton_kernels", "flashinfer_cutlass"}
"""Kernels that sort out a rank's own rows before anything else."""


def _experts(weights: str, kernel: str) -> Callable[[pd.DataFrame], FusedExperts]:
    def operation(table: pd.DataFrame) -> FusedExperts:
        shape = table[["hidden_size", "inter_size", "topk", "num_experts"]]
        gated = [tuple(int(x) for x in row) not in UNGATED_SHAPES for row in shape.to_numpy()]
        return FusedExperts(
            tokens=table["num_tokens"].to_numpy(float),
            hidden=table["hidden_size"].to_numpy(float),
            width=(table["inter_size"] // table["moe_tp_size"]).to_numpy(float),
            num_experts=(table["num_experts"] // table["moe_ep_size"]).to_numpy(float),
            top_k=table["topk"].to_numpy(float),
            loads=_TableLoads(table),
            gated=np.array(gated, float),
            weights=weights,
            all_experts=table["num_experts"].to_numpy(float) if (table["moe_ep_size"] > 1).any() else None,
            local_only=kernel in _LOCAL_ONLY,
        )

    return operation


moe_shape = by("hidden_size", "inter_size", "topk", "num_experts")
"""hidden/width/top-k/experts of each row, the unit that is left out whole."""


def _moe_rows(
    dtype: str, kernel: str, distribution: str = "balanced", parallel: bool = False
) -> Callable[[pd.DataFrame, GpuNumbers], pd.DataFrame]:
    def select(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
        kept = (table["moe_dtype"] == dtype) & table["kernel_source"].str.contains(kernel, regex=True)
        kept = kept & ((table["moe_ep_size"] > 1) if parallel else (table["moe_ep_size"] == 1))
        return table[kept & table["distribution"].str.startswith(distribution)]

    return select


def never_fitted(family: Family, distribution: str, parallel: bool) -> Family:
    """A fused-experts family with the rows that are predicted only: power-law, or of expert-parallel ranks."""
    return replace(family, select=_moe_rows(family.extra["dtype"], family.extra["source"], distribution, parallel))


def _fused_moe(name: str, dtype: str, source: str, weights: str, kernel: str, arithmetic: str, **more: Any) -> Family:
    by_shape = {"group": moe_shape, "scheme": "one model shape at a time"}
    return Family(
        name=f"fused_moe/{name}",
        form=fused_moe.FORM,
        table="fused_moe",
        select=_moe_rows(dtype, source),
        operation=_experts(weights, kernel),
        arithmetic=arithmetic,
        kernel=kernel,
        extra={"dtype": dtype, "source": source},
        price=_evaluator,
        **(by_shape | more),
    )


_BY_WIDTH = {
    "group": lambda t: t["moe_tp_size"].astype(str),
    "scheme": "one width per rank at a time (the table holds one model shape)",
}

EXPERT_FAMILIES: tuple[Family, ...] = (
    _fused_moe("bfloat16", "bfloat16", "unquantized|^vllm_fused_moe$", "bfloat16", "triton", "bfloat16"),
    _fused_moe("fp8_block", "fp8_block", "vllm_fp8moe_(?:triton|flashinfer_trtllm)", "fp8_block", "triton", "fp8"),
    _fused_moe("int4", "int4_wo", "marlin", "int4", "marlin", "bfloat16", **_BY_WIDTH),
    _fused_moe("mxfp4", "w4a16_mxfp4", "gptossmxfp4moe", "mxfp4", "triton_kernels", "bfloat16"),
    _fused_moe("mxfp4_marlin", "w4a16_mxfp4", "w4a4mxfp4moe_marlin", "mxfp4", "marlin", "bfloat16", **_BY_WIDTH),
    _fused_moe(
        "fp8_flashinfer",
        "fp8",
        "flashinfer_cutlass",
        "fp8",
        "flashinfer_cutlass",
        "fp8",
        note="weights stream at a quarter of the Triton kernel's rate because row blocks of 128 are loaded whole "
        "however few tokens an expert has (t_padding); reported, never used in a prediction",
    ),
)
