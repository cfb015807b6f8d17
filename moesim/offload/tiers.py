"""What each tier holds: GPU memory as nvidia-smi would show it, main memory, disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim.units import bytes_text


@dataclass(frozen=True)
class Tiers:
    """Bytes in each tier, and how many there are; numbers, or arrays over the points of a plan."""

    gpu_total: Any
    gpu_budget: Any
    """What may be used of it."""
    context: Any
    """CUDA context, modules, and an engine's graphs and workspaces."""
    trunk: Any
    """Weights that are not routed experts, as far as they stay on the GPU."""
    experts: Any
    """Routed experts on the GPU, or whole layers."""
    buffers: Any
    """Landing space of experts or layers."""
    kv: Any
    activations: Any
    dram_total: Any
    dram_budget: Any
    dram: Any
    disk_total: Any
    disk: Any
    remote: Any = 0.0
    """On another GPU."""
    gpus: Any = 1
    """GPUs that share the layers, counted together."""

    @property
    def gpu(self) -> Any:
        """Peak bytes on the GPU, as nvidia-smi would show them."""
        return self.context + self.trunk + self.experts + self.buffers + self.kv + self.activations

    @property
    def shortfalls(self) -> dict[str, float]:
        """Tier -> bytes too much, for those that overflow."""
        over = {
            "GPU memory": self.gpu - self.gpu_budget,
            "main memory": self.dram - self.dram_budget,
            "disk": self.disk - self.disk_total,
            "the other GPU": self.remote - self.gpu_total,
        }
        return {name: bytes_ for name, bytes_ in over.items() if bytes_ > 0}

    @property
    def off_text(self) -> str:
        """What lies off the GPU, copies of what is there and caches of the CPU's layers among it, in words."""
        places = {"of main memory": self.dram, "of disk": self.disk, "of another GPU": self.remote}
        said = [f"{bytes_text(size)} {where}" for where, size in places.items() if size]
        return f"beside the GPU it takes {' and '.join(said) or 'nothing'}"

    @property
    def fits(self) -> bool:
        return not self.shortfalls
