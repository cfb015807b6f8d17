"""The JSON Schema of scenario files."""

from __future__ import annotations

import json

from moesim.engines.settings import EngineSettings
from moesim.inputs.scenario import ALIASES, Scenario
from moesim.inputs.workload import Workload

_SECTIONS = {"workload": Workload.__name__, "engine": EngineSettings.__name__}
"""Section of a scenario with short names -> its model."""


def schema_text() -> str:
    """JSON Schema (draft 2020-12) with the short names accepted on input."""
    schema = Scenario.model_json_schema()
    for alias, dotted in ALIASES.items():
        section, _, leaf = dotted.partition(".")
        properties = schema["$defs"][_SECTIONS[section]]["properties"]
        properties[alias] = properties[leaf]
    # An alias may stand for a required name, so only names without one stay required.
    for section, name in _SECTIONS.items():
        aliased = {d.rpartition(".")[2] for d in ALIASES.values() if d.startswith(section)}
        required = [r for r in schema["$defs"][name].get("required", []) if r not in aliased]
        schema["$defs"][name]["required"] = required
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "moesim scenario"
    return json.dumps(schema, indent=1) + "\n"
