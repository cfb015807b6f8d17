"""The stored fits of offloading: shares of copies, bandwidths of systems, locality of models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from moesim import paths

FITS_FILE = paths.OFFLOAD / "fits.json"
_instead: list[dict[str, Any]] = []


def offload_fits() -> dict[str, Any]:
    """``calibration/offload/fits.json``, read once; or what ``fits_instead`` holds."""
    return _instead[-1] if _instead else _stored()


@lru_cache(maxsize=1)
def _stored() -> dict[str, Any]:
    return json.loads(FITS_FILE.read_text(encoding="utf-8"))


@contextmanager
def fits_instead(fits: dict[str, Any]) -> Iterator[None]:
    """Predict under other fits: while they are made, or with a machine's runs left out."""
    _instead.append(fits)
    try:
        yield
    finally:
        _instead.pop()


def forget_fits() -> None:
    """Read the file again: it was written."""
    _stored.cache_clear()
