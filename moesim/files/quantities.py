"""Pydantic types for values that carry a unit in the file and name their source."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from moesim import units


class Strict(BaseModel):
    """Unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    def told(self, **left_out: Any) -> dict[str, Any]:
        """Plain data as a file tells it: ``model_dump(exclude_unset=True, ...)``, but with every section's kind, which
        says what form the rest has."""
        return _with_kinds(self.model_dump(mode="json"), self.model_dump(mode="json", **left_out))


def _with_kinds(whole: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in whole.items():
        if key in told:
            nested = isinstance(value, dict) and isinstance(told[key], dict)
            found[key] = _with_kinds(value, told[key]) if nested else told[key]
        elif key == "kind":
            found[key] = value
    return found


MOST_WHOLE = 10**9


def no_switch(value: Any) -> Any:
    """What is written true or false is no number. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("a number is expected, not true or false")
    return value


NO_SWITCH = BeforeValidator(no_switch)
Whole = Annotated[int, Field(ge=1, le=MOST_WHOLE), NO_SWITCH]

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._+()-]{0,98}[A-Za-z0-9_+)])?")

_DEVICE = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")
"""What Windows keeps for devices."""


def file_name(name: str) -> str:
    """A name that files and folders may be called after on any system, and that leaves none. Raises ValueError."""
    if _NAME.fullmatch(name) is None or _DEVICE.fullmatch(name) is not None:
        raise ValueError("is no name for a file; up to 100 letters, digits and any of ' ._+-()' are accepted")
    return name


_LONGEST_PATH, _LONGEST_NAME = 2048, 255


def path_text(text: str) -> str:
    """What may be the path of a file, or a name that stands for one. Raises ValueError."""
    if "\0" in text:
        raise ValueError("holds a NUL, which no file's name does")
    if len(text) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in re.split(r"[/\\]", text)):
        raise ValueError("is longer than the name of a file can be")
    return text


PathText = Annotated[str, AfterValidator(path_text)]
FileName = Annotated[str, AfterValidator(file_name)]


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] <= ends[1]:
        raise ValueError("the least stands before the most")
    return ends


class Sourced(Strict):
    """A value in SI, where it comes from, and what to know about it."""

    value: Annotated[float, Field(gt=0)]
    source: str = Field(min_length=1)
    note: str | None = None


class Seen(Sourced):
    """The same with the range that was seen of it."""

    seen: Annotated[tuple[float, float], AfterValidator(_rising)] | None = None


def _in_unit(data: Any, unit: str, low: float, high: float) -> Any:
    """Turn the value's written quantity into SI; what is no such map is left to pydantic to refuse."""
    if not isinstance(data, dict) or "value" not in data:
        return data
    value = units.parse(data["value"], unit) if unit else data["value"]
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise ValueError(f"{data['value']} is not plausible; from {low:g} to {high:g}{unit and ' ' + unit} is accepted")
    seen = data.get("seen")
    if isinstance(seen, list):
        data = data | {"seen": tuple(units.parse(end, unit) if unit else end for end in seen)}
    return data | {"value": value}


def _plain(value: Any, unit: str, least: float = 0.0) -> Any:
    """A written quantity in SI; what a program passes on is SI already, and not below ``least``."""
    small = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < least
    parsed = units.parse(value, unit) if isinstance(value, str) or small else value
    if isinstance(value, str) and 0 < parsed < least:
        raise ValueError(f"{value!r} is not plausible; from {least:g} {unit} is accepted")
    return parsed


def _sourced(unit: str, low: float, high: float) -> Any:
    """A range that catches a slipped prefix: no GPU has less, or more."""
    return BeforeValidator(partial(_in_unit, unit=unit, low=low, high=high))


Count = Annotated[Sourced, _sourced("", 1, 1e5)]
Size = Annotated[float, BeforeValidator(lambda text: units.parse(text, "B")), Field(gt=0)]
"""Plain bytes, where the file names the source for a whole table."""
_WRITTEN = WithJsonSchema({"type": ["string", "number"]})
Rate = Annotated[float, BeforeValidator(lambda text: _plain(text, "B/s", 1e6)), Field(gt=0), _WRITTEN]
"""Bytes per second a user writes, with the unit; SI where it is a number already."""
Capacity = Annotated[float, BeforeValidator(lambda text: _plain(text, "B", 1e6)), Field(gt=0), _WRITTEN]
"""Bytes a user writes, with the unit; SI where it is a number already."""
CapacityFromZero = Annotated[float, BeforeValidator(lambda text: _plain(text, "B", 1e6)), Field(ge=0), _WRITTEN]
"""The same where none is meant by 0."""
Delay = Annotated[float, BeforeValidator(lambda text: _plain(text, "s")), Field(ge=0, le=10), _WRITTEN]
Bytes = Annotated[Sourced, _sourced("B", 1e5, 2e12)]
SeenBytes = Annotated[Seen, _sourced("B", 1e5, 2e12)]
HostBytes = Annotated[Sourced, _sourced("B", 1e8, 1e15)]
BytesPerSecond = Annotated[Sourced, _sourced("B/s", 1e9, 1e17)]
HostBytesPerSecond = Annotated[Sourced, _sourced("B/s", 1e7, 1e13)]
"""Disks and main memory are slower than a GPU's."""
FlopPerSecond = Annotated[Sourced, _sourced("FLOP/s", 1e12, 1e18)]
CpuFlopPerSecond = Annotated[Sourced, _sourced("FLOP/s", 1e9, 1e15)]
Seconds = Annotated[Sourced, _sourced("s", 1e-9, 1e-2)]
Share = Annotated[Sourced, _sourced("", 1e-2, 1)]
Ratio = Annotated[Sourced, _sourced("", 1, 100)]
SeenRatio = Annotated[Seen, _sourced("", 0.1, 10)]
Watts = Annotated[Sourced, _sourced("W", 1, 1e5)]
