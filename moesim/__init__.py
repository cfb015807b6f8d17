"""moesim: how fast a Mixture-of-Experts model runs, how sure we are, and why.

>>> import moesim
>>> scenario = moesim.load("scenarios/mixtral_tp4.yaml")  # doctest: +SKIP
>>> moesim.predict(scenario.with_(batch_size=8))["mean_tpot_ms"]  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesim.errors import CalibrationError, DoesNotFit, SpecError
    from moesim.plans import plans
    from moesim.prediction import Prediction, predict
    from moesim.search.best import SearchResult, search
    from moesim.spec.loading import load, load_hardware, load_model
    from moesim.spec.scenario import Scenario
    from moesim.whatif import sweep

__version__ = "0.1.0"

_HOMES = {
    "load": "moesim.spec.loading",
    "load_model": "moesim.spec.loading",
    "load_hardware": "moesim.spec.loading",
    "Scenario": "moesim.spec.scenario",
    "Prediction": "moesim.prediction",
    "predict": "moesim.prediction",
    "plans": "moesim.plans",
    "search": "moesim.search.best",
    "SearchResult": "moesim.search.best",
    "sweep": "moesim.whatif",
    "SpecError": "moesim.errors",
    "DoesNotFit": "moesim.errors",
    "CalibrationError": "moesim.errors",
}

__all__ = [
    "CalibrationError", "DoesNotFit", "Prediction", "Scenario", "SearchResult", "SpecError", "load", "load_hardware",
    "load_model", "plans", "predict", "search", "sweep",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'moesim' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
