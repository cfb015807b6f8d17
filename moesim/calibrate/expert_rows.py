"""Fused-experts tables: which rows a family fits, which it only predicts, and each row's tiles and loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.calibrate.family import Evaluate, Family
from moesim.calibrate.groups import by
from moesim.cost.forms import fused_moe
from moesim.cost.forms.form import Form
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import Tile, TunedTiles, tile_for
from moesim.experts.placement import group_loads
from moesim.inputs.routing import routing_named
from moesim.ops import FusedExperts

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = (8192, 2048, 10, 512)
"""The model shape no fit sees: judged as it stands."""
_GROUP_LIMITED = (7168, 2048, 8, 256)
"""DeepSeek-V3 picks of 4 of 8 groups: the tables' even pattern then sends every token to the same half of its experts,
so its balanced rows are of 128 experts and not of 256."""
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
            self.cache[key] = group_loads(routing_named(distribution), experts, k, ranks, "linear", 0)
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
    return lambda p: family.form.seconds(p, op, gpu, tile)


def _with_cached_loads(op: FusedExperts, tile: Tile) -> FusedExperts:
    fixed = _FixedLoads(op.rows, op.distinct, op.blocks(tile.block_m))
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


_LOCAL_ONLY = {"triton_kernels", "flashinfer_cutlass", "flashinfer_trtllm"}
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


def _of_shape(table: pd.DataFrame, shape: tuple[int, int, int, int]) -> pd.Series:
    hidden, width, top_k, experts = shape
    of_layer = (table["hidden_size"] == hidden) & (table["inter_size"] == width)
    return of_layer & (table["topk"] == top_k) & (table["num_experts"] == experts)


def _moe_rows(
    family: Mapping[str, Any], distribution: str = "balanced", parallel: bool = False, held_out: bool = False
) -> Callable[[pd.DataFrame, GpuNumbers], pd.DataFrame]:
    """Rows of a dtype and kernel: of ranks with all experts or a part of them, of a routing, of the shape held out."""

    def select(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
        kept = (table["moe_dtype"] == family["dtype"]) & table["kernel_source"].str.contains(family["source"])
        kept = kept & ((table["moe_ep_size"] > 1) if parallel else (table["moe_ep_size"] == 1))
        kept = kept & (_of_shape(table, HELD_OUT) == held_out)
        if family["dtype"] == "fp8_block":
            kept = kept & ~(_of_shape(table, _GROUP_LIMITED) & (table["distribution"] == "balanced"))
        return table[kept & table["distribution"].str.startswith(distribution)]

    return select


def never_fitted(family: Family, distribution: str, parallel: bool, held_out: bool = False) -> Family:
    """A fused-experts family with the rows that are predicted only: power-law, or of expert-parallel ranks."""
    return replace(family, select=_moe_rows(family.extra, distribution, parallel, held_out))


def _fused_moe(
    name: str, dtype: str, source: str, weights: str, kernel: str, arithmetic: str, form: Form = fused_moe.FORM,
    parallel: bool = False, **more: Any,
) -> Family:  # fmt: skip
    by_shape = {"group": moe_shape, "scheme": "one model shape at a time"}
    rows = {"dtype": dtype, "source": source, "parallel": parallel, "relatives": more.pop("relatives", {})}
    return Family(
        name=f"fused_moe/{name}",
        form=form,
        table="fused_moe",
        select=_moe_rows(rows, parallel=parallel),
        operation=_experts(weights, kernel),
        arithmetic=arithmetic,
        kernel=kernel,
        extra=rows,
        price=_evaluator,
        **(by_shape | more),
    )


_BY_WIDTH = {
    "group": lambda t: t["moe_tp_size"].astype(str),
    "scheme": "one width per rank at a time (the table holds one model shape)",
}


def _shape_or_width(table: pd.DataFrame) -> pd.Series:
    shapes = moe_shape(table)
    return shapes if shapes.nunique() > 1 else table["moe_tp_size"].astype(str)


EXPERT_FAMILIES: tuple[Family, ...] = (
    _fused_moe("bfloat16", "bfloat16", "_triton_|^vllm_fused_moe$", "bfloat16", "triton", "bfloat16"),
    _fused_moe("bfloat16_trtllm", "bfloat16", "trtllm", "bfloat16", "flashinfer_trtllm", "bfloat16"),
    _fused_moe("bfloat16_cutlass", "bfloat16", "cutlass", "bfloat16", "flashinfer_cutlass", "bfloat16"),
    _fused_moe("fp8_block", "fp8_block", "vllm_fp8moe_triton", "fp8_block", "triton", "fp8"),
    _fused_moe("fp8_block_trtllm", "fp8_block", "trtllm", "fp8_block", "flashinfer_trtllm", "fp8"),
    _fused_moe(
        "fp8_block_cutlass",
        "fp8_block",
        "cutlass",
        "fp8_block",
        "flashinfer_cutlass",
        "fp8",
        form=fused_moe.CUTLASS,
        parallel=True,
        note="measured on expert-parallel ranks alone, as the engine runs it",
    ),
    _fused_moe("nvfp4_trtllm", "nvfp4", "trtllm", "nvfp4", "flashinfer_trtllm", "nvfp4"),
    _fused_moe("nvfp4_cutlass", "nvfp4", "cutlass", "nvfp4", "flashinfer_cutlass", "nvfp4", group=_shape_or_width,
               scheme="one model shape at a time, or one width of the only shape"),
    _fused_moe("int4", "int4_wo", "marlin", "int4", "marlin", "bfloat16", **_BY_WIDTH,
               relatives={"mxfp4": ("fused_moe/mxfp4_marlin", "fused_moe/mxfp4_marlin_situ")}),
    _fused_moe("mxfp4", "w4a16_mxfp4", "gptossmxfp4moe_triton", "mxfp4", "triton_kernels", "bfloat16"),
    _fused_moe("mxfp4_trtllm", "w4a16_mxfp4", "gptossmxfp4moe_flashinfer_trtllm", "mxfp4", "flashinfer_trtllm",
               "bfloat16"),
    _fused_moe("mxfp4_mxfp8_trtllm", "w4a8_mxfp4_mxfp8", "trtllm", "mxfp4", "flashinfer_trtllm", "fp8"),
    _fused_moe("mxfp4_marlin", "w4a16_mxfp4", "gptossmxfp4moe_marlin", "mxfp4", "marlin", "bfloat16"),
    _fused_moe("mxfp4_marlin_situ", "w4a16_mxfp4", "w4a4mxfp4moe_marlin", "mxfp4", "marlin", "bfloat16", **_BY_WIDTH),
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
)  # fmt: skip
