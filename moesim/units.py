"""Quantities as people write them in files, SI floats inside.

Decimal prefixes (k, M, G, T, P) are powers of 1000 and binary ones (Ki, Mi, Gi, Ti) powers of 1024; they
never mix. ``parse("3.35 TB/s", "B/s")`` is ``3.35e12``.
"""

from __future__ import annotations

import re

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SMALL = {"m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9}

UNITS: dict[str, dict[str, float]] = {
    "B": {f"{p}B": s for p, s in (_DECIMAL | _BINARY).items()},
    "B/s": {f"{p}B/s": s for p, s in (_DECIMAL | _BINARY).items()},
    "FLOP/s": {f"{p}FLOP/s": s for p, s in _DECIMAL.items()} | {f"{p}OP/s": s for p, s in _DECIMAL.items()},
    "s": {"s": 1.0} | {f"{p}s": s for p, s in _SMALL.items()},
    "W": {f"{p}W": s for p, s in _DECIMAL.items()},
}
_EXAMPLES = {"B": "80 GiB", "B/s": "3.35 TB/s", "FLOP/s": "989.4 TFLOP/s", "s": "2.5 us", "W": "700 W"}
_QUANTITY = re.compile(r"^\s*([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([^\s\d].*?)\s*$")


def parse(text: object, unit: str) -> float:
    """Turn a written quantity into SI.

    Parameters
    ----------
    text : object
        What stood in the file, for example ``"80 GiB"``.
    unit : str
        The SI unit expected, a key of ``UNITS``.

    Raises
    ------
    ValueError
        A bare number, another dimension, or no quantity at all.
    """
    accepted = f"write a number and a unit, like '{_EXAMPLES[unit]}'"
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        raise ValueError(f"{text} has no unit; {accepted}")
    match = _QUANTITY.match(text) if isinstance(text, str) else None
    if not match:
        raise ValueError(f"{text!r} is not a quantity; {accepted}")
    number, suffix = match.groups()
    if suffix not in UNITS[unit]:
        raise ValueError(f"{text!r} is not in {unit}; {accepted}")
    return float(number) * UNITS[unit][suffix]


def bytes_text(value: float) -> str:
    """Bytes for a reader, in binary units: ``87.0 GiB``."""
    for prefix in ("Ti", "Gi", "Mi", "Ki"):
        if abs(value) >= _BINARY[prefix]:
            return f"{value / _BINARY[prefix]:.4g} {prefix}B"
    return f"{value:.0f} B"
