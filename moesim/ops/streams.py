"""Several residual streams mixed around every block (manifold-constrained hyper-connections, arXiv 2512.24880)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StreamMix:
    """``pre`` makes a block's input of ``streams`` residual streams, ``post`` spreads its output over them.

    The weights of the mix are a product of all streams with a small matrix, normalised by a few iterations.
    """

    phase: str
    tokens: Any
    streams: Any
    hidden: Any

    arithmetic = "float32"
    of_context = False

    @property
    def mixes(self) -> Any:
        """Numbers that say how a token's streams mix: in, out, and among themselves."""
        return (2.0 + self.streams) * self.streams

    @property
    def flop(self) -> Any:
        """The small product, and the sums over streams. [FLOP]"""
        product = 2.0 * self.tokens * self.streams * self.hidden * self.mixes
        mixed = 2.0 * self.tokens * self.hidden * self.streams
        return product + mixed if self.phase == "pre" else mixed * (1.0 + self.streams)

    @property
    def hbm_bytes(self) -> Any:
        """Streams in and one row out; or streams and a row in, streams out. [B]"""
        rows = self.streams + 1.0 if self.phase == "pre" else 2.0 * self.streams + 1.0
        small = 4.0 * self.mixes * self.streams * self.hidden if self.phase == "pre" else 0.0
        return 2.0 * self.tokens * self.hidden * rows + small
