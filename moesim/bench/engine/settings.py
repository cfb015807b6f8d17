"""What an engine is started with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moesim.bench.point import Point

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
}
"""No network, the engine in this process (so that its steps can be seen), nothing reported home."""
_SWITCHED = {None: "auto", True: "on", False: "off"}
NONE = "none"
"""Of a column, where nothing is changed or drafts."""
MODES = ("eager", "graph", "compile")
"""No CUDA graphs; graphs without torch.compile (starts fast); vLLM's default of both."""


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs; everything here is part of what tells one measured row from another."""

    model: Path
    """Folder with a config.json."""
    mode: str = "graph"
    routing: str = "natural"
    """``natural`` (the random router's own), or a distribution of ``moesim.bench.kernels.routes``."""
    tensor_parallel_size: int = 1
    max_model_len: int = 4096
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    gpu_memory_utilization: float = 0.9
    kv_cache_dtype: str = "auto"
    hf_overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of config.json to replace: top-k and width sweeps."""
    moe_backend: str = "auto"
    """Kernel of the experts, by vLLM's name."""
    async_scheduling: bool | None = None
    """None leaves it to vLLM."""
    disable_shared_experts_stream: bool = False
    draft_model: Path | None = None
    """Folder with a config.json: what drafts tokens."""
    num_speculative_tokens: int = 0
    acceptance_rate: float = 0.0
    """Chance that a draft is kept where all before it are; forced, whatever the models say."""
    capture_sizes: Sequence[int] = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256)
    """Batches that CUDA graphs are captured for: fewer start faster, and steps between two are padded up."""

    def columns(self) -> dict[str, Any]:
        """What names a row, in a point's plain form."""
        overrides = ",".join(f"{k}={v}" for k, v in sorted(self.hf_overrides.items())) or NONE
        return {
            "model": self.model.name, "mode": self.mode, "routing": self.routing, "hf_overrides": overrides,
            "tensor_parallel_size": self.tensor_parallel_size, "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs, "max_num_batched_tokens": self.max_num_batched_tokens,
            "gpu_memory_utilization": self.gpu_memory_utilization, "kv_cache_dtype": self.kv_cache_dtype,
            "moe_backend": self.moe_backend, "async_scheduling": _SWITCHED[self.async_scheduling],
            "shared_experts_stream": _SWITCHED[not self.disable_shared_experts_stream],
            "draft_model": self.draft_model.name if self.draft_model else NONE,
            "num_speculative_tokens": self.num_speculative_tokens, "acceptance_rate": self.acceptance_rate,
        }  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """Variables that vLLM reads as it starts."""
        return {"VLLM_DISABLE_SHARED_EXPERTS_STREAM": str(int(self.disable_shared_experts_stream))}

    def arguments(self, device: str) -> dict[str, Any]:
        """vLLM's own arguments."""
        sizes = [n for n in self.capture_sizes if n <= self.max_num_seqs]
        compilation = {
            "eager": None,
            "graph": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": sizes},
            "compile": {"cudagraph_capture_sizes": sizes},
        }[self.mode]
        found: dict[str, Any] = {
            "model": str(self.model), "load_format": "dummy", "skip_tokenizer_init": True, "seed": 0,
            "max_model_len": self.max_model_len, "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens, "enable_prefix_caching": False,
            "gpu_memory_utilization": self.gpu_memory_utilization, "kv_cache_dtype": self.kv_cache_dtype,
            "tensor_parallel_size": self.tensor_parallel_size, "enforce_eager": self.mode == "eager",
            "disable_log_stats": True,
        }  # fmt: skip
        if self.moe_backend != "auto":
            found["moe_backend"] = self.moe_backend
        if self.async_scheduling is not None:
            found["async_scheduling"] = self.async_scheduling
        if self.draft_model is not None:
            drafts = self.num_speculative_tokens
            found["speculative_config"] = {
                "method": "draft_model", "model": str(self.draft_model), "num_speculative_tokens": drafts,
                "rejection_sample_method": "synthetic",
                "synthetic_acceptance_rates": [self.acceptance_rate ** (i + 1) for i in range(drafts)],
            }  # fmt: skip
        if compilation:
            found["compilation_config"] = compilation
        if self.hf_overrides:
            found["hf_overrides"] = dict(self.hf_overrides)
        return found | ({"dtype": "float32"} if device == "cpu" else {})


def memory_point(settings: EngineSettings) -> Point:
    return Point("engine_memory", settings.columns())


def set_environment(more: Mapping[str, str]) -> None:
    """Before vLLM is imported; what the user has set stays, but for what an engine is asked to be."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.update(more)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
