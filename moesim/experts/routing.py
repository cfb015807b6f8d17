"""Who goes where: how many distinct experts a step touches, and how many padded blocks they fill.

See docs/model/routing.md. ``Loads`` answers for any number of tokens N; nothing here knows hardware.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from moesim.experts.trace import read_trace

Array = np.ndarray[Any, Any]
_DRAWS = 16
_TAIL = 12.0
_NORMAL_90 = 1.645
_NODES = 400
_TINY, _FAR = 1e-7, 60.0
_DIVIDE_UP_TO = 0.7


def inclusion_probabilities(shares: Array, k: int) -> Array:
    """Chance that each expert is among the k distinct ones a token picks; they sum to k.

    A token takes the k experts whose independent exponential clocks of rate ``shares`` ring first (Gumbel
    top-k): ``q_e = int p_e exp(-p_e t) P(fewer than k others rang by t) dt``, the count of others being
    Poisson-binomial, by quadrature.

    Parameters
    ----------
    shares : ndarray, shape (E,)
        Popularity of each expert, any positive scale.
    k : int
        Experts per token.
    """
    p = np.asarray(shares, dtype=float)
    p = p / p.sum()
    if k >= np.count_nonzero(p):
        return (p > 0).astype(float)
    end = 1.0
    while (1 - np.exp(-end * p)).sum() < k:
        end *= 1.5
    # Smooth and vanishing at both ends in log t, where the trapezoid rule is as good as any.
    log_t = np.linspace(np.log(_TINY / p.max()), np.log(_FAR * end), _NODES)
    t = np.exp(log_t)
    dt = t * (log_t[1] - log_t[0])
    rung = 1 - np.exp(-np.outer(t, p))
    everyone = _successes(k, rung)
    relevant = everyone.sum(1) > 1e-12
    t, dt, rung, everyone = t[relevant], dt[relevant], rung[relevant], everyone[relevant]
    others = _without_each(everyone, rung).sum(2)
    for e in np.flatnonzero(rung.max(0) > _DIVIDE_UP_TO):
        others[:, e] = _successes(k, np.delete(rung, e, axis=1)).sum(1)
    q = dt @ (p * np.exp(-np.outer(t, p)) * others)
    return _from_counts(q, k)


def _successes(k: int, chance: Array) -> Array:
    """P(j successes), j below k, of a Poisson-binomial count; ``chance`` is (nodes, trials)."""
    lost = np.zeros((len(chance), k))
    lost[:, 0] = 1.0
    for p in chance.T[:, :, None]:
        gained = lost[:, :-1] * p
        lost = lost * (1 - p)
        lost[:, 1:] += gained
    return lost


def _without_each(everyone: Array, chance: Array) -> Array:
    """The same with one trial taken out at a time: (nodes, trials, k). Stable while chances are below 0.7."""
    chance = np.minimum(chance, _DIVIDE_UP_TO)
    left = np.empty((*chance.shape, everyone.shape[1]))
    left[:, :, 0] = everyone[:, :1] / (1 - chance)
    for j in range(1, everyone.shape[1]):
        left[:, :, j] = (everyone[:, j : j + 1] - chance * left[:, :, j - 1]) / (1 - chance)
    return left


@lru_cache(maxsize=4096)
def expected_blocks(tokens: int, q: float, block: int, most: int | None = None) -> float:
    """E[ceil(n / block)] for n binomial(tokens, q), cut to ``most``: the sum over j of P(n > j block)."""
    most = tokens if most is None else most
    if q >= 1.0:
        return float(-(-min(tokens, most) // block))
    mean, deviation = tokens * q, np.sqrt(tokens * q * (1 - q))
    low = max(0, int(mean - _TAIL * deviation) - 1)
    high = min(tokens, int(mean + _TAIL * deviation) + 12)
    n, weight = _binomial_between(tokens, q, low, high)
    return float((weight * -(-np.minimum(n, most) // block)).sum() / weight.sum())


@lru_cache(maxsize=4096)
def expected_kept(tokens: int, q: float, most: int) -> float:
    """E[min(n, most)] for n binomial(tokens, q)."""
    if q >= 1.0 or most <= 0:
        return float(min(tokens, most))
    mean, deviation = tokens * q, np.sqrt(tokens * q * (1 - q))
    low = max(0, int(mean - _TAIL * deviation) - 1)
    high = min(tokens, int(mean + _TAIL * deviation) + 12)
    n, weight = _binomial_between(tokens, q, low, high)
    return float((weight * np.minimum(n, most)).sum() / weight.sum())


def _binomial_between(tokens: int, q: float, low: int, high: int) -> tuple[Array, Array]:
    """(n from low to high, the chance of each up to a factor)."""
    n = np.arange(low, high + 1)
    steps = np.log((tokens - n[:-1]) / (n[:-1] + 1.0)) + np.log(q / (1 - q))
    log_weight = np.concatenate([[0.0], np.cumsum(steps)])
    return n, np.exp(log_weight - log_weight.max())


@dataclass(frozen=True)
class Loads:
    """Expert loads of a layer with E experts, k of them per token.

    ``inclusion`` are the experts' inclusion probabilities, or None where counts are laid down otherwise.
    """

    num_experts: int
    top_k: int
    kind: str
    inclusion: tuple[tuple[float, int], ...] = ()
    """Distinct inclusion probabilities and how many experts share each."""
    popularity: tuple[float, ...] = ()
    """Inclusion probability of every expert, in the experts' own order."""
    rho: float = 0.0
    alpha: float = 0.0
    trace: tuple[tuple[int, ...], ...] = ()
    tasks: int = 0
    """Tokens of a task choose alike, and so many tasks are served; 0 is that each token chooses for itself."""

    def effective(self, tokens: Any) -> Any:
        """Tokens that choose on their own, out of so many."""
        if self.tasks:
            return self.tasks * (1.0 - (1.0 - 1.0 / self.tasks) ** tokens)
        return tokens / (1 + (tokens - 1) * self.rho)

    def distinct(self, tokens: Any) -> Array:
        """Expected number of distinct experts that ``tokens`` touch (array in, array out)."""
        return self.per_token_count(tokens, self._distinct)

    def blocks(self, tokens: Any, block: Any) -> Array:
        """Expected blocks of ``block`` rows after padding: the sum over experts of ceil(n_e / block)."""
        return self.per_token_and_block(tokens, block, self._blocks)

    def rows(self, tokens: Any) -> Any:
        """Rows (token, expert) in all: k a token."""
        return tokens * self.top_k

    def kept(self, n: int, most: int) -> float:
        """Rows of ``n`` tokens where no expert takes more than ``most``: the sum over experts of E[min(n_e, most)]."""
        if most >= n:
            return float(n * self.top_k)
        if self.kind == "balanced":
            low, extra = divmod(n * self.top_k, self.num_experts)
            return float((self.num_experts - extra) * min(low, most) + extra * min(low + 1, most))
        if self.kind == "power_law":
            counts = power_law_counts(self.num_experts, self.top_k, n, self.alpha)
            return float(np.minimum(counts, most).sum(1).mean())
        if self.kind == "trace" and n <= len(self.trace):
            return float(np.mean([np.minimum(c, most).sum() for c in self.windows(n)]))
        if self.rho == 0 and not self.tasks:
            return sum(many * expected_kept(n, q, most) for q, many in self.inclusion)
        return self._over_clusters(n, lambda counts: np.minimum(counts, most))

    def spread(self, tokens: Any) -> Array:
        """Half-width, in the logarithm, of 90 % of the draws around the expected distinct experts.

        Only the power law is a draw whose outcome is unknown; the other kinds say what to expect.
        """
        if self.kind != "power_law":
            return np.zeros(np.shape(tokens))
        return self.per_token_count(tokens, self._draw_spread)

    def _draw_spread(self, n: int) -> float:
        distinct = (power_law_counts(self.num_experts, self.top_k, n, self.alpha) > 0).sum(1)
        return _NORMAL_90 * float(distinct.std() / distinct.mean())

    @staticmethod
    def per_token_and_block(tokens: Any, block: Any, value: Any) -> Array:
        """``value`` of every (tokens, block), each pair worked out once."""
        tokens, block = np.broadcast_arrays(np.asarray(tokens), np.asarray(block))
        pairs = list(zip(tokens.ravel().tolist(), block.ravel().tolist(), strict=True))
        known = {pair: value(*map(int, pair)) for pair in set(pairs)}
        return np.array([known[pair] for pair in pairs]).reshape(tokens.shape)

    @staticmethod
    def per_token_count(tokens: Any, value: Any) -> Array:
        """``value`` of every number of tokens, each worked out once."""
        tokens = np.asarray(tokens)
        if tokens.ndim == 0:
            return np.asarray(value(int(tokens)))
        flat = tokens.ravel().tolist()
        known = {n: value(int(n)) for n in set(flat)}
        return np.array([known[n] for n in flat]).reshape(tokens.shape)

    def _distinct(self, n: int) -> float:
        if n <= 0:
            return 0.0
        if self.kind == "balanced":
            return float(min(self.num_experts, n * self.top_k))
        if self.kind == "power_law":
            return float((power_law_counts(self.num_experts, self.top_k, n, self.alpha) > 0).sum(1).mean())
        if self.kind == "trace" and n <= len(self.trace):
            return float(np.mean([(c > 0).sum() for c in self.windows(n)]))
        effective = self.effective(n)
        return sum(many * (1 - (1 - q) ** effective) for q, many in self.inclusion)

    def kept_blocks(self, n: int, block: int, most: int) -> float:
        """Blocks of ``n`` tokens where no expert takes more than ``most`` rows."""
        return self._blocks(n, block, most)

    def _blocks(self, n: int, block: int, most: int | None = None) -> float:
        if n <= 0:
            return 0.0
        most = n if most is None else min(most, n)
        if self.kind == "balanced":
            active = min(self.num_experts, n * self.top_k)
            low, extra = divmod(n * self.top_k, active)
            return float((active - extra) * -(-min(low, most) // block) + extra * -(-min(low + 1, most) // block))
        if self.kind == "power_law":
            counts = power_law_counts(self.num_experts, self.top_k, n, self.alpha)
            return float(np.ceil(np.minimum(counts, most) / block).sum(1).mean())
        if self.kind == "trace" and n <= len(self.trace):
            return float(np.mean([np.ceil(np.minimum(c, most) / block).sum() for c in self.windows(n)]))
        if self.rho == 0 and not self.tasks:
            return sum(many * expected_blocks(n, q, block, most) for q, many in self.inclusion)
        return self._over_clusters(n, lambda counts: np.ceil(np.round(np.minimum(counts, most) / block, 9)))

    def _over_clusters(self, n: int, value: Callable[[Array], Array]) -> float:
        """Sum over experts of ``value`` of their rows: tokens act as N_eff independent clusters of N / N_eff each."""
        effective = self.effective(n)
        low = int(effective)
        part = effective - low
        total = 0.0
        for clusters, weight in ((low, 1 - part), (low + 1, part)):
            if weight <= 0 or clusters == 0:
                continue
            found = value(np.arange(clusters + 1) * (n / clusters))
            for q, many in self.inclusion:
                total += weight * many * float(_binomial(clusters, q) @ found)
        return total

    def windows(self, n: int) -> Array:
        picks = np.array(self.trace)
        count = len(picks) // n
        rows = picks[: count * n].reshape(count, n * picks.shape[1])
        return np.array([np.bincount(row, minlength=self.num_experts) for row in rows])


def _binomial(n: int, q: float) -> Array:
    if q >= 1.0:
        return np.eye(n + 1)[n]
    m = np.arange(n)
    log_weight = np.concatenate([[0.0], np.cumsum(np.log((n - m) / (m + 1.0)) + np.log(q / (1 - q)))])
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()


@lru_cache(maxsize=2048)
def power_law_counts(experts: int, k: int, tokens: int, alpha: float) -> Array:
    """Tokens of each expert in ``_DRAWS`` draws of the power law described in ``PowerLaw``; shape (draws, E).

    No expert gets more than all tokens, and every token still picks k experts: what the heaviest cannot take
    goes to the others in proportion, fractions of a token to the largest remainders.
    """
    low, high = (1.0, 0.8 * tokens) if tokens * k > experts else (0.01, 2.0)
    uniform = np.random.default_rng(0).random((_DRAWS, experts))
    if abs(alpha - 1) < 1e-9:
        share = low * (high / low) ** uniform
    else:
        e = 1 - alpha
        share = ((high**e - low**e) * uniform + low**e) ** (1 / e)
    wanted = tokens * k
    expected = share / share.sum(1, keepdims=True) * wanted
    while (expected > tokens + 1e-9).any():
        full = expected >= tokens
        rest = np.where(full, 0.0, expected)
        left = wanted - tokens * full.sum(1, keepdims=True)
        scale = left / np.maximum(rest.sum(1, keepdims=True), 1e-12)
        expected = np.where(full, float(tokens), rest * np.maximum(scale, 1.0))
    counts = np.floor(expected)
    remainder = expected - counts
    for row, left_over in zip(counts, remainder, strict=True):
        order = np.argsort(-left_over, kind="stable")
        row[order[: int(wanted - row.sum())]] += 1
    return counts


def loads(routing: Any, num_experts: int, top_k: int) -> Loads:
    """The loads that a scenario's routing puts on a layer."""
    stamp = Path(routing.file).stat().st_mtime_ns if routing.kind == "trace" else 0
    return _loads(routing, num_experts, top_k, stamp)


@lru_cache(maxsize=256)
def _loads(routing: Any, num_experts: int, top_k: int, _stamp: int) -> Loads:
    kind = routing.kind
    if kind in {"balanced", "base", "expert_choice"}:
        return Loads(num_experts, top_k, "balanced")
    if kind == "power_law":
        return Loads(num_experts, top_k, kind, alpha=routing.alpha)
    picked, more = _popularity(routing, num_experts, top_k)
    return Loads(num_experts, top_k, kind, grouped(picked), tuple(picked.tolist()), **more)


def _popularity(routing: Any, num_experts: int, top_k: int, draw: int = 0) -> tuple[Array, dict[str, Any]]:
    """(inclusion probability of every expert, what else the loads know); ``draw`` says which experts are hot."""
    kind, even = routing.kind, np.full(num_experts, top_k / num_experts)
    if kind in {"correlated", "identical", "task"}:
        return even, {"tasks": routing.tasks} if kind == "task" else {"rho": getattr(routing, "rho", 1.0)}
    if kind == "domains":
        parts = [
            domain.share * _popularity(domain.routing, num_experts, top_k, place)[0]
            for place, domain in enumerate(routing.domains)
        ]
        return np.sum(parts, axis=0), {}
    if kind in {"zipf", "locality", "hash"}:
        shares = np.arange(1, num_experts + 1) ** -float(routing.skew if kind == "locality" else routing.s)
        # A router's hot experts are not neighbours: which ones are hot is drawn once.
        return inclusion_probabilities(np.random.default_rng(draw).permutation(shares), top_k), {}
    if kind == "histogram":
        return _from_counts(np.array(routing.counts), top_k), {}
    if kind == "trace":
        trace = read_trace(routing.file, num_experts, top_k)
        counts = np.bincount(np.array(trace).ravel(), minlength=num_experts).astype(float)
        return _from_counts(counts, top_k), {"trace": trace}
    return even, {}


def _from_counts(counts: Array, k: int) -> Array:
    """Counts are what was picked, so they are inclusion frequencies already; none can exceed 1."""
    q = counts / counts.sum() * k
    while (q > 1 + 1e-12).any():
        full = q >= 1
        rest = q[~full].sum()
        q = np.where(full, 1.0, q * (k - full.sum()) / rest if rest > 0 else q)
    return np.minimum(q, 1.0)


def grouped(q: Array) -> tuple[tuple[float, int], ...]:
    """Distinct probabilities and how many experts share each."""
    return tuple(sorted((v, many) for v, many in Counter(q.tolist()).items() if v > 0))
