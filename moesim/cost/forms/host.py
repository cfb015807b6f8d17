"""Weights through the CPU: as main memory streams them, or as its cores multiply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.cost.forms.arithmetic import real
from moesim.cost.forms.form import Form, Parameter, Timing, smooth_max
from moesim.cost.gpu import GpuNumbers
from moesim.ops.measured import HostMatrices, HostStream

_CORE = Parameter("bw_core", "B/s", 1e10, 1e8, 1e12, "what one thread draws from main memory")
_DRAM = Parameter("bw_dram", "B/s", 3e10, 1e9, 5e12, "what main memory gives all threads together")
STREAM_PARAMETERS = (_CORE, _DRAM)
MATRIX_PARAMETERS = (
    Parameter("t_call", "s", 1e-5, 1e-8, 1e-2, "one product: dispatch and waking threads"),
    _CORE,
    _DRAM,
    Parameter("flop_core", "FLOP/s", 3e10, 1e8, 1e13, "products of one thread, many rows"),
    Parameter("m_half", "1", 2.0, 1e-2, 1e3, "rows at which a thread multiplies at half that rate"),
    Parameter("m_threads", "1", 4.0, 1e-3, 1e3, "rows at which half of the threads beyond the first help"),
    Parameter("p_join", "1", 3.0, 1.0, 20.0, "sharpness of the maximum of memory and arithmetic"),
)


def _drawn(p: Mapping[str, float], threads: Any) -> Any:
    """Bytes a second of ``threads`` threads: each its own until memory is the limit."""
    return 1.0 / smooth_max(1.0 / (threads * p["bw_core"]), 1.0 / p["bw_dram"], 4.0)


def stream_seconds(p: Mapping[str, float], op: HostStream, gpu: GpuNumbers) -> Timing:
    """Bytes read (and written) by ``threads`` threads. [s]"""
    memory = real(op.hbm_bytes) / _drawn(p, real(op.threads))
    return Timing(memory, 0.0 * memory, memory, 0.0 * memory)


def matrix_seconds(p: Mapping[str, float], op: HostMatrices, gpu: GpuNumbers) -> Timing:
    """``products`` matrix products over ``rows`` rows, weights from main memory. [s]"""
    threads, rows = real(op.threads), real(op.rows)
    helping = 1.0 + (threads - 1.0) * rows / (rows + p["m_threads"])
    memory = real(op.hbm_bytes) / _drawn(p, helping)
    compute = real(op.flop) / (helping * p["flop_core"]) * (rows + p["m_half"]) / rows
    launch = op.products * p["t_call"]
    return Timing(launch + smooth_max(memory, compute, p["p_join"]), launch, memory, compute)


STREAM = Form(
    "host_stream", "bytes / smin(threads x bw_core, bw_dram)", STREAM_PARAMETERS, stream_seconds,
    ("hbm_bytes", "threads"),
)  # fmt: skip
MATRICES = Form(
    "host_matrices",
    "products x t_call + smax(bytes / smin(h x bw_core, bw_dram), FLOP / (h x flop_core) x (rows + m_half) / rows), "
    "h = 1 + (threads - 1) rows / (rows + m_threads)",
    MATRIX_PARAMETERS,
    matrix_seconds,
    ("rows", "hbm_bytes", "threads"),
)
