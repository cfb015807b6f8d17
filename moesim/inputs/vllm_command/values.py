"""Values as vLLM's parser reads them."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.files import yaml
from moesim.inputs.vllm_command.shell import WHERE

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_POWERS = "kmgt"


def whole(text: str) -> int:
    """``16384``, ``16k`` (16,000), ``25.6k`` or ``16K`` (16,384). Raises ValueError with a sentence."""
    text = text.strip()
    found = _SIZE.fullmatch(text)
    if not found:
        if re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        raise ValueError(f"'{text}' is no whole number; one like 16384, 16k (16,000) or 16K (16,384) is")
    number, unit = found.groups()
    power = _POWERS.index(unit.lower()) + 1
    if unit.islower():
        return int(float(number) * 1000**power)
    if "." in number:
        raise ValueError(f"'{text}': a fraction goes with {unit.lower()} (1000), not with {unit} (1024)")
    return int(number) * 1024**power


def switch(text: str) -> bool:
    """Raises ValueError with a sentence."""
    found = {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    if found is None:
        raise ValueError(f"'{text}' is neither true nor false")
    return found


def number(text: str) -> float:
    """Raises ValueError with a sentence."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"'{text}' is no number") from None


def sizes(value: Any) -> list[int]:
    """``[1, 2, 4]``, ``1,2,4`` or ``1 2 4``. Raises ValueError with a sentence."""
    items = value if isinstance(value, list) else re.split(r"[\s,]+", str(value).strip("[] "))
    try:
        return sorted(int(item) for item in items)
    except (TypeError, ValueError):
        raise ValueError(f"'{value}' is no list of numbers; 1,2,4 is") from None


def _once(flag: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are written once. Raises SpecError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1)
        raise SpecError([Problem(f"{flag}: '{twice}' is written twice; keep one", WHERE)])
    return found


def as_map(text: str, flag: str) -> tuple[dict[str, Any], str]:
    """(a JSON map, a note where vLLM would not take it as it is written). Raises SpecError."""
    try:
        found, note = json.loads(text, object_pairs_hook=partial(_once, flag)), ""
    except SpecError:
        raise
    except ValueError:
        note = f"{flag}: '{text}' is not JSON as vLLM takes it, with double quotes; it is read as if it were"
        try:
            found = yaml.parse(f"value: {text}", WHERE).data["value"]
        except SpecError:
            found = None
        if isinstance(found, dict) and not all(value is not None for value in found.values()):
            found = None
    if not isinstance(found, dict):
        raise SpecError([Problem(f"{flag}: '{text}' is no map; one in JSON, like '{{\"name\": 1}}', is", WHERE)])
    return found, note
