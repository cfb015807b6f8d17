"""Collectives over the GPUs of a node.

NCCL runs each message with the protocol that is fastest for it: LL for short ones (low latency, a share of the
bandwidth), Simple for long ones, in a ring or, for all-reduce over more than four NVSwitch ranks, with the
switch adding up (NVLS). vLLM's custom all-reduce reads peers' buffers directly: once each below a size, in two
shots above. Its symmetric-memory all-reduce copies the message in and
lets the switch add. Floors grow with ranks, volumes follow nccl-tests' bus factors.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.cost.forms.form import Form, Parameter, Timing, smooth_max
from moesim.cost.gpu import GpuNumbers
from moesim.ops.collective import AllReduce

BUS_FACTOR = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "alltoall": 1.0}
"""Link volume over message: this times (n - 1) / n (nccl-tests, PERFORMANCE.md)."""

_NVLS_ABOVE_RANKS = 4

NCCL_PARAMETERS = (
    Parameter("t_short", "s", 4e-6, 1e-7, 5e-5, "LL: launch and one hop"),
    Parameter("t_short_hop", "s", 1e-6, 0.0, 1e-5, "LL: each further rank"),
    Parameter("r_short", "1", 0.25, 0.02, 1.0, "LL: link bandwidth, share of the datasheet"),
    Parameter("t_long", "s", 8e-6, 1e-7, 1e-4, "Simple: launch and one hop"),
    Parameter("t_long_hop", "s", 1e-6, 0.0, 2e-5, "Simple: each further rank"),
    Parameter("r_long", "1", 0.8, 0.1, 1.5, "Simple: link bandwidth, share of the datasheet"),
    Parameter("r_copy", "1", 0.5, 0.02, 20.0, "local copies, share of HBM bandwidth"),
    Parameter("r_nvls", "1", 0.6, 0.1, 1.5, "in-switch reduction, share of the link's datasheet"),
    Parameter("n_half", "B", 1e6, 1.0, 1e8, "message at which the link reaches half of its rate"),
    Parameter("x_shared", "1", 0.1, 0.0, 3.0, "how bandwidth per rank falls with ranks that share a link (PCIe)"),
    Parameter("p_min", "1", 4.0, 1.0, 20.0, "sharpness of the choice of protocol"),
)

CUSTOM_PARAMETERS = (
    Parameter("t_launch", "s", 4e-6, 1e-7, 5e-5, "launch and barrier"),
    Parameter("t_rank", "s", 0.1e-6, 0.0, 1e-5, "each further rank"),
    Parameter("r_one_shot", "1", 0.5, 0.02, 2.0, "reading every peer, share of the link's datasheet"),
    Parameter("t_two_shot", "s", 2e-6, 0.0, 2e-5, "second shot: barrier and gather"),
    Parameter("r_two_shot", "1", 0.7, 0.02, 1.5, "two shots, share of the link's datasheet"),
    Parameter("r_copy", "1", 0.5, 0.02, 20.0, "local copies, share of HBM bandwidth"),
)


SYMMETRIC_PARAMETERS = (
    Parameter("t_launch", "s", 9e-6, 1e-7, 5e-5, "copy in, barriers and launch"),
    Parameter("r_link", "1", 0.5, 0.02, 2.0, "in-switch reduction, share of the link's datasheet"),
    Parameter("r_copy", "1", 0.5, 0.02, 20.0, "the copy in, share of HBM bandwidth"),
)


def symmetric_seconds(p: Mapping[str, float], op: AllReduce, gpu: GpuNumbers) -> Timing:
    """vLLM's all-reduce through symmetric memory: a copy in, then a multimem reduction. [s]"""
    message = np.asarray(op.message_bytes, float)
    copy = 2.0 * message / (gpu.hbm_bytes_per_s * p["r_copy"])
    transfer = message / (gpu.link_bytes_per_s * p["r_link"]) + copy
    return Timing(p["t_launch"] + transfer, p["t_launch"], transfer, np.zeros_like(transfer))


def nccl_seconds(p: Mapping[str, float], op: AllReduce, gpu: GpuNumbers) -> Timing:
    """An NCCL collective inside a node. [s]"""
    n = np.asarray(op.ranks, float)
    message = np.asarray(op.message_bytes, float)
    volume = BUS_FACTOR[op.kind] * (n - 1) / n * message * (n / 2) ** p["x_shared"]
    copy = message / (gpu.hbm_bytes_per_s * p["r_copy"])
    short = p["t_short"] + p["t_short_hop"] * (n - 2) + volume / (gpu.link_bytes_per_s * p["r_short"])
    link = gpu.link_bytes_per_s * p["r_long"]
    transfer = (volume + p["n_half"] * (1 - np.exp(-volume / p["n_half"]))) / link + copy
    long = p["t_long"] + p["t_long_hop"] * (n - 2) + transfer
    if op.kind == "all_reduce":
        switch = p["t_long"] + p["t_long_hop"] * (n - 2) + message / (gpu.link_bytes_per_s * p["r_nvls"]) + copy
        long = np.where(n > _NVLS_ABOVE_RANKS, np.minimum(long, switch), long)
    sharp = p["p_min"]
    total = 1.0 / smooth_max(1.0 / short, 1.0 / long, sharp)
    launch = np.minimum(p["t_short"] + p["t_short_hop"] * (n - 2), total)
    return Timing(total, launch, total - launch, np.zeros_like(total))


def custom_seconds(p: Mapping[str, float], op: AllReduce, gpu: GpuNumbers) -> Timing:
    """vLLM's custom all-reduce inside a CUDA graph. [s]"""
    n, message = np.asarray(op.ranks, float), np.asarray(op.message_bytes, float)
    one_shot_limit = np.where(n == 2, np.inf, np.where(n <= 4, 512 * 1024, 256 * 1024))
    launch = p["t_launch"] + p["t_rank"] * (n - 2)
    copy = message / (gpu.hbm_bytes_per_s * p["r_copy"])
    one = (n - 1) * message / (gpu.link_bytes_per_s * p["r_one_shot"])
    two = p["t_two_shot"] + 2 * (n - 1) / n * message / (gpu.link_bytes_per_s * p["r_two_shot"])
    transfer = np.where(message < one_shot_limit, one, two) + copy
    return Timing(launch + transfer, launch, transfer, np.zeros_like(transfer))


NCCL = Form(
    "nccl",
    "min over protocols of t + t_hop (n - 2) + volume/(link r) + copies, NVLS above four ranks",
    NCCL_PARAMETERS,
    nccl_seconds,
    ("message_bytes", "ranks"),
)
SYMMETRIC = Form(
    "symmetric_memory_all_reduce",
    "t_launch + m/(link r_link) + 2 m/(HBM r_copy)",
    SYMMETRIC_PARAMETERS,
    symmetric_seconds,
    ("message_bytes", "ranks"),
)
CUSTOM = Form(
    "custom_all_reduce",
    "t_launch + t_rank (n - 2) + (n - 1) m/(link r) in one shot, or t_two_shot + 2(n - 1)/n m/(link r) in two",
    CUSTOM_PARAMETERS,
    custom_seconds,
    ("message_bytes", "ranks"),
)
