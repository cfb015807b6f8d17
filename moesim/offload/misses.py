"""How many experts a step asks for that are not on the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from moesim.experts.routing import Array, Loads, power_law_counts
from moesim.inputs.offload import Policy
from moesim.offload.hit_rates import hit_rate
from moesim.offload.locality import Locality
from moesim.offload.policies import replayed_hit_rates

DRAWS = 16
_EXACT_UP_TO = 64
_LONG, _MOST_ALIKE = 4096, 0.9999
_MOST_LAYERS, _GOLDEN = 256, 0.6180339887498949


@dataclass(frozen=True)
class Requests:
    """What steps ask of a layer's experts, and what a policy's cache holds of it."""

    loads: Loads
    policy: Policy
    persistence: float = 0.0
    """Of an expert's state from token to token: the locality's, or how alike tokens are (``correlated``)."""
    drift: float = 0.0
    """Of popularity, from token to token."""
    corpus_skew: float | None = None
    """Popularity that outlasts one text, which a set placed once can use; None is the routing's own."""

    def distinct(self, tokens: Any) -> Array:
        """Experts that a step of ``tokens`` asks for, skipped ones left out."""
        asked = np.asarray(self.loads.distinct(tokens), float)
        skipped = self.policy.skipped_share or 0.0
        return np.where(np.asarray(tokens) == 1, asked - skipped, asked)

    def hit_rate(self, tokens: Any, slots: Any) -> Array:
        """Share of them on the GPU, for numbers of tokens and of slots, which broadcast."""
        counts, of_count = np.unique(tokens, return_inverse=True)
        sizes, of_size = np.unique(slots, return_inverse=True)
        table = np.array([[self._hit_rate(int(n), size) for size in sizes.tolist()] for n in counts.tolist()])
        return table[of_count.reshape(np.shape(tokens)), of_size.reshape(np.shape(slots))]

    def fewer(self, tokens: Any, than: int) -> tuple[Array, Array]:
        """(of the experts asked for, the share with fewer tokens than so many; tokens of each of those)."""
        q = np.clip(np.asarray(self._popularity()), 1e-12, 1.0 - 1e-12)
        counts = np.asarray(tokens, int)
        known = {n: _fewer(q, n, than) for n in set(counts.ravel().tolist())}
        found = np.array([known[n] for n in counts.ravel().tolist()])
        return found[:, 0].reshape(counts.shape), found[:, 1].reshape(counts.shape)

    def _hit_rate(self, tokens: int, slots: float) -> float:
        experts = self.loads.num_experts
        cache = self.policy.cache or "lru"
        if slots >= experts:
            return 1.0
        sequences = tokens / (1 + (tokens - 1) * self.loads.rho)
        if self.loads.trace and cache != "none":
            table = replayed_hit_rates(cache, self.loads.trace, experts, min(tokens, len(self.loads.trace)))
            return float(np.interp(slots, np.arange(len(table)), table))
        return hit_rate(cache, self._locality(cache), slots, sequences)

    def _locality(self, cache: str) -> Locality:
        experts, k = self.loads.num_experts, self.loads.top_k
        if cache == "static" and self.corpus_skew is not None:
            return Locality.zipf(experts, k, self.persistence, self.corpus_skew)
        return Locality(self._popularity(), max(self.persistence, min(self.loads.rho, _MOST_ALIKE)), self.drift)

    def _popularity(self) -> tuple[float, ...]:
        experts, k = self.loads.num_experts, self.loads.top_k
        if self.loads.kind == "power_law":
            # The shares that one draw of the law gives a long prompt.
            counts = power_law_counts(experts, k, _LONG, self.loads.alpha)[0]
            return tuple(np.minimum(counts / _LONG, 1.0).tolist())
        return self.loads.popularity or (k / experts,) * experts


def _fewer(q: Array, tokens: int, than: int) -> tuple[float, float]:
    """``Requests.fewer`` of one number of tokens; ``q`` are the experts' inclusion probabilities."""
    chance = (1.0 - q) ** tokens
    asked, some, rows = (1.0 - chance).sum(), 0.0, 0.0
    for k in range(1, min(than, tokens + 1)):
        # Binomial: each token picks the expert with its own chance.
        chance = chance * (tokens - k + 1) / k * q / (1.0 - q)
        some, rows = some + chance.sum(), rows + k * chance.sum()
    share = 1.0 if than > tokens else float(min(some / asked, 1.0))
    return share, float(rows / some) if some > 0 else 1.0


@lru_cache(maxsize=1)
def _lots() -> Array:
    """Uniform numbers, one row a layer: the same for every scenario, so that changes show nothing but themselves."""
    random = np.random.default_rng(0)
    # Strata of each layer shifted by a part of their width, so that layers together resolve small changes.
    shift = ((np.arange(_MOST_LAYERS) + 0.5) * _GOLDEN) % 1.0
    return np.array([random.permutation((np.arange(DRAWS) + u) / DRAWS) for u in shift])


def drawn_misses(asked: Any, hit: Any, layers: int) -> Array:
    """Draws of the misses of ``layers`` layers: binomial quantiles, each expert missing on its own.

    Parameters
    ----------
    asked : float or ndarray, shape (steps,)
        Experts asked for. A fraction of an expert: a binomial of the next whole number, scaled.
    hit : float or ndarray, shape (steps,) or (layers, steps)
        The share of them on the GPU.

    Returns
    -------
    ndarray, shape (layers, steps, DRAWS), or (layers, steps, 1) where nothing can miss
    """
    asked = np.atleast_1d(np.asarray(asked, float))
    if np.all(np.asarray(hit) >= 1):
        return np.zeros((layers, len(asked), 1))
    whole, chance = np.broadcast_arrays(np.ceil(asked - 1e-9), np.atleast_2d(np.round(1.0 - np.asarray(hit), 6)))
    # Pairs as complex numbers: each is worked out once.
    pairs, which = np.unique(whole + 1j * chance, return_inverse=True)
    drawn = np.array([_quantiles(int(pair.real), pair.imag)[:layers] for pair in pairs.tolist()])
    found = drawn[which.reshape(whole.shape), np.arange(layers)[:, None]]
    return found * (asked / np.maximum(whole[0], 1))[:, None]


@lru_cache(maxsize=2048)
def _quantiles(count: int, chance: float) -> Array:
    """Binomial quantiles at every layer's lots; shape (layers, DRAWS)."""
    lots = _lots()
    if count == 0 or chance <= 0:
        return np.zeros(lots.shape)
    if chance >= 1:
        return np.full(lots.shape, float(count))
    if count > _EXACT_UP_TO:
        deviation = np.sqrt(count * chance * (1 - chance))
        return np.clip(count * chance + deviation * _normal_quantiles(), 0, count)
    n = np.arange(count)
    log = np.concatenate([[0.0], np.cumsum(np.log((count - n) / (n + 1.0)) + np.log(chance / (1 - chance)))])
    weight = np.exp(log - log.max())
    return np.searchsorted(np.cumsum(weight / weight.sum()), lots).astype(float)


@lru_cache(maxsize=1)
def _normal_quantiles() -> Array:
    from statistics import NormalDist

    return np.vectorize(NormalDist().inv_cdf)(_lots())
