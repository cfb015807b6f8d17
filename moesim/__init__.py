"""moesim: how fast a Mixture-of-Experts model runs, how sure we are, and why.

>>> import moesim
>>> scenario = moesim.load("scenarios/mixtral_tp4.yaml")  # doctest: +SKIP
>>> moesim.predict(scenario.with_(batch_size=8))["mean_tpot_ms"]  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesim.errors import CalibrationError, DoesNotFit, MoesimError, SpecError
    from moesim.explore.capacity import Capacity, capacity
    from moesim.explore.compare import Compared, compare
    from moesim.explore.plans import Candidate, plans
    from moesim.explore.recommend import Finalist, Recommendation, recommend
    from moesim.explore.search.best import SearchResult, search
    from moesim.explore.sweeps import sweep, sweep_into
    from moesim.explore.tornado import Tornado, tornado
    from moesim.explore.validate import validate
    from moesim.hardware.catalogue import load_hardware
    from moesim.inputs.loading import load
    from moesim.inputs.scenario import Scenario
    from moesim.metrics import Metric
    from moesim.models.catalogue import load_model
    from moesim.outcome import Offloaded, Prediction, Served, Static, Steady
    from moesim.prediction import predict, predict_steady
    from moesim.serving.report import Slo

__version__ = "0.1.0"

_HOMES = {
    "load": "moesim.inputs.loading",
    "load_model": "moesim.models.catalogue",
    "load_hardware": "moesim.hardware.catalogue",
    "Scenario": "moesim.inputs.scenario",
    "predict": "moesim.prediction",
    "predict_steady": "moesim.prediction",
    **dict.fromkeys(("Prediction", "Static", "Served", "Steady", "Offloaded"), "moesim.outcome"),
    "Metric": "moesim.metrics",
    "Slo": "moesim.serving.report",
    **dict.fromkeys(("plans", "Candidate"), "moesim.explore.plans"),
    **dict.fromkeys(("recommend", "Recommendation", "Finalist"), "moesim.explore.recommend"),
    "capacity": "moesim.explore.capacity",
    "Capacity": "moesim.explore.capacity",
    "validate": "moesim.explore.validate",
    **dict.fromkeys(("compare", "Compared"), "moesim.explore.compare"),
    **dict.fromkeys(("tornado", "Tornado"), "moesim.explore.tornado"),
    "search": "moesim.explore.search.best",
    "SearchResult": "moesim.explore.search.best",
    **dict.fromkeys(("sweep", "sweep_into", "sweep_into"), "moesim.explore.sweeps"),
    **dict.fromkeys(("MoesimError", "SpecError", "DoesNotFit", "CalibrationError"), "moesim.errors"),
}

__all__ = [
    "CalibrationError", "Candidate", "Capacity", "Compared", "DoesNotFit", "Finalist", "Metric", "MoesimError",
    "Offloaded", "Prediction", "Recommendation", "Scenario", "SearchResult", "Served", "Slo", "SpecError",
    "Static", "Steady", "Tornado", "capacity", "compare", "load", "load_hardware", "load_model", "plans",
    "predict", "predict_steady", "recommend", "search", "sweep", "sweep_into", "tornado", "validate",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'moesim' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
