"""Hit rates of expert caches from the locality of requests: LRU and hot sets in closed form, others simulated.

A step asks for a set of experts at once; those in the cache are hits, whatever the order inside the set.
``slots`` may be a fraction: a mean over layers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from moesim.offload.locality import Locality
from moesim.offload.policies import simulated_hit_rates

_MANY_SEQUENCES = 16


def hit_rate(policy: str, locality: Locality, slots: float, sequences: float = 1.0) -> float:
    """Share of the experts a step asks for that a cache of ``slots`` experts a layer holds.

    Parameters
    ----------
    policy : str
        lru, lfu, fifo, lifo, static, belady, or none.
    locality : Locality
    slots : float
        Experts of the layer on the GPU.
    sequences : float
        Sequences in the step, a token each.
    """
    if policy == "none" or slots <= 0:
        return 0.0
    if slots >= locality.num_experts:
        return 1.0
    closed = {"lru": _lru, "static": _hot_set}.get(policy)
    if closed is not None:
        return float(np.clip(closed(locality, float(slots), float(sequences)), 0.0, 1.0))
    if sequences <= _MANY_SEQUENCES:
        return _by_simulation(policy, locality, slots, sequences)
    return _for_many(policy, locality, slots, sequences)


@lru_cache(maxsize=4096)
def _lru(locality: Locality, slots: float, sequences: float) -> float:
    size, hit = _unions(locality, sequences)
    return float(np.interp(slots, size, hit))


@lru_cache(maxsize=256)
def _unions(locality: Locality, sequences: float) -> tuple[np.ndarray, np.ndarray]:
    return locality.unions(sequences)


@lru_cache(maxsize=4096)
def _hot_set(locality: Locality, slots: float, sequences: float) -> float:
    """The most popular experts stay: their share of all requests."""
    q = np.minimum(np.sort(np.asarray(locality.inclusion))[::-1], 1.0)
    asked = 1.0 - (1.0 - q) ** sequences
    return float(np.interp(slots, np.arange(len(q) + 1), np.concatenate([[0.0], np.cumsum(asked)])) / asked.sum())


def _for_many(policy: str, locality: Locality, slots: float, sequences: float) -> float:
    """What a policy gains over LRU at 16 sequences fades as a step leaves fewer experts unasked for."""
    unasked, unasked_few = (_unasked(locality, float(n)) for n in (sequences, _MANY_SEQUENCES))
    few = float(_MANY_SEQUENCES)
    gain = _by_simulation(policy, locality, slots, few) - _lru(locality, float(slots), few)
    fading = unasked / unasked_few if unasked_few > 0 else 0.0
    return float(np.clip(_lru(locality, float(slots), float(sequences)) + gain * fading, 0.0, 1.0))


@lru_cache(maxsize=1024)
def _unasked(locality: Locality, sequences: float) -> float:
    """Share of the experts that a step of so many sequences leaves out."""
    return 1.0 - float(locality.union(np.array([1]), sequences)[0]) / locality.num_experts


def _by_simulation(policy: str, locality: Locality, slots: float, sequences: float) -> float:
    """LFU, FIFO, LIFO and Belady: simulated once for all whole slots, straight lines between."""
    table = simulated_hit_rates(policy, locality, int(max(round(sequences), 1)))
    return float(np.interp(slots, np.arange(len(table)), table))
