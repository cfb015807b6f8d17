"""What a GPU file says: peaks, bandwidths, memory, links, each with its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from moesim.files.quantities import Bytes, BytesPerSecond, Count, FileName, FlopPerSecond, Seconds, Share, Strict, Watts

if TYPE_CHECKING:
    from moesim.hardware.cluster import Cluster


class Gpu(Strict):
    """One GPU. Rates are dense; a multiply-add counts as two operations."""

    sm_count: Count
    dense_bf16: FlopPerSecond
    dense_fp32: FlopPerSecond | None = None
    """Outside the tensor cores."""
    dense_fp8: FlopPerSecond | None = None
    dense_int8: FlopPerSecond | None = None
    dense_fp4: FlopPerSecond | None = None
    hbm_bandwidth: BytesPerSecond
    l2_cache: Bytes
    memory: Bytes
    power: Watts


class Roofline(Strict):
    """A machine without streaming multiprocessors: what an operation takes beside arithmetic and bytes."""

    compute: Share
    """Of peak arithmetic that large products reach."""
    memory: Share
    """Of memory bandwidth."""
    operation: Seconds
    """Starting one operation. [s]"""
    step: Seconds
    """The host's part of an engine step. [s]"""
    fused: int = Field(4, ge=1)
    """Kernels of an engine for GPUs that the compiler makes one operation of."""
    half_width: float = Field(gt=0, le=2)
    """Of the 90 % interval, in the logarithm."""


class Achieved(Strict):
    """Shares of peak that large operations are known to reach."""

    bf16: Share
    fp8: Share
    hbm: Share


class Links(Strict):
    """How GPUs of a node reach each other and the host; per GPU and per direction."""

    kind: str
    gpu_to_gpu: BytesPerSecond
    host: BytesPerSecond
    nic: BytesPerSecond | None = None
    """A GPU's share of its node's NICs, where nodes were measured together."""


class Hardware(Strict):
    """A GPU and the node around it."""

    name: FileName
    aliases: list[str] = []
    vendor: str
    compute_capability: str
    source: str
    gpu: Gpu
    roofline: Roofline | None = None
    """Null is a GPU, whose operations have forms of their own."""
    achieved: Achieved | None = None
    links: Links
    gpus_per_node: int = Field(ge=1)
    host: str = "server-sapphire-rapids"
    """The host such a GPU is usually found in (hwspecs/hosts/), where a scenario names no other."""
    measured: dict[str, FlopPerSecond] = {}
    doubts: list[str] = []
    cluster: Any = Field(default=None, exclude=True)
    """The ``Cluster`` the GPU stands in, where the scenario names one; None otherwise."""
    unchanged: Any = Field(default=None, exclude=True)
    """The ``Gpu`` as its file has it, where a scenario multiplies some of its figures; None otherwise."""

    @field_validator("cluster", "unchanged", mode="before")
    @classmethod
    def _not_of_a_file(cls, value: Any) -> Any:
        raise ValueError("is no key of a hardware file")

    def __hash__(self) -> int:
        """By name; equality compares every value."""
        return hash(self.name)

    @property
    def described(self) -> Gpu:
        """The GPU as its file has it: by this other GPUs are near or far."""
        return self.unchanged or self.gpu

    @property
    def title(self) -> str:
        """What the user called it: the cluster, or the GPU."""
        return self.cluster.name if self.cluster else self.name

    @property
    def gpus(self) -> int:
        """GPUs there are to use."""
        return self.cluster.gpus if self.cluster else self.gpus_per_node

    @property
    def has_sms(self) -> bool:
        """Whether it is a GPU, whose operations have forms of their own."""
        return self.roofline is None

    @property
    def has_deepep(self) -> bool:
        """Whether DeepEP's kernels run there: NVLink between all GPUs of a node, compute capability 9.0 or later."""
        capability = self.compute_capability.split(".")[0]
        return self.links.kind == "NVSwitch" and capability.isdigit() and int(capability) >= 9

    def within(self, cluster: Cluster) -> Hardware:
        """The same GPU in a cluster, whose wiring replaces the links of the GPU's own file."""
        node, links = cluster.node, self.links
        if node.nvlink == "none":
            links = links.model_copy(update={"kind": "none", "gpu_to_gpu": node.pcie or links.host})
        elif node.nvlink == "switch":
            links = links.model_copy(update={"kind": "NVSwitch"})
        elif node.nvlink != "mesh":
            links = links.model_copy(update={"kind": "bridge"})
        if node.nic:
            share = min(node.nics / node.gpus, 1.0)
            nic = node.nic.model_copy(update={"value": node.nic.value * share})
            links = links.model_copy(update={"nic": nic})
        return self.model_copy(update={"cluster": cluster, "links": links, "gpus_per_node": node.gpus})

    def peak_flop_per_s(self, number_format: str) -> float:
        """Dense arithmetic rate for operands of ``number_format``: float32, bfloat16, fp8, int8 or nvfp4. [FLOP/s]"""
        gpu = self.gpu
        rates = {"float32": gpu.dense_fp32, "fp8": gpu.dense_fp8, "int8": gpu.dense_int8, "nvfp4": gpu.dense_fp4}
        choice = rates.get(number_format)
        if choice is None and number_format == "float32":
            # Not said: what tensor cores of most generations multiply over plain arithmetic.
            return self.gpu.dense_bf16.value / 16
        return (choice or self.gpu.dense_bf16).value
