"""Machines without streaming multiprocessors, and machines of another vendor than the one that was fitted.

The former (TPUs, wafers) have one form for every operation: a floor for starting it, then the larger of its arithmetic
and its bytes at the shares of peak that the machine's file states; bytes between chips go over the busiest link at the
share of memory's. No waves, no tiles, no libraries of another vendor. The latter run
the fitted forms on peaks that are scaled by how much of them each is known to reach.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.cost.cost import Cost
from moesim.cost.gpu import GpuNumbers
from moesim.cost.widening import around
from moesim.hardware.hardware import Hardware, Roofline
from moesim.ops import Collective, ExpertAllToAll, Host, LoopedExperts

if TYPE_CHECKING:
    from moesim.hardware.topology import Route

TEXT = "operations x t_operation + max(FLOP / (P compute), bytes / (B memory))"
LINK_TEXT = "t_operation + bytes / (B_link memory)"
HOST_TEXT = "t_step, as far as no step was composed ahead"
_BETWEEN = (Collective, ExpertAllToAll)


def prices(op: Any) -> bool:
    """Whether the roofline prices it: a loop is the sum of its parts."""
    return not isinstance(op, LoopedExperts)


def link_rate(gpu: GpuNumbers, way: Route | None, op: Any) -> float:
    """What a link between chips carries: the busiest of a cluster's wiring, or a chip's own. [B/s]"""
    if way is None:
        return gpu.link_bytes_per_s
    direct = isinstance(op, ExpertAllToAll) or op.kind == "alltoall"
    return way.direct_bytes_per_s if direct else way.ring_bytes_per_s


def seconds(form: Roofline, gpu: GpuNumbers, op: Any, way: Route | None = None) -> tuple[Any, Any, Any]:
    """(launch, arithmetic, memory or links) of one operation; the host's part of a step is a launch. [s]"""
    if isinstance(op, Host):
        alone = form.step.value * op.schedules
        hidden = np.maximum(alone - op.gpu_s, 0.0)
        return np.where(op.ahead, hidden, alone), 0.0, 0.0
    if isinstance(op, _BETWEEN):
        return form.operation.value, 0.0, op.link_bytes / (link_rate(gpu, way, op) * form.memory.value)
    rate = gpu.flop_per_s(getattr(op, "arithmetic", "bfloat16"))
    launches = np.ceil(getattr(op, "launches", 1) / form.fused) * form.operation.value
    return launches, op.flop / (rate * form.compute.value), op.hbm_bytes / (gpu.hbm_bytes_per_s * form.memory.value)


def price(hardware: Hardware, gpu: GpuNumbers, name: str, op: Any, way: Route | None = None) -> Cost:
    """The cost of one operation, as uncertain as the machine's file says."""
    form = hardware.roofline
    assert form is not None
    launch, compute, memory = seconds(form, gpu, op, way)
    total = _plain(launch + np.maximum(compute, memory))
    between = isinstance(op, _BETWEEN)
    parts = {"launch": launch, "compute": compute, "link" if between else "memory": memory}
    bound = "host" if isinstance(op, Host) else max(parts, key=lambda key: float(np.mean(parts[key])))
    text = HOST_TEXT if isinstance(op, Host) else LINK_TEXT if between else TEXT
    down, up = (_plain(x) for x in around(total, form.half_width))
    return Cost(
        name,
        total,
        {"links" if between else "roofline": (down, up)},
        bound,
        text,
        f"hwspecs/{hardware.name}:roofline",
        "assumed",
        op=op,
    )


def as_reached(gpu: GpuNumbers, hardware: Hardware, fitted: Hardware) -> GpuNumbers:
    """Peaks as the fitted forms should see them on another vendor's machine: scaled by what each is known to reach."""
    mine, theirs = hardware.achieved, fitted.achieved
    if hardware.vendor == fitted.vendor or mine is None or theirs is None:
        return gpu

    def share(name: str) -> float:
        return getattr(mine, name).value / getattr(theirs, name).value

    bf16, fp8, hbm = (share(name) for name in ("bf16", "fp8", "hbm"))
    return replace(
        gpu,
        bf16_flop_per_s=gpu.bf16_flop_per_s * bf16,
        fp8_flop_per_s=gpu.fp8_flop_per_s * fp8,
        int8_flop_per_s=gpu.int8_flop_per_s * fp8,
        fp4_flop_per_s=gpu.fp4_flop_per_s * fp8,
        hbm_bytes_per_s=gpu.hbm_bytes_per_s * hbm,
    )


def _plain(x: Any) -> Any:
    return float(x) if np.ndim(x) == 0 else x
