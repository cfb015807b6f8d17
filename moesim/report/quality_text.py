"""What a table says of a variant's quality: an input, never a prediction."""

from __future__ import annotations

from moesim.inputs.quality_file import Quality, quality_known
from moesim.inputs.scenario import Scenario


def variant_quality(scenario: Scenario) -> Quality:
    """Of a scenario's variant, by formats and metric; empty where no table says anything."""
    return quality_known(scenario) if scenario.variant is not None else {}


def quality_lines(scenario: Scenario) -> list[str]:
    """A line a metric."""
    found = variant_quality(scenario)
    if not found:
        return ["", "quality of this variant: no table says what it is (variant.quality names one)"]
    return ["", "quality of this variant, as its table says:"] + [
        f"  {metric} {value:.4g} (experts in {experts}, the rest in {rest})"
        for (experts, rest, metric), value in found.items()
    ]
