"""Bytes at full speed: GPU memory alone, copies between host and GPU, and what starting work costs the host."""

from __future__ import annotations

from collections.abc import Mapping

from moesim.cost.forms.arithmetic import maximum, real
from moesim.cost.forms.form import Form, Parameter, Timing
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import families
from moesim.ops.host import Copy
from moesim.ops.measured import Launches, Stream

STREAM_PARAMETERS = (
    Parameter("t_launch", "s", 2e-6, 1e-7, 2e-5, "one kernel, start to end"),
    Parameter("e_hbm", "1", 0.9, 0.1, 1.2, "share of HBM bandwidth"),
)
COPY_PARAMETERS = (
    Parameter("t_copy", "s", 8e-6, 1e-7, 1e-3, "start of a copy to its first byte"),
    Parameter("bw_link", "B/s", 2.5e10, 1e8, 2e12, "bytes a second once it runs"),
)
LAUNCH_PARAMETERS = (
    Parameter("t_fixed", "s", 6e-6, 1e-8, 1e-3, "start, and waiting for the answer where the host waits"),
    Parameter("t_kernel", "s", 1.5e-6, 1e-8, 1e-4, "each kernel after the first"),
)


def stream_seconds(p: Mapping[str, float], op: Stream, gpu: GpuNumbers) -> Timing:
    """A kernel that only moves cold bytes. [s]"""
    memory = real(op.hbm_bytes) / (gpu.hbm_bytes_per_s * p["e_hbm"])
    return Timing(p["t_launch"] + memory, p["t_launch"], memory, 0.0 * memory)


def copy_seconds(p: Mapping[str, float], op: Copy, gpu: GpuNumbers) -> Timing:
    """Copies over the link between host and GPU. [s]"""
    memory = real(op.count * op.bytes_each) / p["bw_link"]
    return Timing(op.count * p["t_copy"] + memory, op.count * p["t_copy"], memory, 0.0 * memory)


def launch_seconds(p: Mapping[str, float], op: Launches, gpu: GpuNumbers) -> Timing:
    """What the host spends on ``kernels`` tiny kernels. [s]"""
    total = p["t_fixed"] + maximum(real(op.kernels) - 1.0, 0.0) * p["t_kernel"]
    return Timing(total, total, 0.0 * total, 0.0 * total)


STREAM = Form("stream", "t_launch + bytes / (HBM e_hbm)", STREAM_PARAMETERS, stream_seconds, ("hbm_bytes",))
COPY = Form("copy", "copies x (t_copy + bytes / bw_link)", COPY_PARAMETERS, copy_seconds, ("bytes_each",))
LAUNCH = Form("launch", "t_fixed + (kernels - 1) x t_kernel", LAUNCH_PARAMETERS, launch_seconds, ("kernels",))

families({"stream": STREAM, "copy": COPY, "launch": LAUNCH})
