"""Kernels that only move bytes, and the host's share of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from moesim.cost.cost import Cost
from moesim.cost.forms.arithmetic import log2, maximum, real, where
from moesim.cost.forms.form import Form, Parameter, Timing, smooth_max
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, chooses, families, prices
from moesim.ops.elementwise import Elementwise, Host

PARAMETERS = (
    Parameter("t_launch", "s", 2e-6, 1e-7, 2e-5, "one kernel, start to end"),
    Parameter("t_row", "s", 0.5e-6, 1e-9, 2e-5, "one row's thread block on one SM"),
    Parameter("e_hbm", "1", 0.8, 0.05, 1.0, "share of HBM bandwidth"),
    Parameter("r_l2", "1", 2.0, 1.0, 10.0, "bandwidth of L2-resident data over HBM"),
    Parameter("c_l2", "1", 0.7, 0.05, 3.0, "share of L2 that keeps the data between calls"),
    Parameter("p_join", "1", 3.0, 1.0, 20.0, "overlap of rows and bytes"),
)


def seconds(p: Mapping[str, float], op: Elementwise, gpu: GpuNumbers) -> Timing:
    """``launches`` kernels over ``rows`` rows that move ``hbm_bytes``. [s]"""
    moved = real(op.hbm_bytes)
    cold = (moved / maximum(p["c_l2"] * gpu.l2_bytes, 1.0)) ** 4
    hbm = 1.0 / (gpu.hbm_bytes_per_s * p["e_hbm"])
    memory = moved * hbm * (cold + 1.0 / p["r_l2"]) / (1.0 + cold)
    rows = op.launches * real(op.rows) * p["t_row"] / gpu.sm_count
    launch = maximum(op.launches * p["t_launch"], op.least_s)
    return Timing(launch + smooth_max(memory, rows, p["p_join"]), launch, memory, rows)


FORM = Form(
    "elementwise",
    "max(launches x t_launch, least_s) + smax(bytes/(HBM e_hbm), rows x t_row / SMs)",
    PARAMETERS,
    seconds,
    ("rows", "hbm_bytes"),
)

HOST_PARAMETERS = (
    Parameter("t_step", "s", 5e-4, 0.0, 1e-1, "schedule, prepare inputs, launch and sample, per step"),
    Parameter("t_sequence", "s", 2e-6, 0.0, 1e-3, "per sequence in the batch"),
    Parameter("t_last_rank", "s", 1e-4, 0.0, 1e-2, "wait for the last rank to begin a step, per doubling of ranks"),
    Parameter("t_kernel_eager", "s", 20e-6, 0.0, 1e-4, "host time of one operation without a CUDA graph"),
)


def host_work(p: Mapping[str, float], op: Host) -> tuple[Any, Any]:
    """(scheduling, preparing and sampling; launching kernels one by one where no graph runs them). [s]"""
    launching = where(op.graph, 0.0, op.kernels * p["t_kernel_eager"])
    return op.schedules * (p["t_step"] + op.sequences * p["t_sequence"]), launching


def host_seconds(p: Mapping[str, float], op: Host, gpu: GpuNumbers) -> Timing:
    """Time of a step during which the GPU waits for the host. [s]

    Launches run ahead of the GPU in any case; with asynchronous scheduling the rest does too, for the next step, and
    no rank waits for another to begin.
    """
    preparing, launching = host_work(p, op)
    waiting = op.schedules * p["t_last_rank"] * log2(real(op.ranks))
    alone = preparing + waiting + maximum(launching - op.gpu_s, 0.0)
    total = where(op.ahead, maximum(preparing + launching - op.gpu_s, 0.0), alone)
    return Timing(total, total, 0.0 * total, 0.0 * total)


HOST = Form(
    "host",
    "t_step + t_sequence x sequences + t_last_rank log2(ranks) + launches (no CUDA graph), as far as the GPU waits",
    HOST_PARAMETERS,
    host_seconds,
    ("sequences",),
)

families({"elementwise": FORM, "small": FORM, "host": HOST})

OWN_FAMILY = {
    **dict.fromkeys(("input_norm", "post_norm", "cross_norm", "final_norm"), "small/norm"),
    **dict.fromkeys(("mlp_act", "shared_act"), "small/activation"),
    "rope": "small/rope",
    "top_k": "small/top_k",
    "embedding": "small/embedding",
    "sampling": "small/sampling",
}
"""Operation -> the family of its own kernel, where a calibration has measured it; else a related one stands in."""


@chooses(Elementwise)
def choose(machine: Any, name: str, op: Elementwise) -> Choice:
    own = OWN_FAMILY.get(name, "")
    if own and machine.has_own(own):
        return Choice(own, op, machine.gpu)
    return Choice("elementwise", op, machine.gpu, related=True)


@prices(Host)
def price_host(machine: Any, name: str, op: Host) -> Cost:
    """What the GPU waits for the host; launches one by one are assumed."""
    p = machine.family("host")[0].parameters
    waits = np.logical_not(op.graph) & (op.kernels * p["t_kernel_eager"] > op.gpu_s)
    cost = machine.priced(name, Choice("host", op, machine.gpu, related=waits))
    return replace(cost, bound="host", tag="assumed" if np.any(waits) else cost.tag)
