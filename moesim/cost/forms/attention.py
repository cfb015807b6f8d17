"""FlashAttention kernels with the cache write before them: prefill and decode.

Prefill packs the query heads of a KV head into the rows of a tile (FA3); a tile costs its key blocks, each a
multiply-add part and a softmax part; tiles fill the SMs in waves and the longest causal tile can be the tail.
Few long tiles are split over keys and combined. Decode is one tile per sequence and KV head, split over keys up
to 32 times, bound by key rate per thread block or by streaming the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moesim.cost.forms.arithmetic import ceil, clip, maximum, minimum, where
from moesim.cost.forms.form import Form, Parameter, Timing, smooth_max
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, chooses, families
from moesim.ops.attention import Attention, attended_pairs
from moesim.ops.load import Group

_NO_WINDOW = 1e12
_MAX_SPLITS = 32
_DECODE_ROWS = 64.0
"""Query rows of a decode tile."""
_DYNAMIC_BATCH = 992
"""FA3's prepared scheduler metadata covers batches up to this size."""

PREFILL_PARAMETERS = (
    Parameter("e_mma", "1", 0.9, 0.3, 1.3, "share of peak of the QK and PV products, softmax counted apart"),
    Parameter("t_soft", "s", 2e-11, 1e-13, 1e-10, "softmax per (row, key) on one SM, not hidden by products"),
    Parameter("r_fp8", "1", 1.1, 0.4, 3.0, "fp8 product time over bfloat16's at head_dim 128"),
    Parameter("x_fp8", "1", 0.4, 0.01, 2.0, "growth of that ratio with head_dim / 128"),
    Parameter("t_tile", "s", 3e-6, 2e-7, 2e-5, "prologue and epilogue of a 128-row tile"),
    Parameter("t_combine", "s", 4e-6, 1e-8, 2e-5, "combining a split over keys"),
    Parameter("c_l2", "1", 0.7, 0.2, 3.0, "share of L2 that keeps a repeated call's operands"),
    Parameter("e_hbm", "1", 0.9, 0.3, 1.0, "reachable share of HBM bandwidth"),
    Parameter("bw_l2_sm", "B/s", 4e10, 1e10, 3e11, "L2 bandwidth per SM"),
    Parameter("f_exposed", "1", 0.5, 0.01, 1.0, "share of Q, K, V, O traffic not hidden behind products"),
    Parameter("t_launch", "s", 9e-6, 1e-6, 5e-5, "cache write and attention kernel, start to end"),
    Parameter("t_fp8", "s", 1e-6, 1e-8, 1e-5, "extra with an fp8 cache at head_dim 128"),
    Parameter("t_write", "s", 1.7e-6, 1e-7, 1e-5, "one thread block of the cache write (one token)"),
    Parameter("r_write_fp8", "1", 2.0, 0.5, 4.0, "the same with fp8 conversion, ratio"),
)

DECODE_PARAMETERS = (
    Parameter("t_launch", "s", 8e-6, 1e-6, 5e-5, "cache write and attention kernel, start to end"),
    Parameter("t_fp8", "s", 1.5e-6, 1e-8, 1e-5, "extra with an fp8 cache at head_dim 128"),
    Parameter("t_combine", "s", 2e-6, 1e-8, 1e-5, "combining a split over keys"),
    Parameter("t_tile", "s", 3.5e-6, 1e-7, 4e-5, "one tile with its first key block at head_dim 128"),
    Parameter("x_tile", "1", 0.45, 0.01, 2.0, "growth of the tile time with head_dim / 128"),
    Parameter("r_static", "1", 0.9, 0.3, 1.5, "tile time ratio above the prepared-metadata batch"),
    Parameter("r_local", "1", 1.7, 0.5, 4.0, "tile time ratio of the windowed kernel at head_dim up to 64"),
    Parameter("t_sequence", "s", 2e-8, 1e-9, 1e-6, "scheduling metadata per sequence, up to 512"),
    Parameter("p_join", "1", 1.8, 1.0, 8.0, "overlap of tile time and cache streaming"),
    Parameter("e_hbm", "1", 0.95, 0.3, 1.0, "reachable share of HBM bandwidth"),
    Parameter("c_l2", "1", 0.72, 0.3, 3.0, "share of L2 that keeps a repeated call's cache"),
    Parameter("bw_l2_sm", "B/s", 5.5e10, 1e10, 3e11, "L2 bandwidth per SM"),
    Parameter("t_key", "s", 1.1e-6, 1e-8, 1e-5, "one SM, 128 bfloat16 keys of head_dim 128"),
    Parameter("t_key_fp8", "s", 0.6e-6, 1e-8, 1e-5, "one SM, 128 fp8 keys, times 1 + (head_dim/128)^3"),
)


def _stream_seconds_per_byte(p: Mapping[str, float], gpu: GpuNumbers, footprint: Any, sharpness: int) -> Any:
    """L2 speed for what a repeated call keeps there, HBM speed beyond."""
    cold = (footprint / maximum(p["c_l2"] * gpu.l2_bytes, 1.0)) ** sharpness
    hbm = 1.0 / (gpu.hbm_bytes_per_s * p["e_hbm"])
    return (cold * hbm + 1.0 / (p["bw_l2_sm"] * gpu.sm_count)) / (1.0 + cold)


def prefill_seconds(p: Mapping[str, float], op: Attention, gpu: GpuNumbers) -> Timing:
    """Prefill attention of all groups in one variable-length call. [s]"""
    fp8 = op.kv_bytes < 1.5
    launch = p["t_launch"] + where(fp8, p["t_fp8"] * op.head_dim / 128, 0.0)
    parts = [_prefill_group(p, op, gpu, g, fp8) for g in op.groups]
    tiles, traffic, write = (sum(part[i] for part in parts) for i in range(3))
    return Timing(launch + tiles + traffic + write, launch, traffic + write, tiles)


def _prefill_group(p: Mapping[str, float], op: Attention, gpu: GpuNumbers, g: Group, fp8: Any) -> tuple[Any, Any, Any]:
    heads, kv, dim, q, past = op.heads, op.kv_heads, op.head_dim, g.query, g.past
    packed = heads / kv
    window = where(op.window > 0, op.window, _NO_WINDOW) if op.window is not None else _NO_WINDOW
    short = (q * packed <= 64) & (dim <= 128)
    rows = where(short | (dim > 256), 64.0, where(dim <= 64, 192.0, 128.0))
    keys_per_block = minimum(128.0, 20480.0 / dim)
    tiles = g.sequences * kv * ceil(q * packed / rows)
    load = maximum(tiles / gpu.sm_count, 1e-9)

    per_tile = minimum(rows / packed, q)
    edge = maximum(per_tile, keys_per_block)
    masked = edge * where(window < past + q, 0.5 + 0.5 * minimum(per_tile / keys_per_block, 1.0), 0.5)
    pairs = attended_pairs(q, past, window, op.causal)
    blocks = maximum((pairs / q + masked) / keys_per_block, 1.0)
    longest = maximum((minimum(past + q, window) + masked) / keys_per_block, 1.0)
    slower = where(fp8, p["r_fp8"] * (dim / 128) ** p["x_fp8"], 1.0)
    product = 4.0 * dim * gpu.sm_count / (gpu.bf16_flop_per_s * p["e_mma"]) * slower
    block = rows * keys_per_block * (product + p["t_soft"])
    tile = p["t_tile"] * (rows / 128) ** 0.3
    split = where((load < 0.8) & (longest > 4), clip(1.0 / load, 1.0, longest), 1.0)
    compute = maximum(ceil(load) * (tile + blocks * block / split), tile + longest * block / split)
    compute = compute + where(split > 1, p["t_combine"], 0.0)

    tokens = g.sequences * q
    operands = 4.0 * tokens * heads * dim + 2.0 * g.sequences * kv * (past + q) * dim * op.kv_bytes
    written = 2.0 * tokens * kv * dim * (2.0 + op.kv_bytes)
    traffic = (p["f_exposed"] * operands + written) * _stream_seconds_per_byte(p, gpu, operands + written, 4)
    threads = minimum(kv * dim, 512) / 2048.0
    write = tokens / gpu.sm_count * threads * p["t_write"] * where(fp8, p["r_write_fp8"], 1.0)
    some = g.sequences > 0
    return where(some, compute, 0.0), where(some, traffic, 0.0), where(some, write, 0.0)


def decode_seconds(p: Mapping[str, float], op: Attention, gpu: GpuNumbers) -> Timing:
    """Decode attention: all sequences at the same context, a new token each, or several that are verified. [s]

    Several new tokens of a sequence share the pass over its keys while their rows fit one tile.
    """
    (g,) = op.groups
    dim, kv = op.head_dim, op.kv_heads
    context = g.past + g.query
    packed = op.heads / kv
    row_tiles = ceil(g.query * packed / _DECODE_ROWS) / ceil(packed / _DECODE_ROWS)
    fp8 = op.kv_bytes < 1.5
    window = where(op.window > 0, op.window, _NO_WINDOW) if op.window is not None else _NO_WINDOW
    local = context > window
    keys = where(local, minimum(context, window + 64), context)
    per_block = minimum(128.0, 20480.0 / dim)
    tiles = g.sequences * kv * row_tiles
    thread_blocks = minimum(gpu.sm_count, tiles * clip(keys / per_block, 1.0, _MAX_SPLITS))

    traffic = 2.0 * g.sequences * kv * keys * dim * op.kv_bytes + 4.0 * g.sequences * g.query * op.heads * dim
    memory = traffic * _stream_seconds_per_byte(p, gpu, traffic, 6)
    key = where(fp8, p["t_key_fp8"] * (1.0 + (dim / 128) ** 3), p["t_key"] * dim / 128) / 128
    ratio = where(g.sequences <= _DYNAMIC_BATCH, 1.0, p["r_static"])
    ratio = ratio * where(local & (dim <= 64), p["r_local"], 1.0)
    tile = p["t_tile"] * (dim / 128) ** p["x_tile"] * ratio
    compute = ceil(tiles / gpu.sm_count) * tile + tiles * maximum(keys - per_block, 0.0) * key / thread_blocks
    launch = p["t_launch"] + where(fp8, p["t_fp8"] * dim / 128, 0.0)
    launch = launch + where(keys > per_block, p["t_combine"], 0.0) + p["t_sequence"] * minimum(g.sequences, 512)
    return Timing(launch + smooth_max(compute, memory, p["p_join"]), launch, memory, compute)


_RANGED = ("sequences", "query", "past", "context", "heads", "kv_heads", "head_dim")
PREFILL = Form(
    "attention_prefill",
    "t_launch + max(waves x (t_tile + key blocks x block), longest tile) + exposed traffic + cache write",
    PREFILL_PARAMETERS,
    prefill_seconds,
    _RANGED,
)
DECODE = Form(
    "attention_decode",
    "t_launch + t_combine + smax(waves x t_tile + keys x t_key / thread blocks, cache bytes / (HBM e_hbm))",
    DECODE_PARAMETERS,
    decode_seconds,
    _RANGED,
)

families({"attention_prefill": PREFILL, "attention_decode": DECODE})


_WIDEST_HEAD = 256
"""Of FlashAttention; other kernels run wider ones."""


@chooses(Attention)
def choose(machine: Any, name: str, op: Attention) -> Choice:
    """Decode finds its cache cold; prefill reads keys that its own step has just written."""
    wide = op.head_dim > _WIDEST_HEAD
    related = not op.causal or (wide if isinstance(wide, bool) else bool(np.any(wide)))
    if op.generates:
        return Choice("attention_decode", op, machine.cold_gpu, related=related)
    return Choice("attention_prefill", op, machine.gpu, related=related)
