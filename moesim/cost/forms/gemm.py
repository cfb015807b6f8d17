"""Dense GEMMs: cuBLAS for bfloat16, CUTLASS for per-tensor fp8, DeepGEMM for block-scaled fp8.

Every form is a launch floor plus the smooth maximum of a tile time (waves of tiles; a tile costs its products,
or feeding its operands, plus a fixed part) and a memory time (all operands once; few SMs cannot fill HBM),
slowed a little when long enough to hit the power limit. bfloat16 takes the best of five tiles, two of which may
split k; fp8 takes the tile of vLLM's dispatch and pays for padded rows and for quantising its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moesim.cost.forms.arithmetic import ceil, floor, least, maximum, minimum, real, where
from moesim.cost.forms.form import Form, Parameter, Timing, smooth_max, waves
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, chooses, families
from moesim.ops.gemm import Gemm

_THROTTLE_SECONDS = 1e-3
"""Time at peak rate at which half of the power slow-down is reached."""
_L2_SHARPNESS = 10
_L2_GAIN_FP8 = 4.0
_SPLIT_DEPTH = 768
_BF16_TILES = ((128, 256, 0), (128, 128, 1), (64, 128, 0), (64, 64, 0), (64, 64, 1))
_BLOCK_TILES = ((64, 64), (64, 128), (128, 64), (128, 112), (128, 128), (128, 160))

_LAUNCH = Parameter("t_launch", "s", 2e-6, 1e-7, 6e-5, "launch and drain of the GPU kernels")
_TILE = Parameter("t_tile", "s", 1e-6, 1e-8, 1e-5, "prologue and epilogue of a 128x128 tile")
_MMA = Parameter("e_mma", "1", 0.85, 0.1, 1.0, "share of peak arithmetic of one SM inside a tile")
_FEED = Parameter("bw_feed", "B/s", 150e9, 5e9, 1e12, "L2 to SM operand feed, per SM")
_HBM = Parameter("e_hbm", "1", 0.9, 0.3, 1.0, "share of HBM bandwidth on long transfers")
_COPIES = Parameter("n_rotated", "1", 8.0, 0.5, 40.0, "weight copies that compete for L2 in the benchmark")
_SM = Parameter("bw_sm", "B/s", 150e9, 5e9, 1e12, "memory bandwidth one SM can draw")
_WAVE = Parameter("c_wave", "1", 0.3, 0.0, 1.0, "wave quantisation: 0 none, 1 whole waves")
_JOIN = Parameter("p_join", "1", 4.0, 1.0, 20.0, "sharpness of the maximum of tiles and memory")
_THROTTLE = Parameter("c_throttle", "1", 0.1, 0.0, 0.6, "slow-down of long kernels at the power limit")

BF16_PARAMETERS = (
    _LAUNCH,
    Parameter("t_ramp", "s", 0.5e-6, 1e-8, 1e-5, "extra start-up when every SM gets a tile"),
    _TILE,
    _MMA,
    _FEED,
    _HBM,
    _COPIES,
    Parameter("r_l2", "1", 2.0, 1.0, 4.0, "bandwidth of L2-resident operands over HBM"),
    _SM,
    Parameter("t_split", "s", 2e-6, 1e-8, 1e-5, "reduction after splitting k"),
    _WAVE,
    _JOIN,
    _THROTTLE,
)
FP8_PARAMETERS = (
    _LAUNCH,
    _TILE,
    Parameter("t_first", "s", 1e-6, 1e-8, 1e-5, "latency of the first 128x128 tile"),
    Parameter("t_depth", "s", 0.7e-9, 1e-11, 1e-8, "serial latency per element of k"),
    _MMA,
    Parameter("r_feed", "1", 3.7, 0.5, 30.0, "operand feed of the whole chip over HBM bandwidth"),
    _COPIES,
    _SM,
    Parameter("t_row", "s", 0.9e-6, 1e-9, 1e-5, "quantising one row's first 2048 elements, on one SM"),
    Parameter("t_row_more", "s", 0.55e-6, 1e-9, 1e-5, "each further 2048 elements"),
    Parameter("bw_padding", "B/s", 5e12, 5e11, 1e14, "filling rows beyond m, whole chip"),
    _WAVE,
    _JOIN,
    _THROTTLE,
)
FP8_BLOCK_PARAMETERS = (
    _LAUNCH,
    Parameter("t_align", "s", 2e-6, 0.0, 2e-5, "aligning scales where m is no multiple of 4"),
    _TILE,
    _MMA,
    _FEED,
    _HBM,
    Parameter("t_element", "s", 0.33e-9, 1e-12, 1e-8, "quantising one input element, on one SM"),
    _WAVE,
    _JOIN,
)


def _wave_and_share(tiles: Any, gpu: GpuNumbers, c_wave: float) -> tuple[Any, Any]:
    return waves(tiles, gpu.sm_count, c_wave), minimum(tiles / gpu.sm_count, 1.0)


def _throttled(p: Mapping[str, float], op: Gemm, peak: float) -> Any:
    x = op.flop / peak
    return 1.0 + p["c_throttle"] * x / (x + _THROTTLE_SECONDS)


def _from_hbm(p: Mapping[str, float], op: Gemm, gpu: GpuNumbers, gain: float) -> Any:
    """Time per byte relative to HBM: 1 cold, 1/gain when weights and activations stay in L2 between calls."""
    footprint = p["n_rotated"] * op.weight_bytes + op.hbm_bytes - op.weight_bytes
    u = minimum((footprint / maximum(gpu.l2_bytes, 1.0)), 1e9) ** _L2_SHARPNESS
    return (u + 1.0 / gain) / (1.0 + u)


def bf16_seconds(p: Mapping[str, float], op: Gemm, gpu: GpuNumbers) -> Timing:
    """A bfloat16 GEMM (weight-only formats: the same tiles over fewer weight bytes). [s]"""
    stream = op.hbm_bytes * _from_hbm(p, op, gpu, p["r_l2"]) / (gpu.hbm_bytes_per_s * p["e_hbm"])
    tiled = [_bf16_tile(p, op, gpu, stream, *tile) for tile in _BF16_TILES]
    total, memory, compute = (least(part) for part in zip(*tiled, strict=True))
    return Timing(p["t_launch"] + total * _throttled(p, op, gpu.bf16_flop_per_s), p["t_launch"], memory, compute)


def _bf16_tile(
    p: Mapping[str, float], op: Gemm, gpu: GpuNumbers, stream: Any, bm: int, bn: int, may_split: int
) -> tuple[Any, Any, Any]:
    """(total, memory, arithmetic) seconds by one tile."""
    m, n, k = real(op.m), real(op.n), real(op.k)
    hbm = gpu.hbm_bytes_per_s * p["e_hbm"]
    tiles = ceil(m / bm) * ceil(n / bn)
    split = maximum(1.0, minimum(floor(may_split * gpu.sm_count / tiles), ceil(k / _SPLIT_DEPTH)))
    rounds, active = _wave_and_share(tiles * split, gpu, p["c_wave"])
    depth = max(2.0 * bm * bn * gpu.sm_count / (gpu.bf16_flop_per_s * p["e_mma"]), 2.0 * (bm + bn) / p["bw_feed"])
    compute = rounds * (p["t_tile"] * bm * bn / 16384 + ceil(k / split / 64) * 64 * depth)
    memory = stream + op.hbm_bytes / (active * gpu.sm_count * p["bw_sm"])
    total = smooth_max(compute, memory, p["p_join"]) + p["t_ramp"] * active
    return total + (split > 1) * (p["t_split"] + 4.0 * m * n * split / (hbm * p["r_l2"])), memory, compute


def fp8_seconds(p: Mapping[str, float], op: Gemm, gpu: GpuNumbers) -> Timing:
    """Quantise the input per token, then a CUTLASS scaled GEMM (vLLM's sm90 dispatch). [s]"""
    peak, hbm, sms = gpu.flop_per_s(op.arithmetic), gpu.hbm_bytes_per_s, gpu.sm_count
    m, n, k = real(op.m), real(op.n), real(op.k)
    small = m <= 64
    bm = where((m <= 16) | (small & (n <= 1280)), 16.0, where(m <= 128, 64.0, 128.0))
    bm = where((m >= 8192) & (k >= 6144), 256.0, bm)
    bn = where(small, 64.0, 128.0)
    row_tiles = ceil(m / bm)
    row_tiles = where(small, row_tiles, 2 * ceil(row_tiles / 2))
    tiles, moved = row_tiles * ceil(n / bn), op.hbm_bytes
    rounds, active = _wave_and_share(tiles, gpu, p["c_wave"])
    feed = (bm + bn) * minimum(tiles, sms) / (hbm * p["r_feed"])
    depth = smooth_max(2.0 * bm * bn * sms / (peak * p["e_mma"]), feed, 4.0)
    depth = ceil(k / 128) * 128 * smooth_max(depth, p["t_depth"], p["p_join"])
    padding = ceil(n / bn) * (row_tiles * bm - m) * k * active / p["bw_padding"]
    compute = rounds * where(small, depth, smooth_max(p["t_tile"], depth, 2.5)) + padding
    memory = moved * (_from_hbm(p, op, gpu, _L2_GAIN_FP8) / hbm + 1.0 / (active * sms * p["bw_sm"]))
    total = smooth_max(compute, memory, p["p_join"]) + p["t_first"] * bm * bn / 16384
    total = (total + where(small, rounds * p["t_tile"], 0.0)) * _throttled(p, op, peak)
    quantise = m / sms * (p["t_row"] + p["t_row_more"] * (ceil(k / 2048) - 1))
    return Timing(p["t_launch"] + quantise + total, p["t_launch"], memory + quantise, compute)


def fp8_block_seconds(p: Mapping[str, float], op: Gemm, gpu: GpuNumbers) -> Timing:
    """Quantise the input per 128 elements, then a DeepGEMM block-scaled GEMM. [s]"""
    peak, sms = gpu.flop_per_s(op.arithmetic), gpu.sm_count
    m, n, k = real(op.m), real(op.n), real(op.k)
    memory = op.hbm_bytes / (gpu.hbm_bytes_per_s * p["e_hbm"])
    options: list[Any] = []
    for bm, bn in _BLOCK_TILES:
        rounds, _ = _wave_and_share(ceil(m / bm) * ceil(n / bn), gpu, p["c_wave"])
        depth = max(2.0 * bm * bn * sms / (peak * p["e_mma"]), (bm + bn) / p["bw_feed"])
        options.append(rounds * (p["t_tile"] * bm * bn / 16384 + k * depth))
    compute = least(options)
    launch = p["t_launch"] + p["t_align"] * ((m % 4) != 0)
    quantise = m * k * p["t_element"] / sms
    return Timing(launch + quantise + smooth_max(compute, memory, p["p_join"]), launch, memory + quantise, compute)


_RANGED = ("m", "n", "k")
BF16 = Form(
    "gemm_bf16",
    "t_launch + min over tiles of smax(waves x (t_tile + k max(FLOP/(P e_mma), operands/bw_feed)), bytes/(HBM e_hbm))",
    BF16_PARAMETERS,
    bf16_seconds,
    _RANGED,
)
FP8 = Form(
    "gemm_fp8",
    "t_launch + quantise rows + smax(waves x tile + padded rows, bytes/HBM + bytes/(SMs bw_sm)) + t_first",
    FP8_PARAMETERS,
    fp8_seconds,
    _RANGED,
)
FP8_BLOCK = Form(
    "gemm_fp8_block",
    "t_launch + t_align + quantise elements + smax(waves x tile, bytes/(HBM e_hbm))",
    FP8_BLOCK_PARAMETERS,
    fp8_block_seconds,
    _RANGED,
)

NVFP4 = replace(FP8_BLOCK, name="gemm_nvfp4")
"""The same tiles over 4-bit operands, whose input is quantised by a kernel of its own too."""

families({"gemm/bfloat16": BF16, "gemm/fp8": FP8, "gemm/fp8_block": FP8_BLOCK, "gemm/nvfp4": NVFP4})


@chooses(Gemm)
def choose(machine: Any, name: str, op: Gemm) -> Choice:
    """The family of a weight format, weights cold."""
    kernel, gpu = machine.engine.file.kernels.of_linear(op.weights), machine.cold_gpu
    if op.arithmetic == "float32":
        # The tiles of a bfloat16 product, multiplied outside the tensor cores.
        gpu = replace(gpu, bf16_flop_per_s=gpu.fp32_flop_per_s)
    return Choice(kernel.family, op, gpu, related=kernel.related)
