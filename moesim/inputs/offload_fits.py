"""The stored fits of offloading: shares of copies, bandwidths of systems, locality of models."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from moesim import paths

FITS_FILE = paths.OFFLOAD / "fits.json"


@lru_cache(maxsize=1)
def offload_fits() -> dict[str, Any]:
    """``calibration/offload/fits.json``, read once."""
    return json.loads(FITS_FILE.read_text(encoding="utf-8"))
