"""Experts with a fixed number of slots, or blocks that are filled up: what a rank computes, which tokens are dropped.

GShard and Switch (arXiv 2006.16668, 2101.03961) give each expert ``C = ceil(f k N / E)`` slots for a group's tokens;
Fairseq gives it a share of them, ``C = ceil(s N)``. Slots that no token fills are computed and sent all the same;
tokens beyond them are dropped. MegaBlocks (arXiv 2211.15841) drops none and fills rows up to blocks of 128.
Answers as ``Loads`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from moesim.experts.placement import GroupLoads
from moesim.experts.routing import Loads

Array = np.ndarray[Any, Any]
SPARSE_BLOCK = 128
"""Rows of a block of MegaBlocks' sparse products."""


@dataclass(frozen=True)
class Capacity:
    """Slots of an expert for the tokens of a group; tokens of a step come in ``groups`` equal ones."""

    factor: float | None
    share: float | None
    groups: int = 1

    def slots(self, tokens: int, top_k: int, experts: int) -> int:
        """Of one expert, over all groups."""
        mine = -(-tokens // self.groups)
        wanted = mine * self.share if self.share is not None else (self.factor or 0.0) * top_k * mine / experts
        # An expert sees a token once.
        return self.groups * min(max(ceil(wanted - 1e-9), 1), max(mine, 1))


@dataclass(frozen=True)
class _Fixed:
    """What all kinds of dispatch share: the layer's own loads, and the part of its experts on this rank."""

    loads: Loads | GroupLoads
    experts: int
    """On this rank, replicas among them."""

    @property
    def whole(self) -> Loads:
        return self.loads.whole if isinstance(self.loads, GroupLoads) else self.loads

    @property
    def kind(self) -> str:
        return self.loads.kind

    def spread(self, tokens: Any) -> Array:
        return self.loads.spread(tokens)

    def deviation(self, tokens: Any) -> Array:
        return self.loads.deviation(tokens) if isinstance(self.loads, GroupLoads) else np.zeros(np.shape(tokens))

    def imbalance(self, tokens: Any) -> Array:
        return self.loads.imbalance(tokens) if isinstance(self.loads, GroupLoads) else np.ones(np.shape(tokens))


@dataclass(frozen=True)
class StaticCapacity(_Fixed):
    """Every slot of every expert is computed, filled or not."""

    capacity: Capacity

    def slots(self, tokens: Any) -> Array:
        """Of one expert."""
        whole = self.whole
        return whole.per_token_count(tokens, lambda n: self.capacity.slots(n, whole.top_k, whole.num_experts))

    def rows(self, tokens: Any) -> Array:
        return self.experts * self.slots(tokens)

    def distinct(self, tokens: Any) -> Array:
        return self.experts + 0.0 * np.asarray(tokens, float)

    def blocks(self, tokens: Any, block: Any) -> Array:
        return self.experts * np.ceil(self.slots(tokens) / np.asarray(block))

    def spread(self, tokens: Any) -> Array:
        return np.zeros(np.shape(tokens))

    def deviation(self, tokens: Any) -> Array:
        return np.zeros(np.shape(tokens))

    def imbalance(self, tokens: Any) -> Array:
        return np.ones(np.shape(tokens))


@dataclass(frozen=True)
class Dropping(_Fixed):
    """Filled slots alone are computed; tokens beyond an expert's slots are dropped."""

    capacity: Capacity

    def _limit(self, n: int) -> int:
        """Slots of an expert for a group's tokens."""
        return self.capacity.slots(n, self.whole.top_k, self.whole.num_experts) // self.capacity.groups

    def rows(self, tokens: Any) -> Array:
        def kept(n: int) -> float:
            if isinstance(self.loads, Loads):
                return n * self.loads.top_k * kept_share(self.loads, n, self.capacity) if n > 0 else 0.0
            return self.loads.kept(n, self._limit(n), self.capacity.groups)

        return self.whole.per_token_count(tokens, kept)

    def distinct(self, tokens: Any) -> Array:
        return self.loads.distinct(tokens)

    def blocks(self, tokens: Any, block: Any) -> Array:
        def kept(n: int, b: int) -> float:
            return self.loads.kept_blocks(n, b, self._limit(n) * self.capacity.groups)

        return self.whole.per_token_and_block(tokens, block, kept)


@dataclass(frozen=True)
class BlockSparse(_Fixed):
    """Every expert's rows filled up to whole blocks; none is dropped."""

    def rows(self, tokens: Any) -> Array:
        return SPARSE_BLOCK * self.loads.blocks(tokens, SPARSE_BLOCK)

    def distinct(self, tokens: Any) -> Array:
        return self.loads.distinct(tokens)

    def blocks(self, tokens: Any, block: Any) -> Array:
        return self.loads.blocks(tokens, SPARSE_BLOCK) * np.ceil(SPARSE_BLOCK / np.asarray(block))


def kept_share(loads: Loads, tokens: int, capacity: Capacity) -> float:
    """Share of (token, expert) pairs that find a slot: ``sum_e E[min(X_e, C)] / (k N)``, every group on its own."""
    mine = -(-tokens // capacity.groups)
    slots = capacity.slots(tokens, loads.top_k, loads.num_experts) // capacity.groups
    return min(loads.kept(mine, slots) / (loads.top_k * mine), 1.0)


def dropped_share(loads: Loads, tokens: int, capacity: Capacity) -> float:
    """Share of (token, expert) pairs that find none: ``E[(X - C)+]`` over its mean."""
    return 1.0 - kept_share(loads, tokens, capacity)


def waste(loads: Loads, tokens: int, capacity: Capacity) -> float:
    """Slots computed over (token, expert) pairs: ``E C / (k N)``."""
    return loads.num_experts * capacity.slots(tokens, loads.top_k, loads.num_experts) / (loads.top_k * tokens)
