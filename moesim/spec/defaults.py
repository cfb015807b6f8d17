"""vLLM's defaults that depend on the GPU (arg_utils.py, get_batch_defaults, of vLLM 0.24; server use)."""

from __future__ import annotations

from moesim.spec.engine_file import load_engine
from moesim.spec.hardware import Hardware
from moesim.spec.scenario import Engine

_LARGE_GPU_BYTES = 70 * 2**30


def _large(hardware: Hardware) -> bool:
    """GPUs with 70 GiB or more get larger batches, A100 excepted."""
    return hardware.gpu.memory.value >= _LARGE_GPU_BYTES and hardware.compute_capability != "8.0"


def max_num_batched_tokens(engine: Engine, hardware: Hardware) -> int:
    """Tokens of a step; DeepEP's low-latency kernels have room for few."""
    if engine.all2all_backend == "deepep_low_latency":
        return engine.max_num_batched_tokens or int(load_engine().exchange.low_latency_tokens.value)
    return engine.max_num_batched_tokens or (8192 if _large(hardware) else 2048)


def max_num_seqs(engine: Engine, hardware: Hardware) -> int:
    """Sequences of a step: no more than its tokens."""
    return min(engine.max_num_seqs or (1024 if _large(hardware) else 256), max_num_batched_tokens(engine, hardware))
