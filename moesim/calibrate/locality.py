"""Two numbers for each model whose LRU hit rates were published: persistence and skew (``offload/locality.py``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.offload.locality import Locality

_STARTS = ((-2.0, 0.3), (-2.0, 1.0), (-0.5, 1.0))
_LONGEST = 0.99


def predicted(num_experts: int, top_k: int, persistence: float, skew: float, slots: Any) -> Any:
    """LRU hit rates of caches of ``slots`` experts a layer; fractions are means over layers."""
    size, hit = Locality.zipf(num_experts, top_k, persistence, skew).unions(1.0)
    return np.interp(slots, size, hit)


def fit_locality(num_experts: int, top_k: int, slots: Any, hit_rates: Any) -> dict[str, float]:
    """Least squares over one model's cache sizes.

    Returns
    -------
    dict
        ``persistence`` and ``skew`` with standard errors, ``rmse``, and the number of ``points``.
    """
    from scipy.optimize import least_squares

    def numbers(x: Any) -> tuple[float, float]:
        return _LONGEST / (1 + np.exp(-x[0])), abs(x[1])

    def residuals(x: Any) -> Any:
        return predicted(num_experts, top_k, *numbers(x), slots) - hit_rates

    best = min((least_squares(residuals, start, diff_step=1e-3) for start in _STARTS), key=lambda found: found.cost)
    persistence, skew = numbers(best.x)
    error = residuals(best.x)
    jacobian = np.stack(
        [(predicted(num_experts, top_k, persistence + dp, skew + ds, slots) - error - hit_rates) / 1e-4
         for dp, ds in ((1e-4, 0.0), (0.0, 1e-4))], axis=1
    )  # fmt: skip
    variance = float(error @ error) / max(len(error) - 2, 1)
    errors = np.sqrt(np.maximum(np.diag(np.linalg.pinv(jacobian.T @ jacobian) * variance), 0.0))
    return {
        "persistence": round(persistence, 4), "persistence_error": round(float(errors[0]), 4),
        "skew": round(skew, 4), "skew_error": round(float(errors[1]), 4),
        "rmse": round(float(np.sqrt((error**2).mean())), 4), "points": len(error),
    }  # fmt: skip
