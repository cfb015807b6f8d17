"""Costs outside the GPU's kernels: copies, disk, experts on the CPU, unpacking, eager launches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from moesim.cost.cost import Cost
from moesim.cost.host_fits import LinkRate, fixed_time, issue_rate, link_rate, thread_rate
from moesim.cost.widening import around
from moesim.hardware.hardware import Hardware
from moesim.hardware.host import Host
from moesim.inputs.offload import Policy
from moesim.inputs.system_file import System, cpu_kernels
from moesim.ops.host import Copy, CpuMatrices, DiskRead, Unpack

_GIVEN = 0.1
"""Half-width of a bandwidth that the scenario gives."""
_ASSUMED = 0.5
"""Half-width, in the logarithm, of what was assumed from hardware figures: a factor of 1.65."""
_ASSUMED_CPU = 0.7
"""The same of experts on a CPU, whose kernels differ by more: a factor of two."""


@dataclass(frozen=True)
class HostMachine:
    """A GPU's surroundings as one offloading system uses them."""

    hardware: Hardware
    host: Host
    system: System
    policy: Policy
    at_once: int = 1
    """GPUs that copy and read at the same time, and share what is not each one's own."""

    @cached_property
    def link(self) -> LinkRate:
        """Towards the GPU."""
        links = self.hardware.links
        if self.policy.backing == "remote_gpu":
            rate = self.policy.remote_bandwidth or links.gpu_to_gpu.value
            return LinkRate(rate, _ASSUMED, "datasheet", "hardware:link between GPUs")
        if self.policy.host_bandwidth is not None:
            return LinkRate(self.policy.host_bandwidth, _GIVEN, "assumed", "scenario:host_bandwidth")
        memory, own, nominal = self.policy.host_memory or "pinned", self.host.gpu_link, self.nominal_link
        usual = self.system.policy.host_memory or "pinned"
        found = link_rate(self.system.name, "" if own else self.hardware.name, nominal, memory, usual)
        dram = self.host.dram.bandwidth.value * self.host.dram.achieved.value / self.at_once
        if found.bytes_per_s <= dram:
            return found
        return LinkRate(dram, max(found.half_width, _ASSUMED), "assumed", f"host/{self.host.name}:main memory")

    @property
    def nominal_link(self) -> float:
        """What no copy to the GPU beats. [B/s]"""
        if self.policy.backing == "remote_gpu":
            return max(self.hardware.links.gpu_to_gpu.value, self.policy.remote_bandwidth or 0.0)
        own = self.host.gpu_link
        return own.value if own else self.hardware.links.host.value

    def copy(self, name: str, op: Copy) -> Cost:
        """Bytes over the link, and a latency for each copy. [s]"""
        link = self.link
        seconds = op.count * self.copy_seconds(op.bytes_each)
        formula = "copies x (latency + bytes / link bandwidth)"
        least = op.count * op.bytes_each / max(self.nominal_link, link.bytes_per_s)
        return self._cost(name, op, seconds, "link", link.half_width, link.tag, link.source, formula, least)

    def copy_seconds(self, bytes_each: Any) -> Any:
        return self.host.copy_latency.value + bytes_each / self.link.bytes_per_s

    def disk(self, name: str, op: DiskRead) -> Cost:
        """Bytes off the disk. [s]"""
        seconds = op.count * self.disk_seconds(op.bytes_each)
        text = "reads x (latency + bytes / disk bandwidth)"
        return self._cost(name, op, seconds, "disk", _ASSUMED, "datasheet", f"host/{self.host.name}:disk", text)

    def disk_seconds(self, bytes_each: Any) -> Any:
        return self.host.disk.latency.value + bytes_each * self.at_once / self.host.disk.bandwidth.value

    def cpu(self, name: str, op: CpuMatrices) -> Cost:
        """Weights through the CPU: as memory streams them, or as it multiplies. [s]"""
        seconds = op.count * self.cpu_seconds(op.weight_bytes, op.flop_each)
        text = "blocks x max(bytes / (DRAM bandwidth x achieved x share), FLOP / CPU rate)"
        fitted, kernels = thread_rate(self.cpu_kernels), self.cpu_kernels or "cpu"
        width, tag = (fitted.half_width, "fitted") if fitted else (_ASSUMED_CPU, "assumed")
        own = self.host.cpu.rates.get(kernels)
        if own is not None:
            width, tag = (_GIVEN, "measured") if own.source == "measured" else (_ASSUMED_CPU, "assumed")
        source = f"offload:{kernels}" if fitted and own is None else f"host/{self.host.name}:{kernels}"
        least = op.count * op.weight_bytes / self.host.dram.bandwidth.value
        return self._cost(name, op, seconds, "CPU", width, tag, source, text, least)

    @property
    def cpu_bytes_per_s(self) -> float:
        """Weights through the CPU where nothing but memory holds it up. [B/s]"""
        dram, share = self.host.dram, self.system.cpu_share.value if self.system.cpu_share else 1.0
        return dram.bandwidth.value * dram.achieved.value * share

    @property
    def cpu_kernels(self) -> str | None:
        """What runs experts on the CPU."""
        return cpu_kernels(self.system, self.policy.experts_format)

    @property
    def cpu_flop_per_s(self) -> float:
        """Matrix products on the CPU. [FLOP/s]"""
        fitted, own = thread_rate(self.cpu_kernels), self.system.cpu_threads
        known = self.host.cpu.rates.get(self.cpu_kernels or "")
        if known is not None:
            return known.value
        if fitted is None:
            return self.host.cpu.flop_rate.value
        cores = self.host.cpu.cores.value
        return (min(cores, own.value) if own else cores) * fitted.flop_per_s

    def cpu_seconds(self, weight_bytes: Any, flop: Any) -> Any:
        return np.maximum(weight_bytes / self.cpu_bytes_per_s, flop / self.cpu_flop_per_s)

    def unpack(self, name: str, op: Unpack) -> Cost:
        """Scales through memory in 16 bits, packed weights through the SMs. [s]"""
        gpu, unpack = self.hardware.gpu, self.system.runtime.unpack
        seconds, fitted = op.scale_bytes / gpu.hbm_bandwidth.value, issue_rate(unpack.kernels) if unpack else None
        width, tag = (fitted[1], "fitted") if fitted else (_ASSUMED, "assumed")
        if unpack is not None:
            rate = unpack.weights_per_s(self.hardware.compute_capability, op.weights_format, gpu.sm_count.value)
            seconds = seconds + op.weights / (rate * (fitted[0] / unpack.issue_rate.value if fitted else 1.0))
        text = "scale bytes / HBM + weights x instructions / (SMs x issue rate)"
        return self._cost(name, op, seconds, "compute", width, tag, f"system/{self.system.name}:unpack", text)

    def launches(self, name: str, seconds: Any) -> Cost:
        """What launching operations one by one adds to the GPU's own time. [s]"""
        text = "max(operations x host time of one, GPU time) - GPU time"
        return self._cost(name, None, seconds, "host", _ASSUMED, "assumed", f"host/{self.host.name}:operation", text)

    def fixed(self) -> list[Cost]:
        """What a step of the system takes beside everything that is priced, where runs tell of any. [s]"""
        found = fixed_time(self.system.name, self.hardware.name)
        if found is None:
            return []
        width, text = found.half_width, "fixed time a step, fitted on runs that move different amounts"
        seconds = np.asarray(found.seconds)
        return [self._cost("runtime", None, seconds, "host", width, found.tag, found.source, text)]

    @staticmethod
    def _cost(
        name: str, op: Any, seconds: Any, bound: str, width: float, tag: str, source: str, formula: str,
        least: Any = 0.0,
    ) -> Cost:  # fmt: skip
        """With an interval of ``width`` in the logarithm, none of it below ``least``."""
        down, up = around(seconds, width)
        ends = (np.minimum(down, np.maximum(seconds - least, 0.0)), up)
        return Cost(
            name, seconds, {f"offload/{bound}": ends}, bound=bound, formula=formula, source=source, tag=tag, op=op
        )
