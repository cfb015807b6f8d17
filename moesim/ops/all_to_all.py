"""Tokens to the ranks of their experts and back: dispatch and combine of expert parallelism."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

_HEADER_BYTES = 16.0


def distinct_places(places: Any, num_experts: Any, top_k: Any, n_group: Any = 1, topk_group: Any = 1) -> Any:
    """Expected number of ``places`` (ranks, nodes) that a token's k experts lie on, uniform routing.

    ``n (1 - C(E - E/n, k) / C(E, k))``; with node-limited routing (DeepSeek-V3, arXiv 2412.19437, section 2.1.2)
    the k experts come from ``topk_group`` of ``n_group`` equal groups, chosen first.
    """
    places, experts, k = (np.asarray(x, float) for x in (places, num_experts, top_k))
    groups, chosen = (np.asarray(x, float) for x in (n_group, topk_group))
    groups_here = np.maximum(groups / places, 1.0)
    per_group = np.minimum(experts / places, experts / groups)
    reachable = experts * chosen / groups
    untouched: Any = 0.0
    for hit in range(int(np.max(groups_here)) + 1):
        chance = _hypergeometric(hit, groups, chosen, np.where(groups / places < 1, 1.0, groups_here))
        untouched = untouched + chance * _ratio(reachable - hit * per_group, reachable, k)
    return places * (1.0 - untouched)


def _ratio(left: Any, whole: Any, k: Any) -> Any:
    """C(left, k) / C(whole, k) for real arguments: no pick among the others."""
    result: Any = 1.0
    for i in range(int(np.max(k))):
        factor = np.where(i < k, np.maximum(left - i, 0.0) / np.maximum(whole - i, 1e-9), 1.0)
        result = result * np.clip(factor, 0.0, 1.0)
    return result


def _hypergeometric(hit: int, groups: Any, chosen: Any, here: Any) -> Any:
    """Chance that ``hit`` of the ``here`` groups of a place are among ``chosen`` of ``groups``."""
    ways = np.vectorize(_choose, otypes=[float])
    return ways(here, hit) * ways(groups - here, chosen - hit) / ways(groups, chosen)


def _choose(n: float, k: float) -> float:
    from math import comb

    return float(comb(round(n), round(k))) if 0 <= round(k) <= round(n) else 0.0


@dataclass(frozen=True, slots=True)
class ExpertAllToAll:
    """One direction of the exchange of expert parallelism among ``ranks`` ranks over ``nodes`` nodes.

    ``backend`` is ``deepep_high_throughput`` (one copy of a token a rank, reduced on the way back) or
    ``deepep_low_latency`` (one copy an expert); see ``ops.collective`` for the others.
    """

    backend: str
    phase: str
    """``dispatch`` (activations as ``bytes_per_element`` says) or ``combine`` (bfloat16)."""
    tokens: Any
    """Tokens of each rank before the exchange."""
    hidden: Any
    top_k: Any
    num_experts: Any
    ranks: Any
    nodes: Any = 1
    bytes_per_element: Any = 2.0
    sms: Any = 20.0
    """Streaming multiprocessors the high-throughput kernels use."""
    n_group: Any = 1
    topk_group: Any = 1
    busiest: Any = 1.0
    """Rows of the busiest rank over the mean: it receives that much more."""
    slices: Any = 1
    """Ranks that slice each expert: each needs its copy."""

    members: tuple[int, ...] = ()
    """The GPUs' places in the cluster; empty means neighbours of one node."""
    copies: Any = field(init=False)
    """Copies of a token that leave its kernel: one an expert (low latency), one a rank (high throughput)."""
    node_copies: Any = field(init=False)
    """Copies of a token that cross between nodes: every remote expert's (low latency), one a remote node."""

    flop = 0.0
    of_context = False

    def __post_init__(self) -> None:
        away = 1.0 - 1.0 / np.asarray(self.nodes, float)
        if self.backend == "deepep_low_latency":
            copies = places = np.asarray(self.top_k, float) * self.slices
        else:
            routing = (self.num_experts, self.top_k, self.n_group, self.topk_group)
            copies = distinct_places(np.asarray(self.ranks) / self.slices, *routing) * self.slices
            places = distinct_places(self.nodes, *routing)
        object.__setattr__(self, "copies", copies)
        object.__setattr__(self, "node_copies", away * places)

    @property
    def token_bytes(self) -> Any:
        """One copy of a token: fp8 carries a float32 scale per 128 elements. [B]"""
        scales = np.where(np.asarray(self.bytes_per_element) < 2.0, 4.0 / 128, 0.0)
        header = _HEADER_BYTES if self.backend == "deepep_low_latency" else 0.0
        return self.hidden * (self.bytes_per_element + scales) + header

    @property
    def rows(self) -> Any:
        """Copies the busiest rank handles; high throughput sends it a token once at most."""
        copies = self.copies * self.busiest
        most = self.ranks if self.backend == "deepep_high_throughput" else np.inf
        return self.tokens * np.minimum(copies, np.maximum(most, self.copies))

    @property
    def link_bytes(self) -> Any:
        """To or from other ranks at the busiest rank, ``N c b (1 - 1/G)`` where none is. [B]"""
        return self.rows * self.token_bytes * (1.0 - 1.0 / np.asarray(self.ranks, float))

    @property
    def node_bytes(self) -> Any:
        """Of these, sent to other nodes. [B]"""
        return self.tokens * self.node_copies * self.busiest * self.token_bytes

    @property
    def hbm_bytes(self) -> Any:
        """Tokens read once, copies written once. [B]"""
        return (self.tokens + self.rows) * self.token_bytes
