"""What each tier holds: GPU memory as nvidia-smi would show it, main memory, disk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiers:
    """Bytes in each tier, and how many there are."""

    gpu_total: float
    gpu_budget: float
    """What may be used of it."""
    context: float
    """CUDA context, modules, and an engine's graphs and workspaces."""
    trunk: float
    """Weights that are not routed experts, as far as they stay on the GPU."""
    experts: float
    """Routed experts on the GPU, or whole layers."""
    buffers: float
    """Landing space of experts or layers."""
    kv: float
    activations: float
    dram_total: float
    dram_budget: float
    dram: float
    disk_total: float
    disk: float
    remote: float = 0.0
    """On another GPU."""
    gpus: int = 1
    """GPUs that share the layers, counted together."""

    @property
    def gpu(self) -> float:
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
    def fits(self) -> bool:
        return not self.shortfalls
