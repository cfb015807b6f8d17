"""A scenario written back as the file that would give it: what differs from the defaults, in the order of the form."""

from __future__ import annotations

from typing import Any

from moesim.files import yaml
from moesim.inputs.scenario import Scenario

_ALWAYS = ("kind",)
"""Told even where it is the default: it says which form the rest has."""


def scenario_text(scenario: Scenario, heading: str = "") -> str:
    """YAML that ``load`` reads as the same scenario, under comment lines."""
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    return comment + yaml.text(scenario_data(scenario))


def scenario_data(scenario: Scenario) -> dict[str, Any]:
    """The same as plain data."""
    whole, told = scenario.model_dump(mode="json"), scenario.model_dump(mode="json", exclude_defaults=True)
    return _told(whole, told)


def _told(whole: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in whole.items():
        if key in told:
            nested = isinstance(value, dict) and isinstance(told[key], dict)
            found[key] = _told(value, told[key]) if nested else told[key]
        elif key in _ALWAYS:
            found[key] = value
    return found
