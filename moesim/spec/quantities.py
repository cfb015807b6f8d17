"""Pydantic types for quantities with units, and for values that name their source."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from moesim import units

T = TypeVar("T")


def _quantity(unit: str) -> BeforeValidator:
    return BeforeValidator(lambda text: units.parse(text, unit), json_schema_input_type=str)


Bytes = Annotated[float, _quantity("B"), Field(gt=0)]
BytesPerSecond = Annotated[float, _quantity("B/s"), Field(gt=0)]
FlopPerSecond = Annotated[float, _quantity("FLOP/s"), Field(gt=0)]
Watts = Annotated[float, _quantity("W"), Field(gt=0)]


class Strict(BaseModel):
    """Unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sourced(Strict, Generic[T]):
    """A value, where it comes from, and what to know about it."""

    value: T
    source: str = Field(min_length=1)
    note: str | None = None
