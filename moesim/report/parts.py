"""What pictures and pages of a prediction share: where its memory goes."""

from __future__ import annotations

from moesim.memory import Room
from moesim.offload.tiers import Tiers

_ROOM = (
    ("weights", "weights"), ("activations", "activations"), ("CUDA graphs", "cuda_graphs"),
    ("communication", "communication"), ("other", "other"),
)  # fmt: skip


def of_gib(value: float) -> float:
    return value / 2**30


def memory_parts(memory: Room | Tiers) -> list[tuple[str, float]]:
    """(what, bytes) on each GPU, largest reserves first in the order vLLM takes them; what is left unused last."""
    if isinstance(memory, Tiers):
        return [("on the GPU", memory.gpu), ("in main memory", memory.dram), ("on disk", memory.disk)]
    parts = [(label, getattr(memory, name)) for label, name in _ROOM]
    needed = min(memory.kv_needed, max(memory.kv_available, 0.0))
    free = max(memory.kv_available, 0.0) - needed
    unused = max(memory.total - sum(value for _, value in parts) - needed - free, 0.0)
    return [(label, value) for label, value in (*parts, ("KV cache, this load", needed), ("KV cache, free", free),
                                                ("not used by the engine", unused)) if value > 0]  # fmt: skip
