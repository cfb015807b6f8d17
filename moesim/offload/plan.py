"""What a policy comes to on a machine: how many experts of each layer, or which layers, stay on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from moesim.engines.engine import Limits
from moesim.hardware.hardware import Hardware
from moesim.hardware.host import Host
from moesim.inputs.offload import AMOUNTS, OF_EXPERTS, OF_LAYERS, Offload, Policy
from moesim.inputs.system_file import System, unit_of
from moesim.models.rank import Rank
from moesim.offload import memory
from moesim.offload.memory import Work
from moesim.offload.tiers import Tiers


@dataclass(frozen=True)
class OffloadPlan:
    """A policy placed: everything a step needs to know."""

    system: System
    policy: Policy
    """With every null filled by the system."""
    hardware: Hardware
    host: Host
    rank: Rank
    slots: tuple[Any, ...]
    """Experts on the GPU, for each MoE layer in order; numbers, or arrays over points (``stacked``)."""
    resident: tuple[bool, ...]
    """Whether each layer, in order, is on the GPU as a whole, where layers move."""
    tiers: Tiers
    work: Work
    split: Rank | None = None
    """The rank under the scenario's own plan, where layers lie on several GPUs that work one after the other."""

    @property
    def by_layer(self) -> bool:
        return self.policy.unit == "layer"

    @cached_property
    def points(self) -> int:
        """Plans of equal policy in one."""
        return max((np.size(slots) for slots in self.slots), default=1)

    def slots_at(self, places: Sequence[int], steps: int = 1) -> Any:
        """Slots of the MoE layers that stand at ``places``, for each step of each point; (places, points x steps)."""
        index = {place: k for k, place in enumerate(memory.moe_places(self.rank))}
        found = np.array([np.atleast_1d(self.slots[index[place]]) for place in places], float)
        return np.repeat(found, steps, axis=1)

    @property
    def decoder_slots(self) -> tuple[float, ...]:
        """Slots of the MoE layers that a decode step passes."""
        model = self.rank.model
        decodes = [not model.layers[i].encoder for i in model.order if model.layers[i].routed is not None]
        return tuple(slots for slots, passed in zip(self.slots, decodes, strict=True) if passed)

    @cached_property
    def everything_resident(self) -> bool:
        if self.by_layer:
            return all(self.resident)
        ffns = memory.moe_layers(self.rank)
        return all(np.all(n >= ffn.num_experts) for n, ffn in zip(self.slots, ffns, strict=True))

    @property
    def plain(self) -> bool:
        """Nothing is off the GPU and vLLM's own kernels run it: the prediction without offloading."""
        runtime = self.system.runtime
        skips = bool(self.policy.skipped_share)
        own = runtime.kernels != "vllm" or runtime.related or self.split is not None
        return self.everything_resident and not own and not skips

    @property
    def kv_share(self) -> float:
        """Of the layers, those whose cache is on the GPU: all but those the CPU runs."""
        if self.policy.kv_cache == "cpu":
            return 0.0
        if self.policy.missing != "cpu" or not self.by_layer:
            return 1.0
        return sum(self.resident) / len(self.resident)

    @property
    def disk_share(self) -> Any:
        """Of the weights off the GPU that lie on disk."""
        below = self.tiers.dram + self.tiers.disk
        return self.tiers.disk / np.maximum(below, 1.0)


def filled(offload: Offload, system: System) -> Policy:
    """The system's policy with the scenario's changes; naming an amount replaces the system's."""
    given = {name: value for name in Policy.model_fields if (value := getattr(offload, name)) is not None}
    if "n_cpu_moe" in given:
        given.pop("n_gpu_layers", None)
    base, unit = system.policy.model_dump(exclude_none=True), unit_of(offload, system)
    silent = OF_EXPERTS if unit == "layer" else OF_LAYERS
    dropped = AMOUNTS if any(name in given for name in AMOUNTS) else silent
    base = {name: value for name, value in base.items() if name not in dropped}
    defaults = {
        "cache": "lru", "cache_scope": "layer", "prefetch": "none", "prefetch_recall": 0.0,
        "missing": "gpu", "streamed": "layer", "backing": "dram", "host_memory": "pinned", "copies": "overlapped",
        "writeback": False, "skipped_share": 0.0, "cold_start": False, "kv_cache": "gpu",
    }  # fmt: skip
    policy = {**defaults, **base, **given, "unit": unit}
    # What is not kept is not sent back.
    return Policy(**policy | {"writeback": policy["writeback"] and policy["cache"] != "none"})


def amount_of(policy: Policy) -> str | None:
    """Which setting says how much stays on the GPU."""
    return next((name for name in AMOUNTS if getattr(policy, name) is not None), None)


@dataclass(frozen=True)
class Site:
    """Where policies are placed: a system, a model's rank and a machine. What no policy changes is counted once."""

    system: System
    rank: Rank
    hardware: Hardware
    host: Host
    limits: Limits
    work: Work
    split: Rank | None = None
    """The rank under the scenario's own plan, where its GPUs hold layers one after the other."""

    @property
    def gpus(self) -> int:
        """GPUs that share the layers."""
        return self.split.plan.pp if self.split else 1

    @cached_property
    def working(self) -> tuple[float, float, float]:
        """(context and engine, KV cache, activations). [B]"""
        return memory.working_bytes(self.rank, self.system, self.limits, self.work, self.gpus)

    def caches(self, policy: Policy) -> tuple[float, float]:
        """KV cache (with its layers, in main memory whatever the layers). [B]"""
        kv = self.working[1]
        return (0.0, kv) if policy.kv_cache == "cpu" else (kv, 0.0)

    @cached_property
    def trunk_room(self) -> float:
        return memory.trunk_room(self.rank, self.system)

    @cached_property
    def trunk_bytes(self) -> float:
        return memory.trunk_bytes(self.rank)

    @cached_property
    def embedding(self) -> float:
        return memory.embedding_on_host(self.rank, self.system)

    @cached_property
    def experts(self) -> list[int]:
        """Of each MoE layer."""
        return [ffn.num_experts for ffn in memory.moe_layers(self.rank)]

    @cached_property
    def expert_bytes(self) -> float:
        return memory.expert_bytes(self.rank, memory.moe_layers(self.rank)[0])

    @cached_property
    def moe_places(self) -> list[int]:
        return memory.moe_places(self.rank)

    def budget(self, policy: Policy) -> float:
        """What may be used of the GPUs that share the layers. [B]"""
        return self.gpus * memory.gpu_budget(self.rank, self.hardware, self.system, policy.gpu_memory, self.limits)

    def below(self, policy: Policy, off: float, everything: float, kv: float) -> tuple[float, float, float]:
        """(main memory, disk, remote GPU) of what one GPU, or its slice, does not hold, for all slices. [B]"""
        tp, backing = self.rank.tp, policy.backing or "dram"
        dram, disk, remote = memory.host_tiers(self.system, self.host, backing, tp * off, tp * everything)
        return dram + tp * kv, disk, remote

    def tiers(
        self, budget: float, on_gpu: tuple[float, float, float, float, float, float], below: tuple[float, float, float]
    ) -> Tiers:
        """Context, trunk, experts, buffers, KV cache, activations on the GPU; main memory, disk, remote GPU below."""
        dram, disk, remote = below
        total, host = self.gpus * self.hardware.gpu.memory.value, self.host
        return Tiers(
            total, budget, *on_gpu, host.dram.capacity.value, memory.dram_budget(host), dram,
            host.disk.capacity.value, disk, remote, self.gpus,
        )  # fmt: skip

    def plan(self, policy: Policy, slots: tuple[float, ...], resident: tuple[bool, ...], tiers: Tiers) -> OffloadPlan:
        return OffloadPlan(
            self.system, policy, self.hardware, self.host, self.rank, slots, resident, tiers, self.work, self.split
        )


def placed(site: Site, policy: Policy) -> OffloadPlan:
    """Decide what stays on the GPU and count every tier.

    Layers that a site's ``split`` deals out to the GPUs of a pipeline see the memory of all of them together.
    Tensor-parallel GPUs each hold a slice of everything: what is counted of the GPU is one of them, of the host all.
    """
    return _layers(site, policy) if policy.unit == "layer" else _experts(site, policy)


def stacked(plans: Sequence[OffloadPlan]) -> OffloadPlan:
    """Plans that differ in how many experts each layer has on the GPU, and so in tiers, as one plan of arrays."""
    slots = tuple(np.array(layer) for layer in zip(*(plan.slots for plan in plans), strict=True))
    tiers = Tiers(**{f.name: np.array([getattr(plan.tiers, f.name) for plan in plans]) for f in fields(Tiers)})
    return replace(plans[0], slots=slots, tiers=tiers)


def _experts(site: Site, policy: Policy) -> OffloadPlan:
    (context, _, activations), footprint = site.working, site.system.footprint
    kv, kv_off = site.caches(policy)
    trunk, each, every = site.trunk_room, site.expert_bytes, sum(site.experts)
    buffers = site.gpus * footprint.expert_buffers * each
    budget, amount = site.budget(policy), amount_of(policy)
    share = footprint.usable.value if amount is None else 1.0
    free = share * budget - context - trunk - buffers - kv - activations
    if amount == "device_memory_ratio":
        assert policy.device_memory_ratio is not None
        # The ratio is of all memory, for weights alone.
        for_weights = site.gpus * policy.device_memory_ratio * site.hardware.gpu.memory.value
        free = for_weights - trunk
        budget = min(budget, for_weights + context + kv + activations + buffers)
    count = _count(policy, amount, max(int(free // each), 0), every, site.experts[0], site.moe_places)
    slots = _dealt(policy, amount, count, site.experts[0], len(site.experts))
    here = sum(slots) * each
    buffers = 0.0 if sum(slots) >= every or policy.missing == "cpu" else buffers
    off = every * each - here + site.embedding
    tiers = site.tiers(
        budget,
        (context, trunk, here, buffers, kv, activations),
        site.below(policy, off, site.trunk_bytes + every * each, kv_off),
    )
    return site.plan(policy, slots, (True,) * site.rank.model.num_hidden_layers, tiers)


def _count(policy: Policy, amount: str | None, fits: int, every: int, each_layer: int, places: list[int]) -> float:
    """Experts on the GPU, over all MoE layers, which stand at ``places``."""
    layers = len(places)
    if amount == "experts_on_gpu":
        return min(policy.experts_on_gpu or 0.0, each_layer) * layers
    if amount == "offload_per_layer":
        return max(each_layer - (policy.offload_per_layer or 0), 0) * layers
    if amount == "resident_experts":
        return min(policy.resident_experts or 0, every)
    if amount == "n_cpu_moe":
        return sum(place >= (policy.n_cpu_moe or 0) for place in places) * each_layer
    return min(fits, every)


def _dealt(policy: Policy, amount: str | None, count: float, each_layer: int, layers: int) -> tuple[float, ...]:
    """Slots of each layer. Without a cache whole layers are on the GPU, the last ones (llama.cpp's n_cpu_moe)."""
    by_layer = {"experts_on_gpu", "offload_per_layer"}
    if amount == "n_cpu_moe" or (policy.cache == "none" and amount not in by_layer):
        full = int(count // each_layer)
        return (0.0,) * (layers - full) + (float(each_layer),) * full
    if policy.cache_scope == "global" or amount == "experts_on_gpu":
        return (count / layers,) * layers
    low, more = divmod(int(count), layers)
    return tuple(float(low + (i < more)) for i in range(layers))


def _layers(site: Site, policy: Policy) -> OffloadPlan:
    """Whole layers, in the model's order, until the GPU is full (accelerate), or the last ones (llama.cpp)."""
    (context, _, activations), footprint, rank = site.working, site.system.footprint, site.rank
    kv, kv_off = site.caches(policy)
    of_kind = [memory.layer_bytes(rank, layers) for layers in rank.model.layers]
    sizes = [of_kind[i] for i in rank.model.order]
    ends = memory.weight_bytes(rank) - sum(sizes) - site.embedding
    head = rank.model.vocab_size * rank.model.hidden_size * 2.0 / rank.tp if not rank.model.tie_word_embeddings else 0.0
    landing = site.gpus * footprint.layer_buffers * max(sizes)
    budget, amount = site.budget(policy), amount_of(policy)
    share = footprint.usable.value if amount is None else 1.0
    last = amount in OF_LAYERS
    if amount == "n_gpu_layers":
        count = min(policy.n_gpu_layers or 0, len(sizes))
    elif amount == "cpu_offload_gb":
        # From the first layer on, until so much has left.
        left = np.cumsum([0.0, *sizes[:-1]]) < (policy.cpu_offload_gb or 0.0)
        count = len(sizes) - int(left.sum())
    else:
        # Planners take a share of what is free, and keep landing room; some count neither cache nor activations.
        working = 0.0 if footprint.plans_weights_alone else kv + activations
        free = share * (budget - context - working) - landing - (ends - head)
        count = 0
        while count < len(sizes) and free >= sizes[count]:
            free -= sizes[count]
            count += 1
    resident = tuple(i >= len(sizes) - count if last else i < count for i in range(len(sizes)))
    all_here = all(resident)
    wide_of_kind = [memory.bytes_off_gpu(rank, site.system, layers) for layers in rank.model.layers]
    wide = [wide_of_kind[i] for i in rank.model.order]
    landing = 0.0 if all_here or policy.missing == "cpu" else site.gpus * footprint.layer_buffers * max(wide)
    on_gpu = sum(size for size, here in zip(sizes, resident, strict=True) if here)
    # The head comes after all layers: it is off the GPU where any layer before it is.
    trunk = ends if all_here or last else ends - head
    off = ends - trunk + site.embedding + sum(size for size, here in zip(wide, resident, strict=True) if not here)
    kv_here = kv if policy.missing == "gpu" else kv * on_gpu / max(sum(sizes), 1.0)
    tiers = site.tiers(
        budget,
        (context, trunk, on_gpu, landing, kv_here, activations),
        site.below(policy, off, on_gpu + trunk + off, kv_off + kv - kv_here),
    )
    return site.plan(policy, tuple(map(float, site.experts)), resident, tiers)


def rank_with_formats(rank: Rank, policy: Policy) -> Rank:
    """The rank in the policy's weight formats, where it names any."""
    experts, linear = (
        name and rank.engine.file.kernels.runs(name, rank.compute_capability)
        for name in (policy.experts_format, policy.attention_format)
    )
    return replace(rank, model=rank.model.formatted(lambda now: linear or now, lambda now: experts or now))
