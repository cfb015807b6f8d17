"""Kernels that only move bytes, and what the host does between steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Elementwise:
    """``launches`` kernels over ``rows`` rows that read and write ``hbm_bytes`` in all."""

    rows: Any
    hbm_bytes: Any
    launches: Any = 1
    of_context: bool = False
    """Its bytes depend on what is cached."""
    least_s: float = 0.0
    """What its steps take one after the other, however few its rows. [s]"""

    flop = 0.0


@dataclass(frozen=True, slots=True)
class Host:
    """What the engine's Python and the launch of a step cost with ``sequences`` in the batch.

    A CUDA graph replays the step's ``kernels`` in one launch; without one each is launched while the GPU works
    through ``gpu_s`` seconds of them, and the step waits for whichever takes longer.
    """

    sequences: Any
    kernels: Any
    graph: Any
    gpu_s: Any
    ahead: Any = False
    """Asynchronous scheduling: the host prepares the next step while the GPU works on this one."""
    schedules: bool = True
    """It composes the step; a pipeline's later stages only launch it."""
    ranks: int = 1
    """Processes that each begin the step on a GPU of their own: of a tensor-parallel group."""

    flop = 0.0
    hbm_bytes = 0.0
    of_context = False
