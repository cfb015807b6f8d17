"""The numbers of a GPU that formulas use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesim.hardware.hardware import Hardware


@dataclass(frozen=True, slots=True)
class GpuNumbers:
    """Datasheet rates of one GPU, in SI."""

    bf16_flop_per_s: float
    fp32_flop_per_s: float
    fp8_flop_per_s: float
    int8_flop_per_s: float
    fp4_flop_per_s: float
    hbm_bytes_per_s: float
    sm_count: int
    l2_bytes: float
    link_bytes_per_s: float
    nic_bytes_per_s: float
    nic_latency_s: float
    compute_capability: str

    @classmethod
    def of(cls, hardware: Hardware) -> GpuNumbers:
        gpu = hardware.gpu
        return cls(
            bf16_flop_per_s=gpu.dense_bf16.value,
            fp32_flop_per_s=hardware.peak_flop_per_s("float32"),
            fp8_flop_per_s=hardware.peak_flop_per_s("fp8"),
            int8_flop_per_s=hardware.peak_flop_per_s("int8"),
            fp4_flop_per_s=hardware.peak_flop_per_s("nvfp4"),
            hbm_bytes_per_s=gpu.hbm_bandwidth.value,
            sm_count=int(gpu.sm_count.value),
            l2_bytes=gpu.l2_cache.value,
            link_bytes_per_s=hardware.links.gpu_to_gpu.value,
            nic_bytes_per_s=hardware.links.nic.value if hardware.links.nic else float("inf"),
            nic_latency_s=0.0,
            compute_capability=hardware.compute_capability,
        )

    def flop_per_s(self, arithmetic: str) -> float:
        """Dense peak for float32, bfloat16, fp8, int8 or nvfp4 operands. [FLOP/s]"""
        other = {"float32": self.fp32_flop_per_s, "fp8": self.fp8_flop_per_s, "int8": self.int8_flop_per_s}
        other["nvfp4"] = self.fp4_flop_per_s
        return other.get(arithmetic, self.bf16_flop_per_s)
