"""Hugging Face config.json -> Model, one module a family. An unknown architecture is refused by name."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import READERS, Reader
from moesim.models.model import Model


@cache
def readers() -> dict[str, Reader]:
    """Every family's reader, by ``model_type``."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return READERS


def model_from_config(config: dict[str, Any], name: str, source: str) -> Model:
    """Read a config.json. Raises SpecError for an unknown architecture or missing fields."""
    model_type = config.get("model_type")
    reader = readers().get(str(model_type))
    if reader is None:
        known = ", ".join(sorted(readers()))
        shown = model_type or (config.get("architectures") or ["(none named)"])[0]
        raise SpecError([Problem(f"the architecture '{shown}' is not known; known model_type values: {known}", source)])
    fields = Fields(_text_config(config), source)
    model: Model | None = None
    try:
        model = reader(fields, name, config)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        fields.problems = fields.problems or [Problem(f"its values do not hang together ({error})", source)]
    if fields.problems or model is None:
        raise SpecError(fields.problems)
    return model


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    for nested in ("text_config", "language_config"):
        if isinstance(config.get(nested), dict):
            return {**config[nested], "quantization_config": config.get("quantization_config")}
    return config
