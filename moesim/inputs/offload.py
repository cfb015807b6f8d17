"""What a scenario says of weights that are not all on the GPU."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.files.quantities import NO_SWITCH, Capacity, CapacityFromZero, PathText, Rate, Strict

Slots = Annotated[float, Field(ge=0, le=4096)]
Count = Annotated[int, Field(ge=0, le=1_000_000), NO_SWITCH]
Fraction = Annotated[float, Field(ge=0, le=1)]

Cache = Literal["none", "lru", "lfu", "fifo", "lifo", "static", "belady"]
ExpertFormat = Literal[
    "bfloat16", "fp8", "fp8_block", "int8", "int8_weight_only", "int4", "nf4", "mxfp4", "nvfp4", "hqq4", "hqq3", "hqq2",
    "gguf_q8_0", "gguf_q6_k", "gguf_q5_k_m", "gguf_q5_k", "gguf_q5_0", "gguf_q4_k_m", "gguf_q4_k", "gguf_q4_0",
    "gguf_iq4_nl", "gguf_iq4_xs", "gguf_q3_k_m", "gguf_q3_k", "gguf_iq3_s", "gguf_iq3_xxs", "gguf_q2_k", "gguf_iq2_s",
    "gguf_iq2_xs", "gguf_iq2_xxs", "gguf_iq1_m", "gguf_iq1_s", "exl3_2", "exl3_3", "exl3_4", "exl3_5", "exl3_6",
    "exl3_8",
]  # fmt: skip

AMOUNTS = (
    "experts_on_gpu", "offload_per_layer", "resident_experts", "device_memory_ratio", "n_gpu_layers", "n_cpu_moe",
    "gpu_memory", "cpu_offload_gb",
)  # fmt: skip
"""Ways to say how much stays on the GPU; a scenario names one at most, else as much as fits."""
OF_EXPERTS = ("experts_on_gpu", "offload_per_layer", "resident_experts", "device_memory_ratio", "n_cpu_moe")
"""Those that say nothing where whole layers move."""
OF_LAYERS = ("n_gpu_layers", "cpu_offload_gb")
"""Those that say nothing where experts move."""


class Policy(Strict):
    """The mechanisms an offloading system is made of. Null takes the system's own choice."""

    unit: Literal["expert", "layer"] | None = None
    """What moves: single experts, or whole layers in the model's order."""
    experts_on_gpu: Slots | None = None
    """Experts of each MoE layer that the GPU has room for; a fraction is a mean over layers."""
    offload_per_layer: Count | None = None
    """Mixtral-offloading's knob: experts of each layer off the GPU."""
    resident_experts: Count | None = None
    """Experts the GPU has room for, over all layers."""
    device_memory_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """MoE-Infinity's knob: the share of GPU memory that weights may take."""
    n_gpu_layers: Count | None = None
    """llama.cpp's knob: layers on the GPU, counted from the last; the rest runs, or lies, on the host."""
    n_cpu_moe: Count | None = None
    """llama.cpp's knob: of so many first layers, dense ones counted, the experts stay on the host."""
    cpu_offload_gb: CapacityFromZero | None = None
    """vLLM's knob: so much of each GPU's weights stays on the host, like 16 GiB: the first layers."""
    gpu_memory: Capacity | None = None
    """What may be used of the GPU's memory, like 16 GiB."""
    cache: Cache | None = None
    """Which experts stay on the GPU."""
    cache_scope: Literal["layer", "global"] | None = None
    prefetch: Literal["none", "next_gate", "activation_matrix", "next_layer"] | None = None
    """Guess by the next layer's gate; by what like requests used before; or bring all of the next layer."""
    prefetch_recall: Fraction | None = None
    """Share of the next layer's experts that a guess names."""
    prefetch_experts: Count | None = None
    """Most experts fetched ahead for a layer."""
    streamed: Literal["layer", "called"] | None = None
    """What of a layer off the GPU comes over the link: all of it, or of its experts those that the step calls."""
    missing: Literal["gpu", "cpu", "cheaper"] | None = None
    """A missing expert is fetched, runs on the CPU, or whichever is cheaper."""
    gpu_from_tokens: Annotated[int, Field(ge=1, le=1_000_000), NO_SWITCH] | None = None
    """Under ``cheaper``: an expert with so many tokens or more is fetched, one with fewer runs on the CPU; null
    compares what either costs."""
    gpu_from_step: Annotated[int, Field(ge=1, le=1_000_000), NO_SWITCH] | None = None
    """Under ``cpu``: a step of so many tokens or more, a prompt's, fetches the experts it asks for; null never does."""
    backing: Literal["dram", "disk", "remote_gpu"] | None = None
    """Where weights that are off the GPU lie; what main memory cannot hold lies on disk where the system can."""
    remote_bandwidth: Rate | None = None
    """From a remote GPU, like 25 GB/s; null is the hardware's GPU link."""
    host_memory: Literal["pinned", "pageable"] | None = None
    host_bandwidth: Rate | None = None
    """Of copies to the GPU, like 24 GB/s; null is what the system or such copies reached (docs/offload/links.md)."""
    copies: Literal["overlapped", "blocking"] | None = None
    """Whether fetches run beside the GPU's work, or on the stream it computes on; guesses run beside it in any case."""
    writeback: bool | None = None
    """Evicted experts are copied back to the host."""
    experts_format: ExpertFormat | None = None
    attention_format: ExpertFormat | None = None
    skipped_share: Fraction | None = None
    """Share of one-token steps in which the last of a token's experts is skipped (adaptive gating)."""
    cold_start: bool | None = None
    """The cache is empty when the first prompt comes."""
    kv_cache: Literal["gpu", "cpu"] | None = None
    """Keys and values lie with their layers, or all in main memory, where the CPU runs attention."""


class Offload(Policy):
    """How a model that does not fit is run: a named system, and what of it is changed."""

    system: PathText = "custom"
    """A name under calibration/systems/, or a file of that form; ``custom`` is vLLM's kernels and what is said here."""
