"""Kernels that only move bytes, and what the host does between steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Elementwise:
    """``launches`` kernels over ``rows`` rows that read and write ``hbm_bytes`` in all."""

    rows: Any
    hbm_bytes: Any
    launches: int = 1

    flop = 0.0


@dataclass(frozen=True, slots=True)
class Host:
    """What the engine's Python and the launch of a step cost with ``sequences`` in the batch.

    ``kernels`` are the launches of one step: a CUDA graph replays them in one, eager mode pays each.
    """

    sequences: Any
    kernels: Any
    graph: Any

    flop = 0.0
    hbm_bytes = 0.0
