"""Mixing of residual streams around a block (hyper-connections)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.cost.forms.arithmetic import maximum, real
from moesim.cost.forms.form import Form, Parameter, Timing, smooth_max
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, chooses, families
from moesim.ops.streams import StreamMix

PARAMETERS = (
    Parameter("t_launch", "s", 1e-5, 1e-7, 1e-4, "kernels of few tokens, start to end"),
    Parameter("t_token", "s", 1e-8, 1e-12, 1e-6, "a token's share of work that grows with tokens alone"),
    Parameter("e_hbm", "1", 0.7, 0.02, 1.2, "share of HBM bandwidth"),
    Parameter("p_join", "1", 3.0, 1.0, 12.0, "how sharply launch and work join"),
)


def mix_seconds(p: Mapping[str, float], op: StreamMix, gpu: GpuNumbers) -> Timing:
    """A mix of streams: launches, then bytes. [s]"""
    memory = real(op.hbm_bytes) / (gpu.hbm_bytes_per_s * p["e_hbm"])
    work = memory + real(op.tokens) * p["t_token"]
    total = smooth_max(p["t_launch"] + 0.0 * work, maximum(work, 1e-12), p["p_join"])
    return Timing(total, p["t_launch"] + 0.0 * work, memory, work - memory)


FORM = Form("mhc", "smax(t_launch, bytes/(HBM e_hbm) + tokens t_token)", PARAMETERS, mix_seconds, ("tokens", "hidden"))

families({"mhc": FORM})


@chooses(StreamMix)
def choose(machine: Any, name: str, op: StreamMix) -> Choice:
    return Choice(f"mhc/{op.phase}", op, machine.gpu)
