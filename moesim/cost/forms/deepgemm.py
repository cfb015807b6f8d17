"""DeepGEMM's contiguous layout: every expert's rows are padded to blocks of 128, and padding is fed like rows.

``ceil((N k + E 127) / 128)`` blocks run whatever N is, E being the experts of the rank (or, in later versions, as many
as there are rows). A block of padding has nothing to compute, but its tiles of A and B are loaded all the same, and
loading is what a tile takes: an SM is fed 256 K bytes for it, whatever the block holds.

    t = max(weights of distinct experts / (HBM e_hbm), tiles of blocks with rows x (t_tile + 256 K / bw_feed) / SMs)
        + tiles of padding x (t_tile + 256 K / bw_feed) / SMs

for each of the two products, with the other constants of DeepGEMM's dense kernel (whose feed is twice that: its tiles
share operands over pairs of SMs); and around them the kernels that quantise, scatter, activate and gather.
(docs/model/experts.md)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.cost.forms.arithmetic import ceil, maximum, minimum, real
from moesim.cost.forms.form import Form, Parameter, Timing
from moesim.cost.gpu import GpuNumbers
from moesim.engines.file import ExpertKernel

_BLOCK = 128
_COLUMNS = 128

PARAMETERS = (
    Parameter("bw_feed", "B/s", 55.6e9, 1e10, 4e11, "feed of one SM through L2, on blocks with rows and of padding"),
)
DENSE = ("t_tile", "e_mma", "e_hbm")
"""Constants of the dense kernel, from its own fit."""
AROUND = ("t_fixed", "e_rows")
"""Constants of the kernels around the products, from the Triton path's fit."""


def blocks_of(op: Any, few: bool) -> Any:
    """Blocks of 128 rows that run, padding among them: slots of other ranks' experts count too."""
    rows = op.tokens * op.top_k
    padded = minimum(rows, op.num_experts) if few else op.num_experts
    return ceil((rows + padded * (_BLOCK - 1)) / _BLOCK)


def seconds(p: Mapping[str, float], op: Any, gpu: GpuNumbers, few: bool, computed: bool) -> Timing:
    """Time of one MoE layer's routed experts on one GPU. [s]

    Parameters
    ----------
    few : bool
        No more experts are padded than there are rows.
    computed : bool
        Blocks of padding are multiplied too, and not only loaded.
    """
    run = blocks_of(op, few)
    blocks = minimum(op.blocks(_BLOCK), run)
    padding = maximum(run - blocks, 0.0)
    width, hidden, rows, sms = real(op.width), real(op.hidden), op.rows, gpu.sm_count
    memory: Any = 0.0
    total: Any = 0.0
    compute: Any = 0.0
    for n, k in (((1.0 + op.gated) * width, hidden), (hidden, width)):
        columns = ceil(n / _COLUMNS)
        product = 2.0 * _BLOCK * _COLUMNS * sms / (gpu.fp8_flop_per_s * p["e_mma"])
        feed = (_BLOCK + _COLUMNS) / p["bw_feed"]
        tile = p["t_tile"] + k * maximum(product, feed)
        empty = p["t_tile"] + k * (maximum(product, feed) if computed else feed)
        stream = (op.distinct * n * k + rows * (k + 2.0 * n)) / (gpu.hbm_bytes_per_s * p["e_hbm"])
        tiles = maximum(blocks * columns / sms, 1.0) * tile
        total = total + maximum(stream, tiles) + padding * columns / sms * empty
        memory, compute = memory + stream, compute + tiles + padding * columns / sms * empty
    # Activation and its quantisation run over the whole buffer, scatter and gather over the slots.
    buffer = run * _BLOCK * width * (2.0 * (1.0 + op.gated) + 1.0)
    slots = op.tokens * op.top_k * hidden * 3.0 + op.tokens * hidden * 5.0
    around = (buffer + slots) / (gpu.hbm_bytes_per_s * p["e_rows"])
    return Timing(p["t_fixed"] + total + around, p["t_fixed"], memory + around, compute)


FORM = Form(
    "fused_moe_deepgemm",
    "t_fixed + sum over gate-up and down of [max(weights/HBM, tiles with rows) + tiles of padding] x (t_tile + "
    "256 K/bw_feed)/SMs + buffers/(HBM e_rows)",
    PARAMETERS,
    seconds,
    ("tokens", "hidden", "width", "num_experts", "top_k"),
)


def with_constants(machine: Any, kernel: ExpertKernel) -> dict[str, Any]:
    """The form's own constant beside those of the kernels it is made of, and what the engine's version does."""
    dense = machine.family("gemm/fp8_block")[0].parameters
    around = machine.family("fused_moe/fp8_block")[0].parameters
    own = machine.family(kernel.family)[0].parameters
    borrowed = {name: dense[name] for name in DENSE} | {name: around[name] for name in AROUND}
    return {
        "parameters": borrowed | dict(own),
        "extra": (kernel.padded_experts == "few", kernel.padded_rows == "computed"),
    }
