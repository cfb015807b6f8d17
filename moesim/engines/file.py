"""An engine version's file under ``calibration/engines/``: defaults, graphs, reserves, kernels, with their sources."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from moesim.errors import SpecError
from moesim.files.quantities import Bytes, Count, Ratio, Seconds, SeenBytes, SeenRatio, Size, Strict
from moesim.ops.formats import kind, maker, weight_only


class ByGpu(Strict):
    """A default that large GPUs have higher."""

    huge_gpu: int | None = Field(None, ge=1)
    large_gpu: int = Field(ge=1)
    other_gpu: int = Field(ge=1)


class Defaults(Strict):
    """What a setting is where a scenario leaves it out."""

    source: str
    large_gpu_from: Size
    """GPU memory from which a GPU counts as large. [B]"""
    huge_gpu_from: Size | None = None
    """The same of the largest, where the version tells them apart. [B]"""
    never_large: list[str] = []
    """Compute capabilities that do not, whatever their memory."""
    max_num_batched_tokens: ByGpu
    max_num_seqs: ByGpu
    gpu_memory_utilization: float = Field(gt=0, le=1)
    block_size: int = Field(ge=1)
    async_scheduling: bool


Padding = Literal["fresh_tokens", "first_expert", "first_experts", "not_routed"]
"""Rows of a CUDA graph beyond the tokens: routed like other tokens, all k slots to expert 0, to experts 0 to k - 1, or
left out."""


class GraphSizes(Strict):
    """Sizes of ``by`` tokens apart, from ``start`` up to below ``below`` (or up to the largest, where that is null)."""

    start: int = Field(ge=1)
    below: int | None = None
    by: int = Field(ge=1)


class Graphs(Strict):
    """Which step sizes run as CUDA graphs. [tokens]"""

    source: str
    first: list[int]
    then: list[GraphSizes]
    largest: int = Field(ge=1)
    largest_by_capability: dict[str, int] = {}
    """The same for compute capabilities that begin so."""
    padding: Padding
    """What the routed experts do with rows beyond a step's tokens."""

    def padding_of(self, grouped: bool) -> Padding:
        """The same of a model; group-limited top-k knows nothing of rows that are not routed."""
        return "first_experts" if grouped and self.padding == "not_routed" else self.padding

    def largest_for(self, compute_capability: str) -> int:
        """Tokens of the largest step that is captured on such a GPU."""
        return next((n for begin, n in self.largest_by_capability.items() if compute_capability.startswith(begin)),
                    self.largest)  # fmt: skip

    def sizes(self, largest: int) -> np.ndarray[Any, Any]:
        """Captured sizes up to ``largest`` tokens."""
        found = list(self.first)
        for part in self.then:
            found += range(part.start, min(part.below or largest + 1, largest + 1), part.by)
        return np.array([n for n in found if n <= largest])


class Reserves(Strict):
    """Memory that is neither weights, activations nor cache. [B]"""

    cuda_context: SeenBytes
    nccl_2_ranks: Bytes
    nccl_more_ranks: Bytes
    custom_all_reduce: Bytes
    cuda_graphs: SeenBytes | None
    """null where the budget does not count them."""
    attention_workspace: SeenBytes
    activation_peak: SeenRatio
    """A profile run's peak over what is counted from shapes."""
    deepep_buffer: Bytes

    def communication_bytes(self, ranks: int, custom: bool) -> float:
        """Buffers of a group: NCCL's, and the custom all-reduce's where it has one. [B]"""
        if ranks == 1:
            return 0.0
        nccl = self.nccl_2_ranks if ranks == 2 else self.nccl_more_ranks
        return nccl.value + (self.custom_all_reduce.value if custom else 0.0)


class Sampler(Strict):
    """Bytes for each (sequence, vocabulary entry) while the largest batch is sampled."""

    source: str
    sharded: float = Field(gt=0)
    """Of a rank's own slice of the vocabulary."""
    gathered: float = Field(gt=0)
    """Of the whole vocabulary, on every rank."""
    sorts: bool = False
    """Top-p and top-k sort the whole vocabulary."""


class ExpertChoice(Strict):
    """Least time of the kernel that picks a token's experts, where it is more than a small kernel. [s]"""

    biased: Seconds
    """Sigmoid scores and a bias through group top-k, of one group or many (DeepSeek-V3's ``noaux_tc``)."""
    sigmoid: Seconds | None
    """Sigmoid scores and no group top-k (MiniMax-M2); null is a small kernel."""

    def least_s(self, scores: str) -> float:
        time = {"biased": self.biased, "sigmoid": self.sigmoid}.get(scores)
        return time.value if time else 0.0


class Exchange(Strict):
    """How an engine sends tokens to experts."""

    deepep_sms: Count
    low_latency_tokens: Count
    """Tokens of a step by default under DeepEP's low-latency kernels."""
    low_latency_most_tokens: Count
    computing_beside: Ratio
    moving_beside: Ratio
    """How many times as long kernels and exchanges take while the other half's exchange, or kernels, run."""
    dbo_decode_tokens: Count
    dbo_prefill_tokens: Count
    """Tokens from which a step is split in two micro-batches."""


class Speculation(Strict):
    """How an engine drafts tokens."""

    source: str
    methods: list[str]
    ahead: list[str] = []
    """Methods under which steps are composed ahead where the engine does so."""
    ahead_if_asked: list[str] = []
    """The same where a scenario asks for it."""
    reserves_slots: bool
    """Rows that a draft adds to its first pass are kept free in every step's budget."""
    logit_rows: int = Field(ge=1)
    """Of a sequence, in the run that measures memory."""
    not_compiled: list[str] = []
    """Architectures whose own layer for drafts runs eagerly."""

    def runs_ahead(self, method: str, asked: bool | None, usual: bool) -> bool:
        """Whether steps are composed before the one under way has ended."""
        if method in self.ahead:
            return usual if asked is None else asked
        return bool(asked) and method in self.ahead_if_asked


class FrontEndTimes(Strict):
    """What a request passes in the engine's own server before the scheduler sees it. [s]"""

    request: Seconds
    """Network, parsing and streaming of one request, side by side with others."""
    prompt_token: Seconds
    """Turning text into tokens, per token, one prompt at a time."""
    image_pixel: Seconds
    """Decoding, resizing and cutting an image, per pixel, one at a time."""


Sizes = dict[str, dict[int, Size]]
"""Compute capability (or ``default``) -> ranks -> bytes."""


class AllReduceRule(Strict):
    """Which all-reduce an engine uses for a message inside a node with NVSwitch."""

    custom_below: Sizes
    symmetric_memory_up_to: Sizes

    def kernels(
        self, compute_capability: str, ranks: int, message_bytes: Any, custom_allowed: bool = True
    ) -> dict[str, Any]:
        """Which messages go to ``custom``, ``symmetric_memory`` and ``nccl``: a mask each, for those that get any."""
        below, up_to = (
            limits.get(compute_capability, limits["default"]).get(ranks, 0.0)
            for limits in (self.custom_below, self.symmetric_memory_up_to)
        )
        size = np.asarray(message_bytes)
        custom = (size < below) & custom_allowed
        symmetric = ~custom & (size <= up_to)
        masks = {"custom": custom, "symmetric_memory": symmetric, "nccl": ~custom & ~symmetric}
        return {name: mask for name, mask in masks.items() if mask.any()}


class Place(NamedTuple):
    """Where experts run: what the choice of their kernel looks at."""

    compute_capability: str
    expert_parallel: bool = False
    expert_slices: int = 1
    """Ranks that each hold a slice of an expert."""


class When(Strict):
    """A condition: all that it names must hold."""

    capability: list[str] | None = None
    """Beginnings of compute capabilities: "9." is every Hopper."""
    expert_parallel: bool | None = None
    expert_slices_below: int | None = None
    asked: bool = False
    """Only where a scenario asks for it."""

    def holds(self, place: Place) -> bool:
        return (
            self.on(place)
            and not self.asked
            and self.expert_parallel in (None, place.expert_parallel)
            and (self.expert_slices_below is None or place.expert_slices < self.expert_slices_below)
        )

    def on(self, place: Place) -> bool:
        """Whether the GPU is such a one."""
        return self.capability is None or place.compute_capability.startswith(tuple(self.capability))


_MARLIN_WIDTH, _MARLIN_HIDDEN = 128, 256


def padded_for_marlin(width: Any, hidden: Any) -> tuple[Any, Any]:
    """(width, hidden size) of an mxfp4 expert's slice as vLLM pads it for Marlin (quantization/mxfp4.py)."""
    return -(-width // _MARLIN_WIDTH) * _MARLIN_WIDTH, -(-hidden // _MARLIN_HIDDEN) * _MARLIN_HIDDEN


Backend = Literal[
    "triton", "marlin", "deepgemm", "flashinfer_cutlass", "flashinfer_trtllm", "flashinfer_trtllm_mxfp8"
]  # fmt: skip


class ExpertKernel(Strict):
    """What runs experts of a weight format under a condition, and whose constants price it."""

    backend: Backend
    """vLLM's name of the choice."""
    family: str
    kernel: Literal["triton", "marlin", "triton_kernels", "flashinfer_cutlass", "flashinfer_trtllm", "deepgemm"]
    when: When = When()
    sure: bool = True
    """False where it is not known to run: the next that could is in the interval."""
    needs: str = ""
    """An optional package without which it does not run."""
    source: str = Field(min_length=1)
    related: bool = False
    """The family is another kernel's, standing in."""
    padded: bool = False
    """Widths are padded to 128 and hidden sizes to 256 first (Marlin under mxfp4)."""
    stored_width: int = Field(1, ge=1)
    """A rank's width is kept in memory as a multiple of this."""
    sorts_own_rows: bool = False
    """Kernels around the products see a rank's own rows alone: they are sorted out first."""
    widens_weights: bool = False
    """All experts of a rank are written out in bfloat16 before every call."""
    map_widening: float = Field(1.5, ge=1)
    """Widening of the interval under an expert map, which no fitted row ran."""

    def stored(self, width: int, hidden: int) -> tuple[int, int]:
        """A rank's slice of an expert as the kernel keeps it: (width, hidden size)."""
        if self.padded:
            return padded_for_marlin(width, hidden)
        return -(-width // self.stored_width) * self.stored_width, hidden

    padded_experts: Literal["all", "few"] = "all"
    """DeepGEMM: whether every local expert is padded to a block, or as many as there are rows."""
    padded_rows: Literal["computed", "loaded"] = "loaded"
    """DeepGEMM: what is done with the blocks of padding."""


def capability_of(text: str) -> tuple[int, ...]:
    """A compute capability such as ``8.9``, to be compared; one that is no number is below all that are."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())


class LinearKernel(Strict):
    """What prices dense products of a weight format."""

    family: str
    related: bool = False


class Kernels(Strict):
    """Weight format -> kernels, the first whose condition holds runs."""

    source: str
    experts: dict[str, list[ExpertKernel]]
    linear: dict[str, LinearKernel]
    narrow_from: dict[str, str]
    """Format -> least compute capability that multiplies it; below, its weights are widened beside 16-bit inputs."""
    packed_from: str
    """Least compute capability that runs weights narrower than 16 bits at all."""

    def runs(self, weights: str, compute_capability: str) -> str:
        """The format a GPU runs weights in."""
        least = self.narrow_from.get(kind(weights))
        return weight_only(weights) if least and capability_of(compute_capability) < capability_of(least) else weights

    def listed(self, weights: str) -> list[ExpertKernel]:
        """All kernels of experts in a format."""
        own = self.experts.get(kind(weights))
        return self.experts[maker(weights)] if own is None else own

    def of_linear(self, weights: str) -> LinearKernel:
        """The kernel of matrices in a format."""
        own = self.linear.get(kind(weights))
        return self.linear[maker(weights)] if own is None else own

    def of_experts(self, weights: str, backend: str, place: Place) -> ExpertKernel:
        """The kernel for a format under a backend (``auto`` is the engine's own choice)."""
        return self.candidates(weights, backend, place)[0]

    def candidates(self, weights: str, backend: str, place: Place) -> list[ExpertKernel]:
        """The kernel that runs, and while one is not sure, the next that could.

        Raises
        ------
        SpecError
            The version has no such backend for the format on such a GPU.
        """
        listed = [kernel for kernel in self.listed(weights) if kernel.when.on(place)]
        if backend != "auto":
            asked = [kernel for kernel in listed if kernel.backend == backend]
            if not asked:
                has = ", ".join(dict.fromkeys(kernel.backend for kernel in listed))
                where = f"compute capability {place.compute_capability}"
                raise SpecError(f"moe_backend '{backend}' does not run {weights} experts on {where}; {has} does")
            return [next((kernel for kernel in asked if kernel.when.holds(place)), asked[0])]
        found: list[ExpertKernel] = []
        for kernel in listed:
            if kernel.when.holds(place):
                found.append(kernel)
                if kernel.sure:
                    break
        return found

    def others(self, weights: str, place: Place) -> list[ExpertKernel]:
        """What else the version has for a format on such a GPU."""
        chosen = {kernel.backend for kernel in self.candidates(weights, "auto", place)}
        listed = [kernel for kernel in self.listed(weights) if kernel.when.on(place)]
        return list({kernel.backend: kernel for kernel in listed if kernel.backend not in chosen}.values())


class FusedNorm(Strict):
    """Up to which message an all-reduce also does the norm that follows it."""

    source: str
    up_to: Sizes

    def limit_bytes(self, compute_capability: str, ranks: int) -> float:
        return self.up_to.get(compute_capability, self.up_to["default"]).get(ranks, 0.0)


class EngineFile(Strict):
    """Everything that ``calibration/engines/<name>/<version>.yaml`` says."""

    name: str
    version: str
    like: str | None = None
    """The version whose file says what this one does not."""
    other_versions: Literal["nearest", "refused"]
    """Whether a version no file describes is taken as the nearest one, with wider intervals, or refused."""
    kernel_stack: str
    """The tables in which the version's kernels were timed."""
    kernel_distance: float = Field(0.0, ge=0)
    """Half-width, in the logarithm, of what its kernels may differ from those."""
    scheduler: str
    """Which of the engine's schedulers composes steps."""
    defaults: Defaults
    graphs: Graphs
    reserves: Reserves
    sampler: Sampler
    expert_choice: ExpertChoice
    kernels: Kernels
    all_reduce: AllReduceRule
    fused_all_reduce_norm: FusedNorm | None
    """Null is never by default."""
    shared_expert_stream: Count | None
    """Tokens up to which the shared expert runs beside the routed ones."""
    exchange: Exchange
    speculation: Speculation
    front_end: FrontEndTimes
    doubts: list[str] = []

    @cached_property
    def key(self) -> tuple[str, str]:
        return self.name, self.version
