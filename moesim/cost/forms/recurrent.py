"""Linear attention: state updates of decodes, chunks of prompts, and the short convolution before them.

A decode moves states: bytes over bandwidth. A prompt's chunks follow one another, each waiting for the state of the one
before, so a sequence and head takes ``t_chain`` a chunk however idle the GPU is; many of them run in rounds over the
SMs, and where there is work enough its throughput decides, ``t_work`` of an SM for each head and chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.cost.forms.arithmetic import maximum, real
from moesim.cost.forms.form import Form, Parameter, Timing, joined, waves
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, chooses, families
from moesim.ops.recurrent import DeltaRule, ShortConvolution

_LAUNCH = Parameter("t_launch", "s", 4e-6, 1e-7, 1e-4, "one kernel, start to end")
_HBM = Parameter("e_hbm", "1", 0.8, 0.05, 1.2, "share of HBM bandwidth")
STREAMED_PARAMETERS = (_LAUNCH, _HBM)
CHUNKED_PARAMETERS = (
    Parameter("t_launch", "s", 1e-5, 1e-7, 2e-4, "start to end of what does not grow with chunks"),
    Parameter("t_chain", "s", 3e-6, 1e-8, 1e-4, "a chunk of one sequence and head after the one before"),
    Parameter("t_work", "s", 3e-6, 1e-8, 1e-3, "of an SM, for a chunk of one head"),
    Parameter("t_head", "s", 3e-6, 1e-9, 1e-3, "of an SM, for a sequence and head: its state read and written"),
    _HBM,
    Parameter("c_wave", "1", 0.7, 0.0, 1.0, "how far the last round of sequences and heads counts whole"),
    Parameter("p_join", "1", 4.0, 1.0, 12.0, "how sharply chain, work and memory join"),
)


def streamed_seconds(p: Mapping[str, float], op: Any, gpu: GpuNumbers) -> Timing:
    """A kernel that reads and writes what it keeps. [s]"""
    memory = real(op.hbm_bytes) / (gpu.hbm_bytes_per_s * p["e_hbm"])
    return Timing(p["t_launch"] + memory, p["t_launch"] + 0.0 * memory, memory, 0.0 * memory)


def chunked_seconds(p: Mapping[str, float], op: DeltaRule, gpu: GpuNumbers) -> Timing:
    """Prompts in chunks. [s]"""
    running, chunks = real(op.sequences * op.heads), real(op.chunks)
    rounds = waves(running, gpu.sm_count, p["c_wave"])
    each = chunks / maximum(real(op.sequences), 1e-9)
    chain = maximum(rounds * each, real(op.longest_chunks)) * p["t_chain"]
    work = (chunks * op.heads * p["t_work"] + running * p["t_head"]) / gpu.sm_count
    memory = real(op.hbm_bytes) / (gpu.hbm_bytes_per_s * p["e_hbm"])
    busy = joined(p["p_join"], chain, work)
    total = joined(p["p_join"], busy, memory)
    return Timing(p["t_launch"] + total, p["t_launch"] + 0.0 * total, memory, busy)


_RANGED = ("sequences", "tokens", "heads")
DECODE = Form(
    "state_decode", "t_launch + states read and written/(HBM e_hbm)", STREAMED_PARAMETERS, streamed_seconds, _RANGED
)
PREFILL = Form(
    "state_prefill",
    "t_launch + smax(rounds x chunks t_chain, (chunks x heads t_work + heads t_head)/SMs, bytes/(HBM e_hbm))",
    CHUNKED_PARAMETERS,
    chunked_seconds,
    _RANGED,
)
CONVOLUTION = Form(
    "short_convolution", "t_launch + tokens and kept ends/(HBM e_hbm)", STREAMED_PARAMETERS, streamed_seconds,
    ("sequences", "tokens", "channels"),
)  # fmt: skip

families(
    {
        "gdn_decode": DECODE, "kda_decode": DECODE, "gdn_prefill": PREFILL, "kda_prefill": PREFILL,
        "short_convolution_decode": CONVOLUTION, "short_convolution_prefill": CONVOLUTION,
    }
)  # fmt: skip

_MEASURED = {"gdn": "gdn", "kda": "kda", "kda_low_rank": "kda", "mamba2": "gdn"}
"""Whose kernels price which: Mamba-2's were timed by nobody; Kimi delta attention was fitted with Kimi-K3's gate, and
GLM-5.3-Flash's rows of a later version take half as long again."""


@chooses(DeltaRule)
def choose_update(machine: Any, name: str, op: DeltaRule) -> Choice:
    """The kernels of a kind of state, of decodes or of prompts."""
    phase = "decode" if op.generates else "prefill"
    return Choice(f"{_MEASURED[op.kind]}_{phase}", op, machine.gpu, related=_MEASURED[op.kind] != op.kind)


@chooses(ShortConvolution)
def choose_convolution(machine: Any, name: str, op: ShortConvolution) -> Choice:
    phase = "decode" if op.generates else "prefill"
    return Choice(f"short_convolution_{phase}", op, machine.gpu)
