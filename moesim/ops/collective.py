"""Messages between GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AllReduce:
    """Sum of ``message_bytes`` over ``ranks`` GPUs of a node, result on each."""

    message_bytes: Any
    ranks: Any
    kind: str = "all_reduce"

    flop = 0.0

    @property
    def hbm_bytes(self) -> Any:
        """Read once and written once on each rank, at least. [B]"""
        return 2.0 * self.message_bytes

    @property
    def link_bytes(self) -> Any:
        """Sent by each rank: 2 (n - 1) / n of the message (nccl-tests, PERFORMANCE.md). [B]"""
        return 2.0 * (self.ranks - 1) / self.ranks * self.message_bytes
