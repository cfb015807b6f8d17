"""Messages between GPUs, counted as nccl-tests counts them (PERFORMANCE.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BUS_FACTOR = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "alltoall": 1.0}
"""Bytes a rank sends over the message: this times (n - 1) / n."""


@dataclass(frozen=True, slots=True)
class Collective:
    """``kind`` (a key of ``BUS_FACTOR``, or ``send_recv`` to one other rank) over ``ranks`` GPUs.

    ``message_bytes`` is the whole buffer of a rank: what is summed, gathered, scattered, exchanged or sent.
    """

    message_bytes: Any
    ranks: Any
    kind: str = "all_reduce"
    members: tuple[int, ...] = ()
    """The GPUs' places in the cluster; empty means neighbours of one node."""
    algorithm: str = "auto"
    """``auto`` is what the library would choose."""
    busiest: Any = 1.0
    """All-to-all: what the busiest rank receives over the mean."""
    custom: bool = True
    """Whether an engine may use its own all-reduce kernel."""

    flop = 0.0
    of_context = False

    @property
    def hbm_bytes(self) -> Any:
        """Read once and written once on each rank, at least. [B]"""
        return 2.0 * self.message_bytes

    @property
    def link_bytes(self) -> Any:
        """Sent by each rank (received by the busiest): (n - 1) / n of the message, twice for an all-reduce. [B]"""
        if self.kind == "send_recv":
            return 1.0 * self.message_bytes
        return BUS_FACTOR[self.kind] * (self.ranks - 1) / self.ranks * self.message_bytes * self.busiest
