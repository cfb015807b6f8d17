"""The model that a scenario means: the catalogue's or a file's, overridden, varied, told apart by layer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from moesim.inputs.scenario import Scenario
from moesim.models.catalogue import load_model
from moesim.models.model import Model


def model_of(scenario: Scenario) -> Model:
    """A scenario's model. Raises SpecError."""
    model = load_model(scenario.model, scenario.engine.hf_overrides)
    variant: Any = scenario.variant
    return model if variant is None else _varied(model, variant)


@lru_cache(maxsize=64)
def _varied(model: Model, variant: Any) -> Model:
    from moesim.models.variants import varied

    return varied(model, variant)
