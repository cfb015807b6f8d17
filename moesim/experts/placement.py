"""Which rank holds which experts, and what that leaves the busiest rank to do.

A placement is a matrix of shares, (ranks, experts): the part of an expert's tokens that a rank serves. Without
replicas it holds one 1 in each column. See docs/model/routing.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from moesim.experts.routing import Loads, grouped, loads, power_law_counts

Array = np.ndarray[Any, Any]
STRATEGIES = ("linear", "round_robin", "load_sorted")
_EVEN = {"uniform", "correlated", "identical", "task"}
"""Kinds of routing that favour no expert."""
_POINTS = 801
_TIE = 1e-6
_REACH = 7.0
_FEW_ROWS, _FEW_PICKS = 400.0, 20_000.0
"""Mean rows of a rank, and picks in all, up to which the busiest is counted rather than taken as normal."""


def linear(experts: int, ranks: int) -> Array:
    """Neighbours together, the first ranks one more (vLLM, expert_map_manager.py); shape (ranks, experts)."""
    sizes = np.full(ranks, experts // ranks)
    sizes[: experts % ranks] += 1
    return _shares(np.repeat(np.arange(ranks), sizes), ranks)


def round_robin(experts: int, ranks: int) -> Array:
    """Expert e on rank e mod G."""
    return _shares(np.arange(experts) % ranks, ranks)


def _shares(rank_of: Array, ranks: int) -> Array:
    return (rank_of[None, :] == np.arange(ranks)[:, None]).astype(float)


def replicated(load: Array, ranks: int, redundant: int = 0) -> Array:
    """Balanced by load: EPLB (deepseek-ai/EPLB; vLLM eplb/policy/default.py), without replicas sorted packing.

    Each redundant slot goes to the expert with the most load a replica; slots are then packed, heaviest first, onto
    the lightest rank with room.
    """
    experts = len(load)
    of_slot, replicas = list(range(experts)), np.ones(experts)
    for _ in range(redundant):
        heaviest = int(np.argmax(load / replicas))
        of_slot.append(heaviest)
        replicas[heaviest] += 1
    weight = (load / replicas)[of_slot]
    room = np.full(ranks, -(-len(of_slot) // ranks))
    carried, shares = np.zeros(ranks), np.zeros((ranks, experts))
    for slot in np.argsort(-weight, kind="stable"):
        # Of ranks that carry the same, one that has no replica of the expert yet: measured loads never tie.
        again = _TIE * weight[slot] * (shares[:, of_slot[slot]] > 0)
        rank = int(np.argmin(np.where(room > 0, carried + again, np.inf)))
        carried[rank] += weight[slot]
        room[rank] -= 1
        shares[rank, of_slot[slot]] += 1.0 / replicas[of_slot[slot]]
    return shares


def placed(strategy: str, load: Array, ranks: int, redundant: int) -> Array:
    """Shares of a placement; redundant slots (EPLB) are always packed by load, and read whatever the load is."""
    if redundant:
        return replicated(load, ranks, redundant)
    if strategy == "load_sorted":
        best = replicated(load, ranks)
        # A greedy packing may lose to the plain one; EPLB keeps what is better.
        plain = linear(len(load), ranks)
        return best if (best @ load).max() <= (plain @ load).max() else plain
    return {"linear": linear, "round_robin": round_robin}[strategy](len(load), ranks)


@dataclass(frozen=True)
class GroupLoads:
    """What the busiest of ``ranks`` ranks does of a layer's routed work; answers as ``Loads`` does."""

    whole: Loads
    ranks: int
    strategy: str = "linear"
    redundant: int = 0
    planned: tuple[float, ...] = ()
    """Popularity that experts were placed by; empty is the load itself."""

    @property
    def kind(self) -> str:
        return self.whole.kind

    def rows(self, tokens: Any) -> Array:
        """Expected rows (token, expert) of the rank that has most of them."""
        return self.whole.per_token_count(tokens, lambda n: _work(self, n).rows)

    def distinct(self, tokens: Any) -> Array:
        """Expected distinct experts of the rank that touches most."""
        return self.whole.per_token_count(tokens, lambda n: _work(self, n).distinct)

    def blocks(self, tokens: Any, block: Any) -> Array:
        """Expected padded blocks of the busiest rank."""
        return self.whole.per_token_and_block(tokens, block, lambda n, b: _blocks(self, n, b))

    def imbalance(self, tokens: Any) -> Array:
        """Rows of the busiest rank over the mean over ranks."""
        mean = np.maximum(np.asarray(tokens, float), 1.0) * self.whole.top_k / self.ranks
        return np.maximum(self.rows(tokens) / mean, 1.0)

    def deviation(self, tokens: Any) -> Array:
        """Standard deviation of the busiest rank's rows over their mean, from layer to layer and step to step."""
        return self.whole.per_token_count(tokens, lambda n: _work(self, n).deviation)

    def spread(self, tokens: Any) -> Array:
        return self.whole.spread(tokens)

    def kept(self, n: int, most: int, groups: int) -> float:
        """Rows of the busiest rank where no expert takes more than ``most`` of each of ``groups`` groups' tokens."""
        work = _work(self, n)
        if n <= 0 or most * groups >= n:
            return work.rows
        if work.counts is not None:
            return float(np.minimum(work.counts, most * groups).sum(1).mean())
        own, mine = _busiest(self, work.rows / n), -(-n // groups)
        whole = mine * sum(q * many for q, many in own.inclusion)
        return work.rows * min(own.kept(mine, most) / whole, 1.0)

    def kept_blocks(self, n: int, block: int, most: int) -> float:
        """Blocks of the busiest rank where no expert takes more than ``most`` rows."""
        work, whole = _work(self, n), _blocks(self, n, block)
        if n <= 0 or most >= n:
            return whole
        if work.counts is not None:
            return float(np.ceil(np.round(np.minimum(work.counts, most) / block, 9)).sum(1).mean())
        own = _busiest(self, work.rows / n)
        return min(whole * own.kept_blocks(n, block, most) / own.kept_blocks(n, block, n), whole)


@dataclass(frozen=True)
class _Work:
    rows: float
    distinct: float
    deviation: float
    counts: Array | None = None
    """Rows of each expert of the busiest rank, (draws, experts), where draws or a pattern give them."""


@lru_cache(maxsize=32768)
def _work(group: GroupLoads, n: int) -> _Work:
    whole, ranks = group.whole, group.ranks
    if n <= 0:
        return _Work(0.0, 0.0, 0.0)
    if whole.kind == "balanced":
        slots = -(-(whole.num_experts + group.redundant) // ranks)
        rows = max(n * whole.top_k / ranks, 1.0)
        active = int(min(slots, np.ceil(rows - 1e-9)))
        return _Work(rows, float(active), 0.0, np.full((1, active), rows / active))
    if whole.kind == "power_law":
        counts = power_law_counts(whole.num_experts, whole.top_k, n, whole.alpha)
        return _of_draws(group, counts, np.asarray(group.planned) if group.planned else None)
    if whole.kind == "trace" and n <= len(whole.trace):
        return _of_draws(group, whole.windows(n), np.asarray(group.planned or whole.popularity))
    return _of_moments(group, n)


def _of_draws(group: GroupLoads, counts: Array, load: Array | None = None) -> _Work:
    """Each draw has its own busiest rank; a placement by load knows the draw, or ``load`` where given."""
    served = []
    for row in counts:
        share = placed(group.strategy, row if load is None else load, group.ranks, group.redundant)
        served.append(row * share[int(np.argmax(share @ row))])
    here = np.array(served)
    rows = here.sum(1)
    return _Work(float(rows.mean()), float((here > 0).sum(1).mean()), float(rows.std() / rows.mean()), here)


def _of_moments(group: GroupLoads, n: int) -> _Work:
    """Means and variances of every rank's rows and distinct experts, then the expected largest."""
    mean, variance = _rank_moments(group)
    effective = float(group.whole.effective(n))
    shares = _placement(group)
    k, total = group.whole.top_k, n * group.whole.top_k
    even = np.ptp(mean) < 1e-9 * mean.max() and group.kind in _EVEN and not group.redundant
    if even and effective * mean[0] <= _FEW_ROWS and effective * k <= _FEW_PICKS:
        rows, spread = _clusters_maximum(effective, k, group.whole.num_experts, group.ranks)
        rows, spread = rows * n / effective, spread * n / effective
    else:
        rows, spread = expected_maximum(n * mean, np.sqrt(variance * n * n / effective))
    # Whole rows: some rank has at least their mean, rounded up.
    rows = max(rows, float(-(-total // group.ranks)))
    most = float(np.max(np.minimum((shares > 0).sum(1), k))) * n
    touched = 1 - (1 - np.asarray(group.whole.popularity)[None, :] * shares) ** effective
    distinct, _ = expected_maximum(touched.sum(1), np.sqrt((touched * (1 - touched)).sum(1)))
    distinct = min(distinct, float((shares > 0).sum(1).max()), rows)
    return _Work(min(rows, most), distinct, spread / max(rows, 1e-9))


def _clusters_maximum(clusters: float, k: int, experts: int, ranks: int) -> tuple[float, float]:
    """``counted_maximum`` of correlated tokens that act as so many clusters, between two whole numbers of them."""
    low = int(clusters)
    part = clusters - low
    below = counted_maximum(low, k, experts, ranks)
    if part < 1e-9:
        return below
    above = counted_maximum(low + 1, k, experts, ranks)
    return below[0] * (1 - part) + above[0] * part, below[1] * (1 - part) + above[1] * part


@lru_cache(maxsize=256)
def _placement(group: GroupLoads) -> Array:
    load = np.asarray(group.planned or group.whole.popularity)
    return placed(group.strategy, load, group.ranks, group.redundant)


@lru_cache(maxsize=256)
def _rank_moments(group: GroupLoads) -> tuple[Array, Array]:
    """Mean and variance of the rows one token sends to each rank.

    k distinct experts a token make picks repel each other: Hajek's variance, exact for uniform routing, where it is
    the hypergeometric ``(k/G)(1 - 1/G)(E - k)/(E - 1)``; a replica takes its share of tokens at random.
    """
    q, shares = np.asarray(group.whole.popularity), _placement(group)
    own = q * (1 - q)
    correction = len(q) / max(len(q) - 1, 1)
    picks = shares**2 @ own - (shares @ own) ** 2 / max(own.sum(), 1e-300)
    return shares @ q, correction * np.maximum(picks, 0.0) + (shares * (1 - shares)) @ q


def expected_maximum(mean: Array, deviation: Array) -> tuple[float, float]:
    """Expected largest of normal counts whose sum is fixed, and its standard deviation.

    A fixed sum makes them repel each other, which acts as if each varied ``sqrt(G / (G - 1))`` more on its own.
    """
    many = len(mean)
    if many == 1 or float(np.max(deviation)) <= 0:
        return float(np.max(mean)), 0.0
    from math import erf

    deviation = np.maximum(deviation * np.sqrt(many / (many - 1)), 1e-9)
    pairs, counts = np.unique(np.round(np.stack([mean, deviation]), 12), axis=1, return_counts=True)
    low = float((pairs[0] - _REACH * pairs[1]).max())
    high = float((pairs[0] + _REACH * pairs[1]).max())
    x = np.linspace(low, high, _POINTS)
    normal = np.vectorize(erf, otypes=[float])
    below = np.prod(
        [(0.5 * (1 + normal((x - m) / (s * np.sqrt(2))))) ** c for (m, s), c in zip(pairs.T, counts, strict=True)],
        axis=0,
    )
    step = x[1] - x[0]
    first = high - step * (below.sum() - 0.5 * (below[0] + below[-1]))
    weight = np.diff(below)
    middle = 0.5 * (x[1:] + x[:-1])
    return float(first), float(np.sqrt(max((weight * (middle - first) ** 2).sum(), 0.0)))


@lru_cache(maxsize=4096)
def counted_maximum(n: int, k: int, experts: int, ranks: int) -> tuple[float, float]:
    """Expected rows of the busiest of equal ranks under uniform routing, and their deviation, for few tokens.

    Independent counts conditioned on their sum (Levin, Annals of Statistics 1981): binomials that give every rank's
    exact variance once the sum is ``n k``, exact for one token; a Poisson where a token picks one expert.
    """
    total = n * k
    highest = min(total, n * min(k, -(-experts // ranks)))
    chance = total * (k - 1) / max(total * (experts - 1) - (experts - k), 1)
    pmf = _marginal(total, total / ranks, chance)
    pmf[highest + 1 :] = 0.0
    # Sums wrap around the transform: four times the total is out of reach.
    size = 1 << int(np.ceil(np.log2(4 * total + 8)))
    reached = np.zeros(total + 1)
    everything = _sum_probability(pmf, ranks, total, size)
    lowest = -(-total // ranks)
    for m in range(lowest, highest + 1):
        reached[m] = min(_sum_probability(np.where(np.arange(total + 1) <= m, pmf, 0.0), ranks, total, size)
                         / everything, 1.0)  # fmt: skip
        if reached[m] > 1 - 1e-7:
            reached[m:] = 1.0
            break
    reached[highest:] = 1.0
    each, values = np.diff(reached, prepend=0.0), np.arange(total + 1)
    mean = float((each * values).sum())
    return mean, float(np.sqrt(max((each * (values - mean) ** 2).sum(), 0.0)))


def _marginal(total: int, mean: float, p: float) -> Array:
    """Binomial of the given mean and success chance (any real number of trials), Poisson at p = 0."""
    m = np.arange(total)
    ratio = mean / (m + 1.0) if p <= 0 else np.maximum(mean / p - m, 0.0) / (m + 1.0) * p / max(1 - p, 1e-12)
    with np.errstate(divide="ignore"):
        log_weight = np.concatenate([[0.0], np.cumsum(np.log(ratio))])
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()


def _sum_probability(pmf: Array, many: int, total: int, size: int) -> float:
    """P(sum of ``many`` independent counts is ``total``), by FFT."""
    return float(max(np.fft.irfft(np.fft.rfft(pmf, size) ** many, size)[total], 1e-300))


def _blocks(group: GroupLoads, n: int, block: int) -> float:
    """Blocks of the rank with most rows; what fluctuates above its mean fills blocks or opens new ones."""
    work = _work(group, n)
    if work.counts is not None:
        return float(np.ceil(np.round(work.counts / block, 9)).sum(1).mean())
    if n <= 0:
        return 0.0
    mean = float(_rank_moments(group)[0].max())
    own = _busiest(group, mean)
    usual, touched = float(own.blocks(n, block)), float(own.distinct(n))
    extra = max(work.distinct - touched, (work.rows - n * mean) / block, 0.0)
    return usual + extra


def _busiest(group: GroupLoads, rows: float) -> Loads:
    """Experts of the rank with most rows, where a token brings it ``rows``."""
    mean, _ = _rank_moments(group)
    busiest = _placement(group)[int(np.argmax(mean))] * np.asarray(group.whole.popularity)
    chance, whole = np.minimum(busiest * (rows / float(mean.max())), 1.0), group.whole
    return Loads(len(chance), whole.top_k, group.kind, grouped(chance), rho=whole.rho, tasks=whole.tasks)


def group_loads(
    routing: Any, num_experts: int, top_k: int, ranks: int, strategy: str, redundant: int, planned: Any = None
) -> Any:
    """The loads of a rank: the whole layer's for one rank, the busiest one's for a group.

    ``planned`` is the routing that experts were placed by, where it is not the one they see.
    """
    whole = loads(routing, num_experts, top_k)
    if ranks == 1:
        return whole
    if planned is None:
        return GroupLoads(whole, ranks, strategy, redundant)
    even = (top_k / num_experts,) * num_experts
    return GroupLoads(whole, ranks, strategy, redundant, loads(planned, num_experts, top_k).popularity or even)
