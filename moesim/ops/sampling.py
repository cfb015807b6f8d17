"""Sorting the vocabulary, as sampling by top-p or top-k does where no kernel avoids it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sort:
    """``rows`` sequences' logits over ``entries`` vocabulary entries, sorted, added up, cut and put back in order."""

    rows: Any
    entries: Any

    flop = 0.0
    hbm_bytes = 0.0
    launches = 12
    of_context = False
