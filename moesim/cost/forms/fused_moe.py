"""Fused experts: two grouped GEMMs over padded row blocks, and the small kernels around them.

Each grouped GEMM is the smooth maximum of two times.

Memory: the weights of the distinct experts touched, read again by every further row block that does not share
the pass and does not find them in L2, plus the rows in and out, at a bandwidth that few thread blocks cannot
fill (each has ``stages - 1`` tiles in flight over a latency).

Arithmetic: padded row blocks x column tiles over the SMs, partly in whole waves; a tile costs its
multiply-adds, its operand loads from L2, and a fixed time. Kernels that load whole tiles through TMA (CUTLASS)
also pay for the rows of a block beyond an expert's last token; kernels that mask them (Triton) do not.

Around them: alignment of tokens to blocks (skipped below E/4 rows, as vLLM does on a rank that holds all experts),
the activation, and the weighted sum over the k rows of a token, which vLLM runs in its own kernel for k = 2, 3, 4
and through a slower generic reduction otherwise. A rank of an expert-parallel group runs them over every row of the
group, its own or not. Widths that are no multiple of 16 lose vectorised loads in the second GEMM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moesim.cost.cost import Cost
from moesim.cost.forms import deepgemm
from moesim.cost.forms.arithmetic import ceil, clip, floor, least, maximum, minimum, where
from moesim.cost.forms.form import Form, Parameter, Timing, smooth_max, waves
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, chooses, families, prices
from moesim.cost.tiles import Tile, tile_for
from moesim.engines.file import Place, padded_for_marlin
from moesim.ops.experts import FusedExperts
from moesim.ops.formats import ACTIVATION_BYTES, bytes_per_weight, kind

_SHARED_MEMORY_BYTES = 227e3
_REGISTERS = 65536
_LEAST = 1e-3
"""A rank without a token still launches its kernels."""

PARAMETERS = (
    Parameter("t_fixed", "s", 18e-6, 2e-6, 1e-3, "kernels that always run: router copies, activation, sum"),
    Parameter("t_align", "s", 8e-6, 0, 1e-4, "aligning tokens to blocks"),
    Parameter("e_hbm", "1", 0.93, 0.05, 1.0, "share of HBM bandwidth a full grid streams at"),
    Parameter("t_latency", "s", 0.2e-6, 5e-9, 5e-6, "latency a thread block's tiles in flight hide"),
    Parameter("t_kernel", "s", 2e-6, 0, 3e-5, "start and drain of one grouped GEMM"),
    Parameter("t_tile", "s", 1e-6, 0, 3e-5, "prologue and epilogue of one tile on an SM"),
    Parameter("e_mma", "1", 0.8, 0.1, 1.0, "share of peak arithmetic inside a tile"),
    Parameter("bw_l2", "B/s", 12e12, 1e12, 60e12, "operand loads from L2, whole chip, H100-sized"),
    Parameter("e_rows", "1", 0.8, 0.05, 3.0, "HBM share of activation and row reads, L2 hits make it exceed 1"),
    Parameter("e_sum", "1", 0.5, 0.02, 5.0, "HBM share of the generic sum's output"),
    Parameter("p_join", "1", 4.0, 1.2, 10.0, "sharpness of the maximum of memory and arithmetic"),
    Parameter("c_l2", "1", 0.5, 0.02, 5.0, "share of L2 that keeps an expert's weights for the next block"),
    Parameter("c_unaligned", "1", 3.0, 0, 100.0, "extra operand loads where the width is no multiple of 16"),
    Parameter("c_unaligned_hbm", "1", 0.3, 0, 10.0, "extra memory time there"),
    Parameter("t_row", "s", 1e-9, 0, 1e-7, "per routed row: permutation and index traffic"),
    Parameter("t_padding", "s/B", 2e-13, 0, 1e-10, "operand bytes loaded for rows beyond an expert's last token"),
    Parameter("c_wave", "1", 0.3, 0, 1.0, "wave quantisation: 0 none, 1 whole waves"),
)


def occupancy(tile: Tile, bytes_per_weight: Any) -> Any:
    """Thread blocks that fit on an SM at once, by shared memory and registers."""
    shared = tile.stages * (tile.block_m + tile.block_n) * tile.block_k * bytes_per_weight
    threads = tile.warps * 32.0
    registers = minimum(255.0, tile.block_m * tile.block_n / threads + 64.0)
    fit = minimum(floor(_SHARED_MEMORY_BYTES / shared), floor(_REGISTERS / (registers * threads)))
    return clip(fit, 1, 8)


def _grouped_gemm(
    p: Mapping[str, float],
    gpu: GpuNumbers,
    op: Any,
    tile: Tile,
    shape: tuple[Any, Any, Any, Any, Any, Any, Any],
) -> tuple[Any, Any]:
    """(memory seconds, arithmetic seconds) of one grouped GEMM."""
    blocks, distinct, n, k, input_rows, output_rows, unaligned = shape
    weight, act = bytes_per_weight(op.weights), ACTIVATION_BYTES[op.arithmetic]
    columns, depth = ceil(n / tile.block_n), ceil(k / tile.block_k) * tile.block_k
    thread_blocks = blocks * columns
    resident = occupancy(tile, weight)
    active = thread_blocks / ceil(thread_blocks / (gpu.sm_count * resident))

    matrix = n * k * weight
    per_expert = blocks / distinct
    passes = maximum(1.0, per_expert / maximum(minimum(tile.group_m, per_expert), 1.0))
    missed = 1.0 / (1.0 + (p["c_l2"] * gpu.l2_bytes / matrix) ** 2)
    traffic = distinct * matrix * (1.0 + (passes - 1.0) * missed) + input_rows * k * act + output_rows * n * 2.0
    in_flight = maximum(tile.stages - 1, 1) * tile.block_n * tile.block_k * weight
    per_byte = 1.0 / (gpu.hbm_bytes_per_s * p["e_hbm"]) + p["t_latency"] / (active * in_flight)
    memory = traffic * per_byte * (1.0 + p["c_unaligned_hbm"] * unaligned)

    multiply = 2.0 * tile.block_m * tile.block_n * depth / (gpu.flop_per_s(op.arithmetic) * p["e_mma"])
    loads = (tile.block_m + tile.block_n) * depth * weight / p["bw_l2"] * (1.0 + p["c_unaligned"] * unaligned)
    per_tile = (multiply + loads) * gpu.sm_count + p["t_tile"] / resident
    padding = maximum(blocks * tile.block_m - output_rows, 0.0) * columns * depth * weight * p["t_padding"]
    return memory, padding + waves(thread_blocks, gpu.sm_count, p["c_wave"]) * per_tile


def seconds(p: Mapping[str, float], op: Any, gpu: GpuNumbers, tile: Tile) -> Timing:
    """Time of one MoE layer's routed experts on one GPU.

    Parameters
    ----------
    p : mapping
        Fitted parameters, see ``PARAMETERS`` for units.
    op : FusedExperts
        Shapes and load.
    gpu : GpuNumbers
    tile : Tile
        As the kernel picks it for this op.
    """
    tokens, rows, width, hidden = op.tokens, op.rows, op.width, op.hidden
    distinct = maximum(op.distinct, _LEAST)
    blocks = maximum(op.blocks(tile.block_m), _LEAST)
    unaligned = where((width % 16) != 0, 1.0, 0.0)
    first = (blocks, distinct, (1.0 + op.gated) * width, hidden, minimum(tokens, rows), rows, 0.0)
    second = (blocks, distinct, hidden, width, rows, rows, unaligned)
    memory1, compute1 = _grouped_gemm(p, gpu, op, tile, first)
    memory2, compute2 = _grouped_gemm(p, gpu, op, tile, second)
    gemms = smooth_max(memory1, compute1, p["p_join"]) + smooth_max(memory2, compute2, p["p_join"])

    around_rows = op.rows_around
    row_bytes = around_rows * (2.0 * width * (2.0 + op.gated) + 2.0 * hidden)
    generic = where((op.top_k >= 2) & (op.top_k <= 4), 0.0, 2.0 * around_rows / op.top_k * hidden)
    around = (row_bytes / p["e_rows"] + generic / p["e_sum"]) / gpu.hbm_bytes_per_s + around_rows * p["t_row"]
    aligned = (tokens * op.top_k * 4 > op.num_experts) | op.parallel
    launch = p["t_fixed"] + 2 * p["t_kernel"] + where(aligned, p["t_align"], 0.0)
    return Timing(launch + gemms + around, launch, memory1 + memory2 + around, compute1 + compute2)


TEXT = (
    "t_fixed + t_align + sum over gate-up and down of [t_kernel + smax(weight bytes of distinct experts and rows / "
    "(HBM e_hbm), waves of padded tiles x (FLOP/(P e_mma) + loads/bw_l2 + t_tile))] + rows/(HBM e_rows) + generic sum"
)
_RANGED = ("tokens", "hidden", "width", "num_experts", "top_k")
FORM = Form("fused_moe", TEXT, PARAMETERS, seconds, _RANGED)

CUTLASS_PARAMETERS = (
    *PARAMETERS,
    Parameter("t_expert", "s", 0.2e-6, 0.0, 5e-6, "each expert of the rank, with tokens or without"),
    Parameter("c_token", "1", 2.0, 0.0, 50.0, "HBM passes over every token of the group: quantise, expand, finish"),
    Parameter("t_index", "s", 1e-10, 0.0, 1e-7, "sorting a routed row of the group, the rank's own or not"),
)


def cutlass_seconds(p: Mapping[str, float], op: Any, gpu: GpuNumbers, tile: Tile) -> Timing:
    """FlashInfer's CUTLASS kernel on block-scaled fp8: every thread block walks all experts of its rank. [s]"""
    found = seconds(p, op, gpu, tile)
    walk = p["t_expert"] * op.num_experts
    tokens = p["c_token"] * 2.0 * op.tokens * op.hidden / gpu.hbm_bytes_per_s + p["t_index"] * op.tokens * op.top_k
    return Timing(found.seconds + walk + tokens, found.launch + walk, found.memory + tokens, found.compute)


CUTLASS = Form(
    "fused_moe_cutlass",
    f"{TEXT} + experts x t_expert + tokens x (H c_token/HBM + k t_index)",
    CUTLASS_PARAMETERS,
    cutlass_seconds,
    _RANGED,
)

families({"fused_moe": FORM, "fused_moe/fp8_block_cutlass": CUTLASS, "fused_moe/deepgemm": deepgemm.FORM})


@chooses(FusedExperts)
def choose(machine: Any, name: str, op: FusedExperts) -> Choice:
    """The kernel that runs for a weight format, with the tile it picks."""
    place = Place(machine.hardware.compute_capability, op.parallel)
    kernel = machine.engine.file.kernels.of_experts(op.weights, op.backend, place)
    parallel = op.parallel
    if kernel.sorts_own_rows:
        op = replace(op, local_only=True)
    if kernel.padded:
        op = padded(op)
    own: dict[str, Any] = {} if kernel.kernel != "deepgemm" else deepgemm.with_constants(machine, kernel)
    family = machine.family(kernel.family)[0]
    relative = family.relatives.get(kind(op.weights)) if kernel.related else None
    if relative is not None:
        own["parameters"] = slowed(family.parameters, relative.slower_arithmetic)
    return Choice(
        kernel.family,
        op,
        machine.gpu,
        own.get("extra") or (tile_for(kernel.kernel, kind(op.weights), _as_tiled(op), machine.tuned),),
        related=kernel.related or not op.as_fused,
        relative=relative,
        parameters=own.get("parameters"),
        map_widening=kernel.map_widening if parallel else None,
        spread=lambda: op.loads.spread(op.drawn),
        deviation=(lambda: op.loads.deviation(op.drawn)) if parallel else None,
    )


def _as_tiled(op: FusedExperts) -> FusedExperts:
    """What the choice of a tile sees: products over slots or sparse blocks are as large as those make them."""
    return op if op.as_fused else replace(op, tokens=maximum(op.rows / op.top_k, 1.0))


def _reach(gaps: list[Any]) -> tuple[Any, Any]:
    """How far below and above the central time the others lie. [s]"""
    return maximum(-least(gaps), 0.0), maximum(-least([-gap for gap in gaps]), 0.0)


@prices(FusedExperts)
def price(machine: Any, name: str, op: FusedExperts) -> Cost:
    """The same with what is not known about it: the kernel, and what rows of padding pick."""
    cost = machine.priced(name, choose(machine, name, op))
    terms: dict[str, tuple[Any, Any]] = {}
    gaps = [machine.seconds(name, replace(op, backend=backend, others=())) - cost.seconds for backend in op.others]
    if gaps:
        terms["backend"] = _reach(gaps)
    if op.other_loads is not None:
        terms["routing"] = _reach([machine.seconds(name, replace(op, loads=op.other_loads)) - cost.seconds])
    if op.real_tokens is not None and op.padding in {"first_expert", "first_experts"}:
        fresh = machine.seconds(name, replace(op, padding="fresh_tokens"))
        terms["rows of padding"] = (0.0 * cost.seconds, maximum(fresh - cost.seconds, 0.0))
    remarks = (f"{' or '.join((op.backend, *op.others))} may run",) if op.others else ()
    return replace(cost, spread=cost.spread | terms, remarks=(*cost.remarks, *remarks)) if terms else cost


def slowed(p: Mapping[str, float], factor: float) -> dict[str, float]:
    """Constants under which arithmetic, operand loads with it, takes ``factor`` times as long."""
    return {**p, "e_mma": p["e_mma"] / factor, "bw_l2": p["bw_l2"] / factor, "t_tile": p["t_tile"] * factor}


def padded(op: FusedExperts) -> FusedExperts:
    """mxfp4 experts as vLLM pads them for Marlin."""
    width, hidden = padded_for_marlin(op.width, op.hidden)
    return replace(op, width=width, hidden=hidden)
