"""The JSON Schema of scenario files."""

from __future__ import annotations

import json

from moesim.spec.scenario import ALIASES, Scenario


def schema_text() -> str:
    """JSON Schema (draft 2020-12) with the short names accepted on input."""
    schema = Scenario.model_json_schema()
    for alias, dotted in ALIASES.items():
        section, _, leaf = dotted.partition(".")
        properties = schema["$defs"][section.capitalize()]["properties"]
        properties[alias] = properties[leaf]
    # An alias may stand for a required name, so only names without one stay required.
    for section in ("Workload", "Engine"):
        aliased = {d.rpartition(".")[2] for d in ALIASES.values() if d.startswith(section.lower())}
        required = [r for r in schema["$defs"][section].get("required", []) if r not in aliased]
        schema["$defs"][section]["required"] = required
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "moesim scenario"
    return json.dumps(schema, indent=1) + "\n"
