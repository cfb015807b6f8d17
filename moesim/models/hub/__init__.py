"""Hugging Face config.json -> Model, one module a family. An unknown architecture is refused by name."""

from __future__ import annotations

import difflib
from dataclasses import replace
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.models.config_fields import Fields
from moesim.models.hub.reader import READERS, Reader
from moesim.models.hub.towers import tower_parameters
from moesim.models.model import Model
from moesim.models.quantization import BFLOAT16, Unknown, quantization
from moesim.models.vision import tower_of

_NESTED = ("text_config", "language_config", "llm_config", "thinker_config")


@cache
def readers() -> dict[str, Reader]:
    """Every family's reader, by ``model_type``."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return READERS


def model_from_config(config: dict[str, Any], name: str, source: str, sidecar: dict[str, Any] | None = None) -> Model:
    """Read a config.json, with the ``hf_quant_config.json`` beside it where there is one.

    Raises
    ------
    SpecError
        An unknown architecture or quantisation, or missing fields.
    """
    text = text_config(config)
    model_type = str(config.get("model_type") or text.get("model_type") or "")
    reader = readers().get(model_type) or readers().get(str(text.get("model_type") or ""))
    if reader is None:
        raise SpecError([Problem(_unknown(config, model_type), source)])
    said = _stored(text, config, sidecar)
    try:
        weights = quantization(said)
    except Unknown as error:
        where = f"{source}: hf_quant_config.json beside it" if said is sidecar and sidecar else source
        raise SpecError([Problem(str(error), where)]) from None
    fields = Fields(text, source, weights)
    model: Model | None = None
    try:
        model = reader(fields, name)
        tower = tower_parameters(fields, config)
        if weights.method and model.formats == {BFLOAT16}:
            fields.notes.append(f"its {weights.method} config names no layer of it: all are read as bfloat16")
        notes = (f"{name}: {note}" for note in dict.fromkeys(fields.notes))
        seen = tower_of(config, model.hidden_size)
        model = replace(model, tower_parameters=tower, tower=seen, notes=(*model.notes, *notes))
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        fields.problems = fields.problems or [Problem(f"its values do not hang together ({error})", source)]
    if fields.problems or model is None:
        raise SpecError(fields.problems)
    return model


_STORED = ("quantization_config", "compression_config")
_FP4_EXPERTS = ("deepseek_v4", "deepseek_v41")
"""Whose experts are in fp4 where a config does not say (vLLM models/deepseek_v4)."""


def _stored(text: dict[str, Any], config: dict[str, Any], sidecar: dict[str, Any] | None) -> dict[str, Any] | None:
    """What says how weights are stored: in the text model's part, else around it, else beside the file."""
    said = next((part[name] for name in _STORED for part in (text, config) if part.get(name)), sidecar)
    if not isinstance(said, dict) or said.get("expert_dtype") or said.get("quant_method") != "fp8":
        return said
    usual = "fp4" if config.get("model_type") in _FP4_EXPERTS else None
    return {**said, "expert_dtype": text.get("expert_dtype", usual)}


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config.json that describes the language model; what it does not say, the whole says."""
    for nested in _NESTED:
        if isinstance(config.get(nested), dict):
            own = {key: value for key, value in config[nested].items() if value is not None}
            around = {key: value for key, value in config.items() if not isinstance(value, dict) and value is not None}
            return {**around, **own}
    return config


def _unknown(config: dict[str, Any], model_type: str) -> str:
    known = sorted(readers())
    shown = model_type or str((config.get("architectures") or ["(none named)"])[0])
    near = difflib.get_close_matches(model_type, known, 3, 0.4)
    like = f"; the nearest known model_type values are {', '.join(near)}" if near else ""
    return f"the architecture '{shown}' is not known{like} (moesim models --architectures lists all {len(known)})"
