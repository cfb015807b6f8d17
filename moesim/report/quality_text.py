"""What a table says of a variant's quality: an input, never a prediction."""

from __future__ import annotations

from pathlib import Path

from moesim.inputs.model_of import model_of
from moesim.inputs.quality_file import Quality, quality_of, shipped_quality
from moesim.inputs.scenario import Scenario


def variant_quality(scenario: Scenario) -> Quality:
    """Of a scenario's variant, by formats and metric; empty where no table says anything."""
    variant = scenario.variant
    if variant is None:
        return {}
    name = model_of(scenario).name
    return (
        quality_of(name, Path(variant.quality), variant.name)
        if variant.quality
        else shipped_quality(name, variant.name)
    )


def quality_lines(scenario: Scenario) -> list[str]:
    """A line a metric."""
    found = variant_quality(scenario)
    if not found:
        return ["", "quality of this variant: no table says what it is (variant.quality names one)"]
    return ["", "quality of this variant, as its table says:"] + [
        f"  {metric} {value:.4g} (experts in {experts}, the rest in {rest})"
        for (experts, rest, metric), value in found.items()
    ]
