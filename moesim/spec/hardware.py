"""What a GPU file says: peaks, bandwidths, memory, links, each with its source."""

from __future__ import annotations

from pydantic import Field

from moesim.spec.quantities import Bytes, BytesPerSecond, Count, FlopPerSecond, Strict, Watts


class Gpu(Strict):
    """One GPU. Rates are dense; a multiply-add counts as two operations."""

    sm_count: Count
    dense_bf16: FlopPerSecond
    dense_fp8: FlopPerSecond | None = None
    dense_int8: FlopPerSecond | None = None
    dense_fp4: FlopPerSecond | None = None
    hbm_bandwidth: BytesPerSecond
    l2_cache: Bytes
    memory: Bytes
    power: Watts


class Links(Strict):
    """How GPUs of a node reach each other and the host; per GPU and per direction."""

    kind: str
    gpu_to_gpu: BytesPerSecond
    host: BytesPerSecond


class Hardware(Strict):
    """A GPU and the node around it."""

    name: str
    aliases: list[str] = []
    vendor: str
    compute_capability: str
    source: str
    gpu: Gpu
    links: Links
    gpus_per_node: int = Field(ge=1)
    measured: dict[str, FlopPerSecond] = {}
    doubts: list[str] = []

    def __hash__(self) -> int:
        """By name; equality compares every value."""
        return hash(self.name)

    def peak_flop_per_s(self, number_format: str) -> float:
        """Dense arithmetic rate for operands of ``number_format``: bfloat16, fp8 or int8. [FLOP/s]"""
        choice = {"fp8": self.gpu.dense_fp8, "int8": self.gpu.dense_int8}.get(number_format)
        return (choice or self.gpu.dense_bf16).value
