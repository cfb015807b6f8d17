"""Power from what a prediction keeps busy: memory and arithmetic, over what a GPU with a model on it draws idle.

``P = idle + (limit - idle) (a u_tensor + b u_HBM)``, never above the limit. ``u`` are the shares of peak that a run
uses, from its cost tree. Constants in ``calibration/power/fit.json``, which ``moesim fit-power`` writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from moesim import paths
from moesim.cost.cost import Cost, leaf_seconds
from moesim.cost.machine import Machine
from moesim.hardware.hardware import Hardware

FIT = paths.CALIBRATION / "power" / "fit.json"


@dataclass(frozen=True)
class Utilisation:
    """Shares of a GPU's peaks that a run uses while it works."""

    tensor: float
    hbm: float
    link: float


@dataclass(frozen=True)
class PowerFit:
    """Constants of the formula, and how well they are known."""

    gpu: str
    idle_w: float
    """Of that GPU with weights resident."""
    hbm: float
    tensor: float
    """Assumed: no row of a run that arithmetic bounds was measured."""
    half_width: float
    """90 %, relative, on the GPU it was fitted on."""
    half_width_elsewhere: float
    """The same on others; assumed."""


@lru_cache(maxsize=1)
def power_fit() -> PowerFit:
    data = json.loads(FIT.read_text(encoding="utf-8"))
    values = {name: entry["value"] for name, entry in data["parameters"].items()}
    return PowerFit(
        data["gpu"], values["idle_w"], values["b_hbm"], values["a_tensor"], data["half_width"],
        data["half_width_elsewhere"],
    )  # fmt: skip


def utilisation(cost: Cost, machine: Machine) -> Utilisation:
    """Shares of peak over a run's busy time: each operation's work at peak over its own time, weighed by time."""
    gpu, total = machine.gpu, 0.0
    tensor = hbm = link = 0.0
    for leaf, seconds in leaf_seconds(cost):
        taken = float(np.sum(seconds))
        total += taken
        if leaf.op is None or taken <= 0 or leaf.bound in {"host", "overlap"}:
            continue
        each = float(np.mean(np.asarray(machine.seconds(leaf.name, leaf.op), float)))
        if each <= 0:
            continue
        share = taken / each
        tensor += share * _mean(leaf.op, "flop") / gpu.flop_per_s(getattr(leaf.op, "arithmetic", "bfloat16"))
        hbm += share * _mean(leaf.op, "hbm_bytes") / gpu.hbm_bytes_per_s
        link += share * _mean(leaf.op, "link_bytes") / gpu.link_bytes_per_s
    total = max(total, 1e-30)
    return Utilisation(*(min(float(x) / total, 1.0) for x in (tensor, hbm, link)))


def _mean(op: Any, name: str) -> float:
    return float(np.mean(np.asarray(getattr(op, name, 0.0), float)))


def idle_w(hardware: Hardware, fit: PowerFit | None = None) -> float:
    """What a GPU draws with weights resident and nothing to do: as fitted, or the same share of its limit. [W]"""
    from moesim.hardware.catalogue import load_hardware

    fit = fit or power_fit()
    share = fit.idle_w / load_hardware(fit.gpu).gpu.power.value
    return share * hardware.gpu.power.value


def power_w(hardware: Hardware, used: Utilisation) -> float:
    """What a GPU draws while it works. [W]"""
    fit = power_fit()
    idle, limit = idle_w(hardware, fit), hardware.gpu.power.value
    return min(idle + (limit - idle) * (fit.tensor * used.tensor + fit.hbm * used.hbm), limit)


def interval_w(hardware: Hardware, watts: float) -> tuple[float, float]:
    """90 % of a GPU's mean power. [W]"""
    fit = power_fit()
    width = fit.half_width if hardware.name == fit.gpu else fit.half_width_elsewhere
    return watts * (1 - width), min(watts * (1 + width), hardware.gpu.power.value)
