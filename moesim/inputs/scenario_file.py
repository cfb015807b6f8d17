"""A scenario written back as the file that would give it: what differs from the defaults, in the order of the form."""

from __future__ import annotations

from typing import Any

from moesim.files import yaml
from moesim.inputs.scenario import Scenario


def scenario_text(scenario: Scenario, heading: str = "") -> str:
    """YAML that ``load`` reads as the same scenario, under comment lines."""
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    return comment + yaml.text(scenario_data(scenario))


def scenario_data(scenario: Scenario) -> dict[str, Any]:
    """The same as plain data."""
    return scenario.told(exclude_defaults=True)
