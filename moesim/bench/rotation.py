"""How many copies of an operand keep it out of the L2 cache."""

from __future__ import annotations

COLD_BYTES = 256 << 20
"""More than any L2 holds."""
_MOST_COPIES = 8


def copies_of(nbytes: float) -> int:
    """Copies to rotate through so that none is still in L2 when its turn comes."""
    return int(max(1, min(_MOST_COPIES, COLD_BYTES // max(nbytes, 1) + 1)))
