"""What pictures and pages of a prediction share: where its memory goes."""

from __future__ import annotations

from moesim.memory import Room
from moesim.offload.tiers import Tiers
from moesim.outcome import Prediction, Served, Steady

_ROOM = (
    ("weights", "weights"), ("activations", "activations"), ("CUDA graphs", "cuda_graphs"),
    ("communication", "communication"), ("other", "other"),
)  # fmt: skip


def _held(prediction: Prediction, room: Room) -> float:
    """Cache that the load takes: at its peak, on average in a steady state, whole of a static batch. [B]"""
    if isinstance(prediction, Served):
        return prediction.report.kv_used.peak * max(room.kv_available, 0.0)
    if isinstance(prediction, Steady):
        load = prediction.scenario.workload
        context = load.mean_input_len + load.mean_output_len / 2.0
        return prediction.state.running * context * room.kv_bytes_per_token
    return room.kv_needed


def of_gib(value: float) -> float:
    return value / 2**30


def memory_parts(prediction: Prediction) -> list[tuple[str, float]]:
    """(what, bytes) on each GPU, largest reserves first in the order vLLM takes them; what is left unused last."""
    memory = prediction.memory
    if isinstance(memory, Tiers):
        return [("on the GPU", memory.gpu), ("in main memory", memory.dram), ("on disk", memory.disk)]
    parts = [(label, getattr(memory, name)) for label, name in _ROOM]
    needed = min(_held(prediction, memory), max(memory.kv_available, 0.0))
    free = max(memory.kv_available, 0.0) - needed
    unused = max(memory.total - sum(value for _, value in parts) - needed - free, 0.0)
    return [(label, value) for label, value in (*parts, ("KV cache, this load", needed), ("KV cache, free", free),
                                                ("not used by the engine", unused)) if value > 0]  # fmt: skip
