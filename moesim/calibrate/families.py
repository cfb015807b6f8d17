"""Which rows of which table belong to which kernel family, and how each becomes an operation.

A family's name is the key under which its fit is stored: ``fused_moe/bfloat16``, ``gemm/fp8``, ... The rows
fitted, the rows held out together, and the rows set aside by a physical rule are decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.calibrate.collective_rows import COLLECTIVE_FAMILIES
from moesim.calibrate.dataset import Dataset, stored
from moesim.calibrate.expert_rows import EXPERT_FAMILIES
from moesim.calibrate.family import Family
from moesim.calibrate.groups import by
from moesim.calibrate.machine_rows import GPU_FAMILIES, HOST_FAMILIES
from moesim.cost.forms import attention, block_sparse, elementwise, gemm, mla, recurrent, streams
from moesim.cost.gpu import GpuNumbers
from moesim.cost.sources import trusted
from moesim.hardware.catalogue import load_hardware
from moesim.ops import (
    Attention,
    BlockSparseModule,
    DeltaRule,
    Elementwise,
    Gemm,
    MlaModule,
    ShortConvolution,
    StreamMix,
)  # fmt: skip
from moesim.ops.load import Group

if TYPE_CHECKING:
    import pandas as pd


def _gemm(weights: str) -> Callable[[pd.DataFrame], Gemm]:
    return lambda t: Gemm(*(t[c].to_numpy(float) for c in "mnk"), weights=weights)


def _nk(table: pd.DataFrame) -> pd.Series:
    return table["n"].astype(str) + "x" + table["k"].astype(str)


_heads = by("num_heads", "num_key_value_heads", "head_dim")


def _sequences(table: pd.DataFrame) -> Group:
    """A row's batch: decode tables give the context as ``step``, prefill tables the query and what came before."""
    decode = "past" not in table
    query = np.ones(len(table)) if decode else table["isl"].to_numpy(float)
    past = table["step" if decode else "past"].to_numpy(float)
    return Group(table["batch_size"].to_numpy(float), query, past, "decode" if decode else "prefill")


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


_MLA_SIZES = {
    "hidden": ("hidden_size", 7168.0),
    "q_lora_rank": ("q_lora_rank", 1536.0),
    "kv_lora_rank": ("kv_lora_rank", 512.0),
    "qk_rope_head_dim": ("qk_rope_head_dim", 64.0),
    "qk_nope_head_dim": ("qk_nope_head_dim", 128.0),
    "v_head_dim": ("v_head_dim", 128.0),
}
"""Column of each size; tables without it hold DeepSeek-V3's."""


def _column(table: pd.DataFrame, name: str, otherwise: float) -> Any:
    return table[name].to_numpy(float) if name in table else otherwise


def _mla(table: pd.DataFrame) -> MlaModule:
    return MlaModule(
        (_sequences(table),),
        heads=table["num_heads"].to_numpy(float),
        **{name: _column(table, column, size) for name, (column, size) in _MLA_SIZES.items()},
        kv_bytes=_kv_bytes(table),
        fp8_gemm=np.where(table["gemm_type"] == "bfloat16", 0.0, 1.0),
        bytes_per_weight=np.where(table["gemm_type"] == "bfloat16", 2.0, 1.0),
    )


HEADS_HELD_OUT = (12, 24, 48, 96)
"""Head counts that no MLA fit sees."""


_PICKED, _INDEX_DIM = 2048, 128.0
"""Of every row of sparse attention that tables hold."""


def _sparse_mla(table: pd.DataFrame) -> MlaModule:
    heads = table["index_n_heads"].to_numpy(float)
    return replace(_mla(table), top_k=_PICKED, index_heads=heads, index_head_dim=np.where(heads > 0, _INDEX_DIM, 0.0))


def _mla_rows(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
    return table[~table["num_heads"].isin(HEADS_HELD_OUT)]


def _not_fa4(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
    return table[~table["kernel_source"].str.contains("fa4") & (table["head_dim"] <= 256)]


def _per_tensor(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
    """vLLM's kernel with the quantisation of its input; torch's stand-in times neither that nor few rows."""
    return table[(table["gemm_dtype"] == "fp8") & (table["kernel_source"] != "torch._scaled_mm")]


_M3 = {"head_dim": 128.0, "index_dim": 128.0, "top_k": 2048.0}
"""Of every row of block-sparse attention that tables hold (MiniMax-M3): 16 blocks of 128 are picked."""


def _block_sparse(table: pd.DataFrame) -> BlockSparseModule:
    narrow = np.where(table["gemm_type"] == "bfloat16", 0.0, 1.0)
    kv = table["num_key_value_heads"].to_numpy(float)
    return BlockSparseModule(
        (_sequences(table),), heads=table["num_heads"].to_numpy(float), kv_heads=kv, index_heads=kv,
        hidden=table["hidden_size"].to_numpy(float), kv_bytes=_kv_bytes(table), fp8_gemm=narrow,
        bytes_per_weight=2.0 - narrow, **_M3,
    )  # fmt: skip


def _states(table: pd.DataFrame) -> tuple[Group, ...]:
    query = table["seq_len"].to_numpy(float)
    decode = bool((table["phase"] == "generation").all())
    return (Group(table["batch_size"].to_numpy(float), query, 0.0 * query, "decode" if decode else "prefill"),)


def _delta(kind: str) -> Callable[[pd.DataFrame], DeltaRule]:
    columns = ("num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim")
    return lambda t: DeltaRule(kind, _states(t), *(t[c].to_numpy(float) for c in columns))


def _convolution(table: pd.DataFrame) -> ShortConvolution:
    keys = 2 * table["num_k_heads"] * table["head_k_dim"]
    channels = keys + table["num_v_heads"] * table["head_v_dim"]
    return ShortConvolution(_states(table), channels.to_numpy(float), table["d_conv"].to_numpy(float))


def _state_rows(kernels: str, phase: str) -> Callable[[pd.DataFrame, GpuNumbers], pd.DataFrame]:
    return lambda t, gpu: t[t["kernel_source"].str.contains(kernels) & (t["phase"] == phase)]


def _cold_states(kernels: str) -> Callable[[pd.DataFrame, GpuNumbers], pd.DataFrame]:
    """Decodes whose states are too many for L2, or so few that launching is all: a served model's are never there."""

    def select(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
        rows = _state_rows(kernels, "generation")(table, gpu)
        states = 4.0 * rows["batch_size"] * rows["num_v_heads"] * rows["head_k_dim"] * rows["head_v_dim"]
        return rows[(states > 2 * gpu.l2_bytes) | (states < _LAUNCHED_BYTES)]

    return select


_LAUNCHED_BYTES = 5e5


def _mix(table: pd.DataFrame) -> StreamMix:
    phase = str(table["phase"].iloc[0]) if len(table) else "pre"
    return StreamMix(phase, *(table[c].to_numpy(float) for c in ("num_tokens", "hc_mult", "hidden_size")))


_v_heads = by("num_k_heads", "num_v_heads")


_HOST_FLOOR_S = 25e-6
"""A block-scaled product of few rows takes 5 us on a GPU; a table without a shorter one than this timed its host."""


def _block_scaled(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
    """DeepGEMM's kernels, where a table holds them and was not collected outside CUDA graphs."""
    rows = table[(table["gemm_dtype"] == "fp8_block") & table["kernel_source"].str.contains("DeepGemm|FlashInfer")]
    # What is still to be measured has no times.
    short = len(rows) and ("seconds" not in rows or rows["seconds"].min() < _HOST_FLOOR_S)
    return rows if short else rows.iloc[:0]


def _quantise(table: pd.DataFrame) -> Elementwise:
    m, k = table["m"].to_numpy(float), table["k"].to_numpy(float)
    return Elementwise(m, m * k * 3.0)


FAMILIES: tuple[Family, ...] = (
    *EXPERT_FAMILIES,
    Family("gemm/bfloat16", gemm.BF16, "gemm", lambda t, gpu: t[t["gemm_dtype"] == "bfloat16"], _gemm("bfloat16"),
           _nk, "whole (n, k) pairs, 8 folds", folds=8, rotated=True),
    Family("gemm/fp8", gemm.FP8, "gemm", _per_tensor, _gemm("fp8"),
           _nk, "whole (n, k) pairs, 8 folds", "fp8", folds=8, rotated=True),
    Family("gemm/fp8_block", gemm.FP8_BLOCK, "gemm", _block_scaled, _gemm("fp8_block"),
           _nk, "whole (n, k) pairs, 8 folds", "fp8", folds=8, rotated=True),
    Family("gemm/nvfp4", gemm.NVFP4, "gemm", lambda t, gpu: t[t["gemm_dtype"] == "nvfp4"], _gemm("nvfp4"),
           _nk, "whole (n, k) pairs, 8 folds", "nvfp4", folds=8, rotated=True),
    Family("attention_prefill", attention.PREFILL, "attention_prefill", _not_fa4, _attention, _heads,
           "whole (heads, KV heads, head_dim) triples, 5 folds", folds=5, rotated=True),
    Family("attention_decode", attention.DECODE, "attention_decode", _not_fa4, _attention, _heads,
           "whole (heads, KV heads, head_dim) triples, 5 folds", folds=5, rotated=True),
    Family("mla_prefill", mla.PREFILL, "mla_prefill", _mla_rows, _mla,
           lambda t: t["num_heads"].astype(str), "one head count at a time"),
    Family("mla_decode", mla.DECODE, "mla_decode", _mla_rows, _mla,
           lambda t: t["num_heads"].astype(str), "one head count at a time"),
    Family("mla_sparse_prefill", mla.SPARSE, "mla_sparse_prefill", lambda t, gpu: t, _sparse_mla,
           lambda t: t["num_heads"].astype(str), "one head count at a time"),
    Family("mla_sparse_decode", mla.SPARSE, "mla_sparse_decode", lambda t, gpu: t, _sparse_mla,
           lambda t: t["num_heads"].astype(str), "one head count at a time"),
    Family("block_sparse_prefill", block_sparse.FORM, "block_sparse_prefill", lambda t, gpu: t, _block_sparse,
           lambda t: t["num_heads"].astype(str), "one head count at a time"),
    Family("block_sparse_decode", block_sparse.FORM, "block_sparse_decode", lambda t, gpu: t, _block_sparse,
           lambda t: t["num_heads"].astype(str), "one head count at a time"),
    Family("gdn_prefill", recurrent.PREFILL, "gdn", _state_rows("gated_delta", "context"), _delta("gdn"),
           _v_heads, "whole (key heads, value heads) pairs, 6 folds", folds=6, weights_for_l2_rule=False),
    Family("gdn_decode", recurrent.DECODE, "gdn", _cold_states("gated_delta"), _delta("gdn"),
           _v_heads, "whole (key heads, value heads) pairs, 6 folds", folds=6, weights_for_l2_rule=False),
    Family("kda_prefill", recurrent.PREFILL, "kda", _state_rows("kda", "context"), _delta("kda"),
           _v_heads, "one number of heads at a time", weights_for_l2_rule=False),
    Family("kda_decode", recurrent.DECODE, "kda", _cold_states("fused_kda_decode"), _delta("kda"),
           _v_heads, "one number of heads at a time", weights_for_l2_rule=False),
    Family("short_convolution_prefill", recurrent.CONVOLUTION, "gdn", _state_rows("conv1d_fn", "context"),
           _convolution, _v_heads, "whole (key heads, value heads) pairs, 6 folds", folds=6),
    Family("short_convolution_decode", recurrent.CONVOLUTION, "gdn", _state_rows("conv1d_update", "generation"),
           _convolution, _v_heads, "whole (key heads, value heads) pairs, 6 folds", folds=6),
    *(Family(f"mhc/{phase}", streams.FORM, "mhc", lambda t, gpu, phase=phase: t[t["phase"] == phase], _mix,
             lambda t: t["hidden_size"].astype(str), "one hidden size at a time") for phase in ("pre", "post")),
    *COLLECTIVE_FAMILIES,
    Family("elementwise", elementwise.FORM, "elementwise", lambda t, gpu: t, _quantise,
           lambda t: t["k"].astype(str), "one row length at a time", weights_for_l2_rule=False,
           note="measured on the static fp8 quantisation kernel; norms, rope and activation are priced by it"),
    *GPU_FAMILIES,
    *HOST_FAMILIES,
)  # fmt: skip


def implied_bound_broken(family: Family, table: pd.DataFrame, gpu: GpuNumbers) -> np.ndarray[Any, Any]:
    """Rows faster than physics: weights beyond L2 streamed above the HBM datasheet, or FLOP above the peak.

    The rule was written before any fit: ``weight_bytes / t > HBM`` where the weights exceed twice the L2, or
    ``flop / t > peak``.
    """
    op = family.operation(table)
    seconds = table["seconds"].to_numpy()
    # What took next to no time is beyond any peak.
    with np.errstate(over="ignore"):
        broken = np.asarray(op.flop) / seconds > gpu.flop_per_s(family.arithmetic)
        if family.weights_for_l2_rule and hasattr(op, "weight_bytes"):
            weights = np.asarray(op.weight_bytes)
            broken = broken | ((weights > 2 * gpu.l2_bytes) & (weights / seconds > gpu.hbm_bytes_per_s))
    return np.broadcast_to(broken, seconds.shape)


def measured_best(family: Family, gpu: str) -> Dataset | None:
    """The dataset of a GPU that is trusted most for a family, among those that hold rows of it."""
    numbers = GpuNumbers.of(load_hardware(gpu))
    for stack in trusted(family.name):
        dataset = stored(gpu, stack)
        if dataset.has(family.table) and not family.select(dataset.table(family.table), numbers).empty:
            return dataset
    return None
