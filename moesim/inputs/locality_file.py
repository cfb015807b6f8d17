"""What was measured of how a model's router repeats itself, from ``calibration/offload/fits.json``."""

from __future__ import annotations

from statistics import median
from typing import Any

from moesim.inputs.offload_fits import offload_fits
from moesim.inputs.routing import Locality

_NUMBERS = ("persistence", "skew", "drift")


def _measured() -> dict[str, Any]:
    return offload_fits()["locality"]


def measured_name(model: str) -> str | None:
    """The measured model that a model of the catalogue is, if any."""
    return next((name for name, entry in _measured().items() if model in entry["catalogue"]), None)


def resolved(routing: Locality, model: str) -> Locality:
    """Nulls filled with what was measured of the model, else with the median of all measured models."""
    given = {name: getattr(routing, name) for name in _NUMBERS if getattr(routing, name) is not None}
    if len(given) == len(_NUMBERS):
        return routing
    own = measured_name(model)
    entries = [_measured()[own]] if own else list(_measured().values())
    values = {name: median(entry[name] for entry in entries) for name in _NUMBERS}
    return routing.model_copy(update=values | given)


def locality_note(routing: Locality, model: str) -> str | None:
    """What to say where nothing was measured of the model."""
    if all(getattr(routing, name) is not None for name in _NUMBERS) or measured_name(model):
        return None
    return f"routing: locality of {model} was never measured; assumed the median of {len(_measured())} measured models"
