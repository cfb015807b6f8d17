"""Clocks, throttling and power while points are measured: what makes a number one not to build on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.bench.environment import nvml
from moesim.bench.power import Meter
from moesim.bench.timing import NOT_CAPTURED, Times

APART, DRIFTING = "quartiles apart", "drifting"
"""What another process on the machine may do."""
_WIDEST_SPREAD = 0.25
"""Quartiles further apart than this share of the median."""
_MOST_TREND = 0.1
"""Later samples this much slower or faster than earlier ones."""
_REASONS = {
    "thermal": ("nvmlClocksThrottleReasonHwThermalSlowdown", "nvmlClocksThrottleReasonSwThermalSlowdown"),
    "power brake": ("nvmlClocksThrottleReasonHwPowerBrakeSlowdown",),
    "hardware slowdown": ("nvmlClocksThrottleReasonHwSlowdown",),
}
"""Throttling that a healthy machine does not show. The power cap alone is how every large GPU runs long kernels."""


class Watch:
    """Reads the GPU's clock and why it is held back; on a CPU only the spread of samples tells."""

    def __init__(self, device: str):
        self._opened = nvml() if device == "cuda" else None
        self._meter = Meter(self._opened)

    def around(self, measure: Callable[[], Times]) -> tuple[Times, dict[str, Any]]:
        """Times, with the clock and what was wrong: ``unstable`` is empty where nothing was."""
        before = self._throttled()
        self._meter.begin()
        times = measure()
        drawn = self._meter.now() | self._meter.since()
        reasons = sorted(before | self._throttled())
        if times.seconds_q3 - times.seconds_q1 > _WIDEST_SPREAD * times.seconds:
            reasons.append(APART)
        if abs(times.trend) > _MOST_TREND:
            reasons.append(DRIFTING)
        if NOT_CAPTURED in times.how:
            # Launches between kernels are in it: another quantity than the captured ones.
            reasons.append("not captured")
        found: dict[str, Any] = {"unstable": reasons}
        if self._opened:
            found |= self._clock() | drawn
        return times, found

    def _throttled(self) -> set[str]:
        if self._opened is None:
            return set()
        lib, handle = self._opened
        try:
            active = lib.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        except lib.NVMLError:
            return set()
        return {word for word, names in _REASONS.items() if any(active & getattr(lib, name, 0) for name in names)}

    def _clock(self) -> dict[str, Any]:
        lib, handle = self._opened or (None, None)
        assert lib is not None
        try:
            return {
                "sm_clock_hz": 1e6 * lib.nvmlDeviceGetClockInfo(handle, lib.NVML_CLOCK_SM),
                "temperature_c": lib.nvmlDeviceGetTemperature(handle, lib.NVML_TEMPERATURE_GPU),
            }
        except lib.NVMLError:
            return {}
