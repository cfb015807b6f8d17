"""Which rows of which table belong to which kernel family, and how each becomes an operation.

A family's name is the key under which its fit is stored: ``fused_moe/bfloat16``, ``gemm/fp8``, ... The rows
fitted, the rows held out together, and the rows set aside by a physical rule are decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.cost.forms import attention, collective, deepep, elementwise, fused_moe, gemm, mla
from moesim.cost.forms.form import Form, Timing
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import Tile, TunedTiles, tile_for
from moesim.ops import Attention, Collective, Elementwise, ExpertAllToAll, FusedExperts, Gemm, MlaModule
from moesim.ops.attention import Group
from moesim.ops.collective import BUS_FACTOR
from moesim.placement import group_loads
from moesim.spec.engine_file import load_engine
from moesim.spec.scenario import Balanced, PowerLaw

if TYPE_CHECKING:
    import pandas as pd

UNGATED_SHAPES = {(1024, 2688, 22, 512), (2048, 5120, 22, 512), (2688, 1856, 6, 128)}
"""(hidden, width, top-k, experts) of models with squared-ReLU experts (two matrices)."""

Evaluate = Callable[[Mapping[str, float]], Timing]


@dataclass(frozen=True)
class Family:
    """A kernel family: its form, its rows, and how rows are held out."""

    name: str
    form: Form
    table: str
    select: Callable[[pd.DataFrame, GpuNumbers], pd.DataFrame]
    operation: Callable[[pd.DataFrame], Any]
    group: Callable[[pd.DataFrame], pd.Series]
    scheme: str
    """What is left out together, in words."""
    arithmetic: str = "bfloat16"
    folds: int | None = None
    """None leaves out one group at a time."""
    kernel: str = ""
    weights_for_l2_rule: bool = True
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def evaluator(self, table: pd.DataFrame, gpu: GpuNumbers, tuned: TunedTiles) -> Evaluate:
        """A function of the parameters that prices every row of ``table``."""
        op = self.operation(table)
        if self.form.name != "fused_moe":
            return lambda p: self.form.seconds(p, op, gpu)
        tile = _table_tiles(self.kernel, table, op.weights, tuned)
        op = _with_cached_loads(op, tile)
        return lambda p: fused_moe.seconds(p, op, gpu, tile)


# --- fused experts


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


def moe_shape(table: pd.DataFrame) -> pd.Series:
    """hidden/width/top-k/experts of each row, the unit that is left out whole."""
    return table[["hidden_size", "inter_size", "topk", "num_experts"]].astype(str).agg("/".join, axis=1)


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
        **(by_shape | more),
    )


_BY_WIDTH = {
    "group": lambda t: t["moe_tp_size"].astype(str),
    "scheme": "one width per rank at a time (the table holds one model shape)",
}

# --- the others


def _gemm(weights: str) -> Callable[[pd.DataFrame], Gemm]:
    return lambda t: Gemm(*(t[c].to_numpy(float) for c in "mnk"), weights=weights)


def _nk(table: pd.DataFrame) -> pd.Series:
    return table["n"].astype(str) + "x" + table["k"].astype(str)


def _heads(table: pd.DataFrame) -> pd.Series:
    return table[["num_heads", "num_key_value_heads", "head_dim"]].astype(str).agg("/".join, axis=1)


def _sequences(table: pd.DataFrame) -> Group:
    """A row's batch: decode tables give the context as ``step``, prefill tables the query and what came before."""
    decode = "past" not in table
    query = np.ones(len(table)) if decode else table["isl"].to_numpy(float)
    past = table["step" if decode else "past"].to_numpy(float)
    return Group(table["batch_size"].to_numpy(float), query, past)


def _kv_bytes(table: pd.DataFrame) -> Any:
    return np.where(table["kv_cache_dtype"] == "fp8", 1.0, 2.0)


def _attention(table: pd.DataFrame) -> Attention:
    window = table["window_size"].to_numpy(float) if "window_size" in table else np.zeros(len(table))
    return Attention(
        (_sequences(table),),
        heads=table["num_heads"].to_numpy(float),
        kv_heads=table["num_key_value_heads"].to_numpy(float),
        head_dim=table["head_dim"].to_numpy(float),
        window=np.where(window > 0, window, 1e12),
        kv_bytes=_kv_bytes(table),
    )


def _mla(table: pd.DataFrame) -> MlaModule:
    return MlaModule(
        (_sequences(table),),
        heads=table["num_heads"].to_numpy(float),
        hidden=7168.0,
        q_lora_rank=1536.0,
        kv_lora_rank=512.0,
        qk_rope_head_dim=64.0,
        qk_nope_head_dim=128.0,
        v_head_dim=128.0,
        kv_bytes=_kv_bytes(table),
        fp8_gemm=np.where(table["gemm_type"] == "bfloat16", 0.0, 1.0),
        bytes_per_weight=np.where(table["gemm_type"] == "bfloat16", 2.0, 1.0),
    )


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


def _deepep_shape(table: pd.DataFrame) -> pd.Series:
    return table[["hidden_size", "topk", "num_experts"]].astype(str).agg("/".join, axis=1)


def _deepep(backend: str, form: Form, phase: str, across_nodes: bool) -> Family:
    def select(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
        rows = table[table["phase"] == phase]
        if not across_nodes:
            return rows[rows["nodes"] == 1]
        if rows["nodes"].nunique() == 1:
            return rows[:0]
        return rows[rows["nodes"] <= 4] if backend == "deepep_high_throughput" else rows

    suffix, scheme, group = ("_nodes", "one node count at a time", _node_count) if across_nodes else (
        "", "one (hidden, top-k, experts) at a time", _deepep_shape)  # fmt: skip
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
        rule, kept = load_engine().all_reduce, table["backend"] == "vllm_graph"
        for ranks in table["num_gpus"].unique():
            here = table["num_gpus"] == ranks
            chosen = rule.kernels(gpu.compute_capability, int(ranks), table["message_bytes"].to_numpy())
            kept = kept & (~here | chosen.get(kernel, False))
        return table[kept]

    return select


def _size_fold(table: pd.DataFrame) -> pd.Series:
    return table["message_bytes"].astype(str)


def _not_fa4(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
    return table[~table["kernel_source"].str.contains("fa4") & (table["head_dim"] <= 256)]


def _quantise(table: pd.DataFrame) -> Elementwise:
    m, k = table["m"].to_numpy(float), table["k"].to_numpy(float)
    return Elementwise(m, m * k * 3.0)


FAMILIES: tuple[Family, ...] = (
    _fused_moe("bfloat16", "bfloat16", "unquantized|^vllm_fused_moe$", "bfloat16", "triton", "bfloat16"),
    _fused_moe("fp8_block", "fp8_block", "vllm_fp8moe_(?:triton|flashinfer_trtllm)", "fp8_block", "triton", "fp8"),
    _fused_moe("int4", "int4_wo", "marlin", "int4", "marlin", "bfloat16", **_BY_WIDTH),
    _fused_moe("mxfp4", "w4a16_mxfp4", "gptossmxfp4moe", "mxfp4", "triton_kernels", "bfloat16"),
    _fused_moe("mxfp4_marlin", "w4a16_mxfp4", "w4a4mxfp4moe_marlin", "mxfp4", "marlin", "bfloat16", **_BY_WIDTH),
    _fused_moe(
        "fp8_flashinfer", "fp8", "flashinfer_cutlass", "fp8", "flashinfer_cutlass", "fp8",
        note="weights stream at a quarter of the Triton kernel's rate because row blocks of 128 are loaded whole "
        "however few tokens an expert has (t_padding); reported, never used in a prediction",
    ),
    Family("gemm/bfloat16", gemm.BF16, "gemm", lambda t, gpu: t[t["gemm_dtype"] == "bfloat16"], _gemm("bfloat16"),
           _nk, "whole (n, k) pairs, 8 folds", folds=8),
    Family("gemm/fp8", gemm.FP8, "gemm", lambda t, gpu: t[t["gemm_dtype"] == "fp8"], _gemm("fp8"),
           _nk, "whole (n, k) pairs, 8 folds", "fp8", folds=8),
    Family("gemm/fp8_block", gemm.FP8_BLOCK, "gemm",
           lambda t, gpu: t[(t["gemm_dtype"] == "fp8_block") & t["kernel_source"].str.contains("DeepGemm|TritonFp8")],
           _gemm("fp8_block"), _nk, "whole (n, k) pairs, 8 folds", "fp8", folds=8,
           note="host-bound below about 90 us: GPU time under that floor is extrapolated"),
    Family("attention_prefill", attention.PREFILL, "attention_prefill", _not_fa4, _attention, _heads,
           "whole (heads, KV heads, head_dim) triples, 5 folds", folds=5),
    Family("attention_decode", attention.DECODE, "attention_decode", _not_fa4, _attention, _heads,
           "whole (heads, KV heads, head_dim) triples, 5 folds", folds=5),
    Family("mla_prefill", mla.PREFILL, "mla_prefill", lambda t, gpu: t, _mla,
           lambda t: t["num_heads"].astype(str), "one head count at a time"),
    Family("mla_decode", mla.DECODE, "mla_decode", lambda t, gpu: t, _mla,
           lambda t: t["num_heads"].astype(str), "one head count at a time"),
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
    Family("elementwise", elementwise.FORM, "elementwise", lambda t, gpu: t, _quantise,
           lambda t: t["k"].astype(str), "one row length at a time", weights_for_l2_rule=False,
           note="measured on the static fp8 quantisation kernel; norms, rope and activation are priced by it"),
)  # fmt: skip


def implied_bound_broken(family: Family, table: pd.DataFrame, gpu: GpuNumbers) -> np.ndarray[Any, Any]:
    """Rows faster than physics: weights beyond L2 streamed above the HBM datasheet, or FLOP above the peak.

    The rule was written before any fit: ``weight_bytes / t > HBM`` where the weights exceed twice the L2, or
    ``flop / t > peak``.
    """
    op = family.operation(table)
    seconds = table["seconds"].to_numpy()
    broken = np.asarray(op.flop) / seconds > gpu.flop_per_s(family.arithmetic)
    if family.weights_for_l2_rule and hasattr(op, "weight_bytes"):
        weights = np.asarray(op.weight_bytes)
        broken = broken | ((weights > 2 * gpu.l2_bytes) & (weights / seconds > gpu.hbm_bytes_per_s))
    return np.broadcast_to(broken, seconds.shape)
