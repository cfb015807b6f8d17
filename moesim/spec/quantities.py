"""Pydantic types for values that carry a unit in the file and name their source."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from moesim import units


class Strict(BaseModel):
    """Unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sourced(Strict):
    """A value in SI, where it comes from, and what to know about it."""

    value: Annotated[float, Field(gt=0)]
    source: str = Field(min_length=1)
    note: str | None = None


def _in_unit(data: Any, unit: str) -> Any:
    """Turn the value's written quantity into SI; what is no such map is left to pydantic to refuse."""
    if isinstance(data, dict) and "value" in data:
        return data | {"value": units.parse(data["value"], unit)}
    return data


def _sourced(unit: str) -> Any:
    return BeforeValidator(partial(_in_unit, unit=unit))


Count = Sourced
Bytes = Annotated[Sourced, _sourced("B")]
BytesPerSecond = Annotated[Sourced, _sourced("B/s")]
FlopPerSecond = Annotated[Sourced, _sourced("FLOP/s")]
Watts = Annotated[Sourced, _sourced("W")]
