"""Quality of a model and its variants in several weight formats: a table with sources, the user's or the project's."""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from pathlib import Path

from moesim import paths
from moesim.files.reading import require_file
from moesim.files.table import read_table
from moesim.inputs.scenario import Scenario
from moesim.inputs.variant import Variant
from moesim.models.catalogue import load_model

COLUMNS = ("model", "experts_format", "attention_format", "metric", "value", "source")
_VARIANT = "variant"
"""A column that a table may have behind the model's."""
_LOWER = ("perplexity", "ppl", "loss", "error", "bits_per")
"""Words in the names of metrics that are better the lower they are; scores of tasks are not."""
Quality = dict[tuple[str, str, str], float]
"""(experts' format, the other matrices' format, metric) -> value."""


def higher_is_better(metric: str) -> bool:
    """Whether a quality metric is better the higher it is, told by its name; perplexity is not."""
    return not any(word in metric.lower() for word in _LOWER)


def quality_known(scenario: Scenario, table: Path | None = None) -> Quality:
    """What is known of a scenario's model as it runs: by a table, by the variant's own, or by the project's.

    Nothing is where the model is changed in a way that no table has a name for.
    """
    variant, settings = scenario.variant, scenario.engine
    model = load_model(scenario.model, settings.hf_overrides)
    if variant is not None and variant.quality and table is None:
        return quality_of(model.name, Path(variant.quality), variant.name)
    unnamed = variant is not None and not variant.name and variant != Variant()
    if unnamed or (table is None and settings.hf_overrides):
        return {}
    name = variant.name if variant is not None else ""
    return quality_of(model.name, table, name) if table else shipped_quality(model.name, name)


def shipped_quality(model: str, variant: str = "") -> Quality:
    """What the project's tables say of a model, or of a variant of it; empty where they say nothing."""
    found: Quality = {}
    for path in sorted(paths.QUALITY.glob("*.csv")):
        found |= quality_of(model, path, variant)
    return found


def quality_of(model: str, path: Path, variant: str = "") -> Quality:
    """What a table says of a model, or of a variant of it. Raises SpecError."""
    rows = _rows(require_file(path), path.stat().st_mtime_ns)
    wanted = (model.lower(), variant.lower())
    return {key: value for name, of, key, value in rows if (name.lower(), of.lower()) == wanted}


@lru_cache(maxsize=16)
def _rows(path: Path, _stamp: int) -> list[tuple[str, str, tuple[str, str, str], float]]:
    return read_table(path, COLUMNS, _row, (_VARIANT,))


def _row(row: dict[str, str]) -> tuple[str, str, tuple[str, str, str], float]:
    """A row of the table. Raises ValueError."""
    if not row["source"].strip():
        raise ValueError("names no source")
    try:
        value = float(row["value"])
        if not isfinite(value):
            raise ValueError
    except ValueError:
        raise ValueError(f"'{row['value'][:20]}' is not a finite number") from None
    key = (row["experts_format"], row["attention_format"], row["metric"])
    return row["model"], row.get(_VARIANT, ""), key, value
