"""What a GPU draws, as NVML reads it: now, and over a time by its energy counter."""

from __future__ import annotations

import time
from typing import Any

MEAN = "mean_power_w"
LEAST_S = 0.5
"""The counter moves every tenth of a second or so: over less, it tells of a part of that."""


class Meter:
    """Reads one GPU; nothing where NVML or the card does not say."""

    def __init__(self, opened: Any | None):
        self._opened = opened
        self._begun: tuple[float, float] | None = None

    @property
    def reads(self) -> bool:
        """Whether there is a counter."""
        return self._energy_j() is not None

    def begin(self) -> None:
        """Energy counts from now on."""
        joules = self._energy_j()
        self._begun = None if joules is None else (time.monotonic(), joules)

    def since(self) -> dict[str, float]:
        """Energy since then, over how long, and the mean power of that. [J, s, W]"""
        joules = self._energy_j()
        if self._begun is None or joules is None:
            return {}
        seconds, spent = time.monotonic() - self._begun[0], joules - self._begun[1]
        found = {"energy_j": round(spent, 3), "energy_over_s": round(seconds, 4)}
        return found | ({MEAN: round(spent / seconds, 2)} if seconds >= LEAST_S and spent > 0 else {})

    def now(self) -> dict[str, float]:
        """What it draws this moment; the driver's own mean over a second where it has nothing shorter. [W]"""
        if self._opened is None:
            return {}
        lib, handle = self._opened
        try:
            (field,) = lib.nvmlDeviceGetFieldValues(handle, [lib.NVML_FI_DEV_POWER_INSTANT])
            if field.nvmlReturn == lib.NVML_SUCCESS:
                return {"power_w": field.value.uiVal / 1e3}
        except (lib.NVMLError, AttributeError):
            # Drivers before 530 have no such field, packages before 12.535 no name for it.
            pass
        try:
            return {"power_w": lib.nvmlDeviceGetPowerUsage(handle) / 1e3}
        except lib.NVMLError:
            return {}

    def _energy_j(self) -> float | None:
        if self._opened is None:
            return None
        lib, handle = self._opened
        try:
            return lib.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
        except lib.NVMLError:
            return None
