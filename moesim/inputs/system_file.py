"""What an offloading system's file says: its mechanisms, its knobs, what its runtime costs, what memory it takes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from moesim import paths
from moesim.files.names import named_file
from moesim.files.quantities import Count, Share, Sourced, Strict
from moesim.files.validation import read_as
from moesim.inputs.offload import AMOUNTS, OF_LAYERS, ExpertFormat, Offload, Policy
from moesim.ops.formats import maker


class Unpacking(Strict):
    """How packed weights become operands inside a product."""

    kernels: str = Field(min_length=1)
    """Name by which what was fitted of them is known."""
    instructions: dict[str, dict[str, float]]
    """Compute capability (or ``default``) -> weight format -> thread instructions a weight."""
    issue_rate: Sourced
    """Thread instructions an SM gets through in a second. [1/s]"""
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _every_format(self) -> Unpacking:
        packed = {name for name in get_args(ExpertFormat) if name.startswith("hqq")}
        for capability in ("default", *self.instructions):
            missing = sorted(packed - set(self.instructions.get(capability, {})))
            if missing:
                raise ValueError(f"instructions of {capability} lack {', '.join(missing)}")
        return self

    def weights_per_s(self, compute_capability: str, fmt: str, sms: float) -> float:
        """Weights that the whole GPU unpacks in a second. [1/s]"""
        counts = self.instructions.get(compute_capability, self.instructions["default"])
        return sms * self.issue_rate.value / counts[fmt]


class Runtime(Strict):
    """Who runs the GPU's part of a layer."""

    kernels: Literal["vllm", "eager"]
    """vLLM's fused kernels and graphs; or one PyTorch operation after the other, one expert after the other."""
    related: bool = False
    """The engine has kernels of its own, which vLLM's stand in for: intervals double."""
    attention_operations: Count | None = None
    """PyTorch operations of a layer around its matrices: norms, positions, cache, scores, router."""
    linear_operations: Count | None = None
    """Operations of one matrix: 1, or more where scales are unpacked first."""
    expert_operations: Count | None = None
    """Operations of one expert around its matrices, which wait for the GPU: selection, activation, weighted sum."""
    several_gpus: Literal["slices", "layers"] = "slices"
    """How it runs on several: every matrix sliced (tensor parallel), or layers on one after the other."""
    batched_tokens: Count | None = None
    """Prompt tokens of a step where the scenario's engine does not say; null is vLLM's default."""
    unpacks_scales: bool = False
    """Scales and zeros are themselves quantised and pass through memory in 16 bits at every use (HQQ)."""
    unpack: Unpacking | None = None

    @model_validator(mode="after")
    def _eager_operations(self) -> Runtime:
        names = ("attention_operations", "linear_operations", "expert_operations")
        missing = [name for name in names if getattr(self, name) is None]
        if self.kernels == "eager" and missing:
            raise ValueError(f"kernels: eager needs {', '.join(missing)}")
        return self


class Footprint(Strict):
    """What memory the system takes beside the weights it was told to keep."""

    usable: Share
    """Of the GPU's memory, what weights, cache and buffers may fill."""
    expert_buffers: int = Field(default=0, ge=0)
    """Experts' worth of landing space on the GPU."""
    layer_buffers: int = Field(default=0, ge=0)
    """Layers' worth of it."""
    plans_weights_alone: bool = False
    """What decides how many layers stay counts neither cache nor activations."""
    keeps_wide_trunk: bool = False
    """The allocator keeps the room of the 16-bit trunk that a quantised one replaced."""
    embedding_on_host: bool = False
    """The input embedding stays in main memory, where a token's row is read."""
    host_keeps: Literal["offloaded", "all"] = "offloaded"
    """What main memory holds: what is off the GPU, or a copy of the whole model."""
    disk: bool = False
    """What main memory cannot hold goes to disk."""
    bits_off_gpu: dict[ExpertFormat, Literal[16, 32]] = {}
    """Weight format -> bits of a weight that layers off the GPU keep, and come over the link in, instead."""


class Searched(Strict):
    """What a search tries of a system."""

    amount: Literal[
        "experts_on_gpu", "offload_per_layer", "resident_experts", "device_memory_ratio", "n_gpu_layers", "n_cpu_moe",
        "gpu_memory", "cpu_offload_gb",
    ]  # fmt: skip
    """The setting that says how much stays on the GPU; a search tries its whole range."""
    formats: list[tuple[ExpertFormat, ExpertFormat]] = Field(min_length=1)
    """Formats of experts and of the other matrices that it can run."""
    others: dict[str, list[str | float]] = {}


class System(Strict):
    """One way to run a model that does not fit."""

    name: str
    title: str
    aliases: list[str] = []
    source: str = Field(min_length=1)
    policy: Policy
    search: Searched
    knobs: list[str]
    """Settings its users turn; others of a scenario's ``offload`` change the system itself."""
    runtime: Runtime
    footprint: Footprint
    cpu_share: Share | None = None
    """Of the host's achieved memory bandwidth that experts on the CPU reach; null where none run there."""
    cpu_kernels: dict[str, str] = {}
    """Letters that weight formats begin with (gguf, int, bfloat), or ``default`` -> name of what runs them, by which
    fits and hosts know it."""
    cpu_threads: Count | None = None
    """Threads that run them; null is all cores."""
    doubts: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _known_knobs(self) -> System:
        unknown = sorted({*self.knobs, *self.search.others} - set(Policy.model_fields))
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)} is no setting of a policy; there are {', '.join(Policy.model_fields)}"
            )
        return self


def cpu_kernels(system: System, experts_format: str | None) -> str | None:
    """What runs experts of a format on the CPU; None where the system's file does not say."""
    own = system.cpu_kernels.get(maker(experts_format)) if experts_format else None
    return own or system.cpu_kernels.get("default")


def unit_of(offload: Offload, system: System) -> str:
    """What moves: as the scenario says, or as the amount that it names implies, or as the system has it."""
    if offload.unit:
        return offload.unit
    given = {name for name in AMOUNTS if getattr(offload, name) is not None}
    # llama.cpp's usual line: all layers on the GPU, of the first some the experts not.
    of_layers = given & set(OF_LAYERS) and "n_cpu_moe" not in given
    return "layer" if of_layers else system.policy.unit or "expert"


def load_system(name: str) -> System:
    """A system by name, alias or file. Raises SpecError."""
    path = named_file(name, paths.SYSTEMS, "offloading system")
    return _load_system(path, path.stat().st_mtime_ns)


def systems() -> list[str]:
    """Names of the systems that ship."""
    return sorted(path.stem for path in paths.SYSTEMS.glob("*.yaml"))


@lru_cache(maxsize=64)
def _load_system(path: Path, _stamp: int) -> System:
    return read_as(System, path)[0]
