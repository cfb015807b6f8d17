"""The model that a scenario means: the catalogue's or a file's, overridden, varied, told apart by layer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from moesim.experts.counts_file import read_counts
from moesim.inputs.routing import ByLayer, Histogram
from moesim.inputs.scenario import Scenario
from moesim.models.catalogue import load_model
from moesim.models.model import Model


def model_of(scenario: Scenario) -> Model:
    """A scenario's model. Raises SpecError."""
    model = load_model(scenario.model, scenario.engine.hf_overrides)
    variant: Any = scenario.variant
    if variant is not None:
        model = _varied(model, variant)
    by_layer = "by_layer" in {scenario.routing.kind, getattr(scenario.placement_routing, "kind", "")}
    return _told_apart(model) if by_layer else model


@lru_cache(maxsize=64)
def _varied(model: Model, variant: Any) -> Model:
    from moesim.models.variants import varied

    return varied(model, variant)


@lru_cache(maxsize=64)
def _told_apart(model: Model) -> Model:
    from moesim.models.relaid import numbered

    return numbered(model)


def with_counts(routing: Any) -> Any:
    """A routing by layer with the counts of its file; any other as it is. Raises SpecError."""
    if not isinstance(routing, ByLayer) or routing.file is None:
        return routing
    layers = tuple(Histogram(kind="histogram", counts=counts) for counts in read_counts(routing.file))
    return routing.model_copy(update={"layers": layers, "file": None})


def seen(scenario: Scenario) -> Scenario:
    """The scenario as an engine sees it: prompts with the tokens of their images. Any other as it is."""
    load = scenario.workload
    if load.images is None or load.image_tokens:
        return scenario
    tower = model_of(scenario).tower
    if tower is None or load.input_len is None:
        return scenario
    tokens = tower.picture(load.images.width, load.images.height, load.images.per_request).tokens
    whole = load.input_len + load.images.per_request * tokens
    changed = load.model_copy(update={"input_len": whole, "image_tokens": tokens})
    return scenario.model_copy(update={"workload": changed})
