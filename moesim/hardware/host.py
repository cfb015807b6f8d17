"""What a host file says: the machine around a GPU whose memory, disk and processor lend a hand."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import Field

from moesim import paths
from moesim.files.names import named_file
from moesim.files.quantities import (
    BytesPerSecond,
    Count,
    CpuFlopPerSecond,
    FileName,
    HostBytes,
    HostBytesPerSecond,
    Seconds,
    Share,
    Strict,
)
from moesim.files.validation import read_as


class Dram(Strict):
    """Main memory."""

    capacity: HostBytes
    bandwidth: HostBytesPerSecond
    """Nominal: channels x transfers x 8 B."""
    achieved: Share
    """Of it that a streaming read reaches."""


class Cpu(Strict):
    """The processor, as far as experts run on it."""

    cores: Count
    flop_rate: CpuFlopPerSecond
    """What matrix products reach on all cores, whichever kernels run them."""
    rates: dict[str, CpuFlopPerSecond] = {}
    """Kernels (torch-bf16, torch-int8, k-quants, amx-int8) -> what they reach on all cores, where that is known."""
    operation: Seconds
    """Python, dispatch and launch of one PyTorch operation (eager mode), on one core."""


class Disk(Strict):
    """Where weights lie that fit nowhere else."""

    capacity: HostBytes
    bandwidth: HostBytesPerSecond
    latency: Seconds


class Host(Strict):
    """A host: memory, processor, disk, and how its slot talks to the GPU."""

    name: FileName
    aliases: list[str] = []
    source: str
    dram: Dram
    cpu: Cpu
    disk: Disk
    copy_latency: Seconds
    """From the call of a copy between host and GPU to its first byte."""
    gpu_link: BytesPerSecond | None = None
    """Towards the GPU and back, where it is not the PCIe of the GPU's file (NVLink-C2C)."""
    full_duplex: bool = True
    """Whether both directions run at full rate at once."""
    doubts: list[str] = Field(min_length=1)

    def __hash__(self) -> int:
        """By name; equality compares every value."""
        return hash(self.name)


def load_host(name: str) -> Host:
    """A host by name, alias or file. Raises SpecError."""
    path = named_file(name, paths.HOSTS, "host")
    return _load_host(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _load_host(path: Path, _stamp: int) -> Host:
    return read_as(Host, path)[0]
