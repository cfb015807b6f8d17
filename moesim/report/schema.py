"""The JSON Schema of scenario files."""

from __future__ import annotations

import json
from typing import Any

from moesim.engines.settings import EngineSettings
from moesim.inputs.scenario import ALIASES, Scenario
from moesim.inputs.workload import Workload

_SECTIONS = {"workload": Workload.__name__, "engine": EngineSettings.__name__}
"""Section of a scenario with short names -> its model."""


def _part(schema: dict[str, Any], section: str) -> dict[str, Any]:
    return schema["$defs"][_SECTIONS[section]] if section else schema


def schema_text() -> str:
    """JSON Schema (draft 2020-12) with the short names accepted on input."""
    schema = Scenario.model_json_schema()
    for alias, dotted in ALIASES.items():
        section, _, leaf = dotted.rpartition(".")
        properties = _part(schema, section)["properties"]
        properties[alias] = properties[leaf]
    # An alias may stand for a required name, so only names without one stay required.
    for section in ("", *_SECTIONS):
        part, aliased = _part(schema, section), {d.rpartition(".")[2] for d in ALIASES.values()}
        part["required"] = [r for r in part.get("required", []) if r not in aliased]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "moesim scenario"
    schema["description"] = (Scenario.__doc__ or "").partition("\n")[0]
    return json.dumps(schema, indent=1) + "\n"
