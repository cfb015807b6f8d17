"""Where every constant of a prediction comes from: fits with standard errors, datasheets with sources."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from moesim import paths
from moesim.cost.cost import leaf_seconds
from moesim.files.quantities import Sourced
from moesim.hardware.catalogue import load_hardware
from moesim.outcome import Prediction


class Constant(NamedTuple):
    """One number, its standard error where it was fitted, and what says it."""

    of: str
    name: str
    value: str
    error: str
    meaning: str
    source: str


def constants(prediction: Prediction) -> list[Constant]:
    """Of every family that prices a hundredth of the time or less, too; then the GPU's own figures."""
    families: dict[tuple[str, str], float] = {}
    for leaf, seconds in leaf_seconds(prediction.cost):
        fits, _, family = leaf.source.partition(":")
        if family and fits:
            for name in family.split(", "):
                key = (fits, name)
                families[key] = families.get(key, 0.0) + abs(float(seconds))
    found = [one for key in sorted(families, key=lambda k: -families[k]) for one in _fitted(*key)]
    return found + list(_of_hardware(prediction.scenario.hardware))


def _fitted(fits: str, family: str) -> Iterator[Constant]:
    for name, entry in _families(fits).get(family, {}).get("parameters", {}).items():
        unit = "" if entry["unit"] == "1" else f" {entry['unit']}"
        error = entry.get("standard_error")
        shown = "" if error is None else f"{error:.3g}{unit}" + (" (at its bound)" if entry.get("at_bound") else "")
        yield Constant(family, name, f"{entry['value']:.4g}{unit}", shown, entry.get("meaning", ""), f"fitted: {fits}")


@lru_cache(maxsize=32)
def _families(fits: str) -> dict[str, Any]:
    path = paths.FITS / f"{fits}.json"
    return json.loads(path.read_text(encoding="utf-8"))["families"] if path.is_file() else {}


def _of_hardware(name: str) -> Iterator[Constant]:
    hardware = load_hardware(name)
    for section, part in (("GPU", hardware.gpu), ("links", hardware.links)):
        for field in type(part).model_fields:
            figure = getattr(part, field)
            if isinstance(figure, Sourced):
                yield Constant(
                    f"{hardware.name} {section}", field, f"{figure.value:.4g}", "", figure.note or "", figure.source
                )
