"""Persistence and skew of each model whose LRU hit rates were published (``offload/locality.py``), its drift given.

LRU curves of small caches leave open how fast popularity goes stale: each model's drift is a multiple of how often a
pick repeats, one assumed number of all models (``meta.yaml``), and the two others are fitted beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.offload.locality import Locality

_STARTS = ((-2.0, 0.3), (-2.0, 1.0), (-0.5, 1.0))
_LONGEST = 0.99
_SMALL = 1e-4


@dataclass(frozen=True)
class Curve:
    """LRU hit rates of one model: caches of ``slots`` experts a layer, means over layers."""

    experts: int
    top_k: int
    slots: Any
    hit_rates: Any


def predicted(num_experts: int, top_k: int, persistence: float, skew: float, slots: Any, drift: float = 0.0) -> Any:
    """LRU hit rates of caches of ``slots`` experts a layer; fractions are means over layers."""
    size, hit = Locality.zipf(num_experts, top_k, persistence, skew, drift).unions(1.0)
    return np.interp(slots, size, hit)


def fit_drifting(curve: Curve, redraws_per_repeat: float) -> dict[str, float]:
    """A model's numbers, its drift from how often its picks repeat where nothing drifts."""
    still = fit_locality(curve)
    return fit_locality(curve, round(redraws_per_repeat * still["persistence"] * curve.top_k / curve.experts, 5))


def fit_locality(curve: Curve, drift: float = 0.0) -> dict[str, float]:
    """Least squares over one model's cache sizes, its drift given.

    Returns
    -------
    dict
        ``persistence`` and ``skew`` with standard errors, ``drift``, ``rmse``, and the number of ``points``.
    """
    from scipy.optimize import least_squares

    def numbers(x: Any) -> tuple[float, float]:
        return _LONGEST / (1 + np.exp(-x[0])), abs(x[1])

    def error_of(persistence: float, skew: float) -> Any:
        return predicted(curve.experts, curve.top_k, persistence, skew, curve.slots, drift) - curve.hit_rates

    tries = (least_squares(lambda x: error_of(*numbers(x)), start, diff_step=1e-3) for start in _STARTS)
    persistence, skew = numbers(min(tries, key=lambda tried: tried.cost).x)
    error = error_of(persistence, skew)
    moved = (error_of(persistence + _SMALL, skew), error_of(persistence, skew + _SMALL))
    jacobian = np.stack([(there - error) / _SMALL for there in moved], axis=1)
    variance = float(error @ error) / max(len(error) - 2, 1)
    errors = np.sqrt(np.maximum(np.diag(np.linalg.pinv(jacobian.T @ jacobian) * variance), 0.0))
    return {
        "persistence": round(persistence, 4), "persistence_error": round(float(errors[0]), 4),
        "skew": round(skew, 4), "skew_error": round(float(errors[1]), 4), "drift": drift,
        "rmse": round(float(np.sqrt((error**2).mean())), 4), "points": len(error),
    }  # fmt: skip
