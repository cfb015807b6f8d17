"""How a router's choices repeat from token to token: three numbers, and all that an LRU cache needs follows.

Each token an expert keeps its state (picked or not) with probability ``persistence``, else it is picked afresh with
its inclusion probability under Zipf(``skew``). The union of the last T tokens' experts then has the size

    D(T) = sum_e 1 - [(1 - q_e) (1 - (1 - p) q_e)^(T-1)]^n

for n sequences side by side. With probability ``drift`` a token an expert's popularity goes stale and it takes
another's: then one expert's absence is a chain over popularities, whose eigenvalues give D(T).

What an LRU cache holds is such a union, so its hit rate at size D(T) is the chance that an expert asked for was asked
for within T steps, ``1 - (D(T+1) - D(T)) / D(1)``: for p = 0 the approximation of Che et al. (2002) for requests that
come in sets. Between two unions the cache holds a part of the next step's experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from moesim.experts.routing import Array, inclusion_probabilities

_MOST_STEPS = 1 << 16
_LEFT = 1e-9


@lru_cache(maxsize=256)
def _zipf_inclusion(num_experts: int, top_k: int, skew: float) -> tuple[float, ...]:
    return tuple(inclusion_probabilities(np.arange(1, num_experts + 1) ** -skew, top_k).tolist())


@dataclass(frozen=True)
class Locality:
    """Requests for the experts of one layer.

    Parameters
    ----------
    inclusion : tuple of float, shape (E,)
        Chance of each expert to be among a token's k; they sum to k.
    persistence : float
        Chance that an expert's state carries over to the next token of a sequence.
    """

    inclusion: tuple[float, ...]
    persistence: float = 0.0
    drift: float = 0.0
    """Chance a token that an expert's popularity is another's from then on."""

    @classmethod
    def zipf(cls, num_experts: int, top_k: int, persistence: float, skew: float, drift: float = 0.0) -> Locality:
        return cls(_zipf_inclusion(num_experts, top_k, float(skew)), persistence, drift)

    @property
    def num_experts(self) -> int:
        return len(self.inclusion)

    @cached_property
    def top_k(self) -> float:
        return float(sum(self.inclusion))

    def union(self, steps: Array, sequences: float) -> Array:
        """Expected experts that ``sequences`` sequences picked in the last ``steps`` tokens each, D(T)."""
        q = np.minimum(np.asarray(self.inclusion), 1.0)
        steps = np.asarray(steps, float)[:, None]
        stays_away = 1.0 - (1.0 - self.persistence) * q
        if self.drift:
            absent = _drifting_absence((1.0 - q) ** sequences, stays_away**sequences, self.drift, steps)
            return np.where(steps[:, 0] > 0, len(q) * (1.0 - absent), 0.0)
        absent = (1.0 - q) * stays_away ** np.maximum(steps - 1.0, 0.0)
        return np.where(steps[:, 0] > 0, (1.0 - absent**sequences).sum(1), 0.0)

    def unions(self, sequences: float) -> tuple[Array, Array]:
        """(sizes of the unions of 0, 1, 2, ... steps, up to all experts; hit rate of a cache that holds each)."""
        steps = np.unique(np.concatenate([np.arange(65), np.geomspace(64, _MOST_STEPS, 200).astype(np.int64)]))
        size, next_size = self.union(steps, sequences), self.union(steps + 1, sequences)
        hit = 1.0 - (next_size - size) / size[1]
        hit[0] = 0.0
        return size, np.clip(hit, 0.0, 1.0)


def _drifting_absence(first: Array, later: Array, drift: float, steps: Array) -> Array:
    """Chance that an expert was not picked for so many steps, where popularities drift.

    Of the experts that stayed away so far, ``v`` holds how many have each popularity; a step takes it to
    ``later * ((1 - drift) v + drift mean(v))``, which is symmetric under ``sqrt(later)``.
    """
    experts, scale = len(first), np.sqrt(np.maximum(later, 1e-12))
    step = np.diag((1.0 - drift) * scale**2) + drift / experts * np.outer(scale, scale)
    rates, vectors = np.linalg.eigh(step)
    weights = (scale @ vectors) * (vectors.T @ (first / experts / scale))
    return np.clip(np.clip(rates, 0.0, 1.0) ** np.maximum(steps - 1.0, 0.0) @ weights, 0.0, 1.0)
