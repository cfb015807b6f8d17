"""Caches simulated request by request: on drawn requests, or on a user's routing trace.

A step's experts are one set. After it the cache holds that set and, in what room is left, what it held before in the
policy's order. Every policy is such an order; Belady's looks ahead and nothing beats it. LFU protects nobody: an expert
asked for once makes room for the next of its own set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from moesim.experts.routing import Array
from moesim.offload.locality import Locality

POLICIES = ("lru", "lfu", "fifo", "lifo", "static", "belady")
_CHAINS, _STEPS, _WARM_UP = 48, 512, 64
_FAR = 1e9


@lru_cache(maxsize=8)
def drawn_requests(locality: Locality, sequences: int, chains: int = _CHAINS, steps: int = _STEPS) -> Array:
    """Requests drawn from the locality model: booleans of shape (chains, steps, E)."""
    random = np.random.default_rng(0)
    experts = locality.num_experts
    q = np.tile(np.minimum(np.asarray(locality.inclusion), 1.0), (chains, 1, 1))
    shape = (chains, sequences, experts)
    state = _picked(random, q, shape)
    found = np.empty((chains, steps, experts), bool)
    for step in range(steps):
        if step:
            q = _drifted(random, q, locality.drift)
            kept = state & (random.random(shape) < locality.persistence)
            state = _topped_up(random, kept, _picked(random, q, shape))
        found[:, step] = state.any(1)
    return found


def _drifted(random: np.random.Generator, q: Array, drift: float) -> Array:
    """Popularities of shape (chains, 1, E) a token later: those that go stale change places among each other."""
    if not drift:
        return q
    stale = random.random(q.shape) < drift
    # Experts in a random order, the stale ones first: the i-th stale place takes what the i-th of that order had.
    lot = np.where(stale, random.random(q.shape), 2.0).argsort(-1, kind="stable")
    places = np.where(stale, 0, 1).argsort(-1, kind="stable")
    moved = q.copy()
    np.put_along_axis(moved, places, np.take_along_axis(q, lot, -1), -1)
    return moved


def _picked(random: np.random.Generator, q: Array, shape: tuple[int, ...]) -> Array:
    """Sets of about k experts with inclusion probabilities ``q``: systematic sampling in a random order.

    Every set has k experts, give or take none, and each expert its exact probability.
    """
    chains, sequences, experts = shape
    order = random.random((chains, sequences, experts)).argsort(-1)
    chances = np.take_along_axis(np.broadcast_to(q, shape), order, -1)
    ends = np.cumsum(chances, axis=-1)
    offset = random.random((chains, sequences, 1))
    taken = np.floor(ends + offset) > np.floor(ends - chances + offset)
    state = np.zeros(shape, bool)
    np.put_along_axis(state, order, taken, axis=-1)
    return state


def _topped_up(random: np.random.Generator, kept: Array, fresh: Array) -> Array:
    """What was kept, and as many of the fresh picks as complete the set."""
    wanted = fresh.sum(-1, keepdims=True) - kept.sum(-1, keepdims=True)
    lot = np.where(fresh & ~kept, random.random(kept.shape), 2.0)
    rank = lot.argsort(-1).argsort(-1)
    return kept | ((rank < wanted) & (lot < 2.0))


def hits(policy: str, requests: Array, slots: int, popularity: Array | None = None, warm_up: int = _WARM_UP) -> float:
    """Share of requests that find their expert in a cache of ``slots``.

    Parameters
    ----------
    policy : str
        One of ``POLICIES``.
    requests : ndarray of bool, shape (chains, steps, E)
    slots : int
    popularity : ndarray, shape (E,), optional
        Its top is what a static cache holds and any other begins with; the requests' own by default.
    warm_up : int
        Steps that are not counted, at most a third of all.
    """
    chains, steps, experts = requests.shape
    if slots <= 0 or slots >= experts:
        return float(slots > 0)
    rows = np.arange(chains)[:, None]
    popular = requests.mean((0, 1)) if popularity is None else popularity
    resident = np.zeros((chains, experts), bool)
    resident[:, np.argsort(-popular, kind="stable")[:slots]] = True
    if policy == "static":
        return float((requests & resident[:, None]).sum() / requests.sum())
    if policy == "lfu":
        return float(_lfu_hits(requests, popular, warm_up)[slots])
    following = _next_use(requests) if policy == "belady" else None
    used, inserted = (np.zeros((chains, experts)) for _ in range(2))
    found = asked_for = 0
    random = np.random.default_rng(1)
    for step in range(steps):
        asked = requests[:, step]
        if step >= min(warm_up, steps // 3):
            found += int((asked & resident).sum())
            asked_for += int(asked.sum())
        used[asked] = step + 1
        inserted[asked & ~resident] = step + 1
        if policy == "lru":
            order = used
        elif policy == "fifo":
            order = inserted
        elif policy == "lifo":
            order = -inserted
        else:
            assert following is not None
            order = -following[:, step]
        if policy == "belady":
            # It may pass by what it has just been asked for.
            score = np.where(asked | resident, order, -np.inf)
        else:
            score = np.where(asked, _FAR + order, np.where(resident, order, -np.inf))
        keep = np.argpartition(-(score + 1e-3 * random.random(score.shape)), slots - 1, axis=1)[:, :slots]
        resident = np.zeros((chains, experts), bool)
        resident[rows, keep] = True
        resident &= np.isfinite(score)
    return found / max(asked_for, 1)


def _lfu_hits(requests: Array, popular: Array, warm_up: int) -> Array:
    """Hit rates of LFU caches of 0, 1, ... E slots at once.

    An expert's rank by how often and how lately it was asked for depends on no cache, and who is left out loses no rank
    to be let in again: a cache of n slots holds the first n.
    """
    chains, steps, experts = requests.shape
    # What nobody asked for yet ranks by the popularity a cache begins with.
    count = np.tile(np.argsort(np.argsort(popular, kind="stable")) / experts**2 / (steps + 2), (chains, 1))
    used, at_rank = np.zeros((chains, experts)), np.zeros(experts)
    rows = np.arange(chains)[:, None]
    rank = np.empty((chains, experts), int)
    for step in range(steps):
        asked = requests[:, step]
        if step >= min(warm_up, steps // 3):
            order = np.argsort(-(count + used / (steps + 2)), axis=1, kind="stable")
            rank[rows, order] = np.arange(experts)
            at_rank += np.bincount(rank[asked], minlength=experts)
        count += asked
        used[asked] = step + 1
    return np.concatenate([[0.0], np.cumsum(at_rank)]) / max(at_rank.sum(), 1)


def _next_use(requests: Array) -> Array:
    """Steps until each expert is asked for again after each step, by looking back from the end."""
    chains, steps, experts = requests.shape
    after = np.full((chains, experts), _FAR / 4)
    found = np.empty((chains, steps, experts))
    for step in range(steps - 1, -1, -1):
        found[:, step] = after
        after = np.where(requests[:, step], 1.0, after + 1.0)
    return found


@lru_cache(maxsize=512)
def simulated_hit_rates(policy: str, locality: Locality, sequences: int) -> tuple[float, ...]:
    """Hit rates of 0, 1, ... E slots; large caches are simulated at 16 sizes."""
    requests = drawn_requests(locality, sequences)
    popular = np.asarray(locality.inclusion)
    if policy == "lfu":
        return tuple(_lfu_hits(requests, popular, _WARM_UP).tolist())
    return _at_all_sizes(locality.num_experts, lambda slots: hits(policy, requests, slots, popular))


def _at_all_sizes(experts: int, rate: Callable[[int], float]) -> tuple[float, ...]:
    """A rate for 0, 1, ... E slots, worked out at 17 sizes at most."""
    sizes = np.unique(np.linspace(0, experts, min(experts, 16) + 1).round().astype(int))
    rates = [rate(int(n)) for n in sizes]
    return tuple(np.interp(np.arange(experts + 1), sizes, np.maximum.accumulate(rates)).tolist())


def trace_requests(trace: tuple[tuple[int, ...], ...], num_experts: int, tokens_per_step: int) -> Array:
    """A routing trace cut into steps of ``tokens_per_step`` tokens: booleans of shape (1, steps, E)."""
    picks = np.asarray(trace)
    steps = max(len(picks) // tokens_per_step, 1)
    found = np.zeros((1, steps, num_experts), bool)
    for step in range(steps):
        found[0, step, picks[step * tokens_per_step : (step + 1) * tokens_per_step].ravel()] = True
    return found


@lru_cache(maxsize=512)
def replayed_hit_rates(
    policy: str, trace: tuple[tuple[int, ...], ...], num_experts: int, tokens_per_step: int
) -> tuple[float, ...]:
    """Hit rates of 0, 1, ... E slots over a trace; the cache holds its most popular experts at first."""
    requests = trace_requests(trace, num_experts, tokens_per_step)
    popular = np.bincount(np.ravel(trace), minlength=num_experts)
    if policy == "lfu":
        at_every_size = _lfu_hits(requests, popular, 0)
        return _at_all_sizes(num_experts, lambda slots: float(at_every_size[slots]))
    return _at_all_sizes(num_experts, lambda slots: hits(policy, requests, slots, popular, warm_up=0))
