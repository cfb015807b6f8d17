"""What takes memory in each tier: weights by kind, caches, activations, copies on the host."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.engines.engine import Limits
from moesim.hardware.hardware import Hardware
from moesim.hardware.host import Host
from moesim.inputs.system_file import System
from moesim.memory import activation_bytes, graph_bytes, sequence_kv_bytes, weight_bytes
from moesim.models.blocks.moe import Moe
from moesim.models.model import Layers
from moesim.models.rank import Rank
from moesim.ops.formats import bytes_per_weight

_SYSTEM_SHARE = 0.92
"""Of main memory that weights may fill: the rest is the operating system's and the process's own."""


@dataclass(frozen=True)
class Work:
    """What a run keeps in memory beside weights."""

    batch: int
    prompt: int
    context: int
    """Prompt and output."""


def expert_bytes(rank: Rank, ffn: Moe) -> float:
    """Weights of one expert, or of the slice of it that a tensor-parallel rank has. [B]"""
    return ffn.expert_parameters(rank.model.hidden_size) * bytes_per_weight(ffn.experts) / rank.plan.expert_tp


def moe_layers(rank: Rank) -> list[Moe]:
    """The MoE part of every layer that has one, from the first to the last."""
    groups = [rank.model.layers[i] for i in rank.model.order]
    return [g.routed for g in groups if g.routed is not None]


def moe_places(rank: Rank) -> list[int]:
    """Where in the model those layers stand."""
    return [place for place, i in enumerate(rank.model.order) if rank.model.layers[i].routed is not None]


def trunk_bytes(rank: Rank) -> float:
    """All weights but routed experts. [B]"""
    experts = sum(g.count * g.routed.expert_bytes(rank) for g in rank.model.layers if g.routed is not None)
    return weight_bytes(rank) - experts


def embedding_on_host(rank: Rank, system: System) -> float:
    """The input embedding where the system keeps it in main memory, and the head is not tied to it. [B]"""
    model = rank.model
    if not system.footprint.embedding_on_host or model.tie_word_embeddings:
        return 0.0
    return (model.embedding_rows or model.vocab_size) * model.hidden_size * 2.0 / rank.tp


def layer_bytes(rank: Rank, layers: Layers) -> float:
    """All weights of one layer. [B]"""
    one = replace(rank.model, layers=(replace(layers, count=1),))
    return weight_bytes(replace(rank, model=one, first=False, last=False, drafting=None))


def bytes_off_gpu(rank: Rank, system: System, layers: Layers) -> float:
    """All weights of one layer as the system keeps them off the GPU. [B]"""
    formats = {block.weights for block in layers.blocks} | ({layers.routed.experts} if layers.routed else set())
    bits = next((bits for name, bits in system.footprint.bits_off_gpu.items() if name in formats), None)
    if bits is None:
        return layer_bytes(rank, layers)
    model = rank.model.formatted(lambda _: "bfloat16", lambda _: "bfloat16")
    return bits / 16 * layer_bytes(replace(rank, model=model), model.layers[rank.model.layers.index(layers)])


def trunk_room(rank: Rank, system: System) -> float:
    """What the trunk takes on the GPU, the allocator's habits included. [B]"""
    held = trunk_bytes(rank) - embedding_on_host(rank, system)
    if not system.footprint.keeps_wide_trunk:
        return held
    return max(held, trunk_bytes(replace(rank, model=rank.model.formatted(lambda _: "bfloat16", lambda now: now))))


def working_bytes(rank: Rank, system: System, limits: Limits, work: Work, gpus: int = 1) -> tuple[float, float, float]:
    """(context and engine, KV cache, activations) of a run on the GPU, or on several that share the layers. [B]"""
    reserves = rank.engine.file.reserves
    context = reserves.cuda_context.value
    kv = work.batch * float(sequence_kv_bytes(rank, work.context, limits.block_size))
    activations = activation_bytes(rank, limits)
    if system.runtime.kernels == "vllm":
        return gpus * (context + graph_bytes(rank, limits) + reserves.attention_workspace.value), kv, gpus * activations
    # Scores of one layer and the logits of every prompt token, in 32 bits and 16.
    heads = max(block.attention_heads for g in rank.model.layers for block in g.blocks)
    scores = 6.0 * work.batch * heads * work.prompt**2
    logits = 6.0 * work.batch * work.prompt * rank.model.vocab_size
    return gpus * context, kv, gpus * max(activations, scores, logits)


def host_tiers(
    system: System, host: Host, backing: str, off_gpu: float, everything: float
) -> tuple[float, float, float]:
    """(main memory, disk, remote GPU) that hold the weights the GPU does not. [B]"""
    if backing == "remote_gpu":
        return 0.0, 0.0, off_gpu
    if backing == "disk":
        return 0.0, everything if system.footprint.host_keeps == "all" else off_gpu, 0.0
    kept = everything if system.footprint.host_keeps == "all" else off_gpu
    budget = dram_budget(host)
    if kept <= budget or not system.footprint.disk:
        return kept, 0.0, 0.0
    # A copy of what is on the GPU is the first to go.
    return min(off_gpu, budget), max(off_gpu - budget, 0.0), 0.0


def dram_budget(host: Host) -> float:
    """Main memory that weights may fill. [B]"""
    return host.dram.capacity.value * _SYSTEM_SHARE


def gpu_budget(rank: Rank, hardware: Hardware, system: System, gpu_memory: float | None, limits: Limits) -> float:
    """GPU bytes that may be used: what the user grants, or the system's own share. [B]"""
    total = hardware.gpu.memory.value
    if gpu_memory is not None:
        return min(gpu_memory, total)
    if system.runtime.kernels == "vllm" and not system.runtime.related:
        return min(limits.gpu_memory_utilization * total + rank.engine.file.reserves.cuda_context.value, total)
    return total
