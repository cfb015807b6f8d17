"""Weights, KV cache, activations and reserves, the way vLLM's memory profiling adds them up.

KV budget = gpu_memory_utilization x total - weights - peak activation of a profile run at
max_num_batched_tokens - CUDA-graph pool - communication buffers (docs/model/memory.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.engines.engine import Engine, Limits
from moesim.errors import DoesNotFit
from moesim.hardware.hardware import Hardware
from moesim.models.frame import BF16
from moesim.models.model import Model
from moesim.models.rank import Rank
from moesim.ops.formats import bytes_per_weight
from moesim.units import bytes_text

_LONGEST, _DIGIT = 2**24, 64
_USUAL_CONTEXT = 8192
_LARGEST_IMAGE = 1 << 14
"""Pixels a side: larger than what any tower takes whole."""


@dataclass(frozen=True)
class Room:
    """Memory of one GPU, in bytes, and what fits in it."""

    total: float
    usable: float
    """gpu_memory_utilization x total, and no more than is left beside the CUDA context."""
    weights: float
    activations: float
    cuda_graphs: float
    communication: float
    other: float
    kv_available: float
    kv_bytes_per_token: float
    kv_blocks: int
    kv_needed: float
    """What the workload's batch takes at its longest context."""
    largest_batch: int
    """Sequences of the workload's full length the cache holds, at most max_num_seqs."""
    longest_context: int
    """Tokens each sequence of the workload's batch can reach."""
    longest_alone: int
    """Tokens a single sequence can reach: vLLM refuses to start with a max_model_len above it."""
    kv_range: tuple[float, float] | None = None
    """90 % of what is left for the cache; None where nothing tells."""

    @property
    def fits(self) -> bool:
        return self.kv_available > 0 and self.kv_needed <= self.kv_available

    def blocks_at(self, available: float) -> int:
        """Cache blocks, were so much left for them."""
        return int(max(available, 0.0) / self.kv_available * self.kv_blocks) if self.kv_available > 0 else 0

    @property
    def shortfall(self) -> float:
        """Bytes missing on each GPU; 0 when it fits."""
        return max(self.kv_needed - self.kv_available, 0.0)


def weight_bytes(rank: Rank) -> float:
    """Weights one rank holds: split by TP, except norms, router, KV heads beyond their number, MLA's latent. [B]

    What drafts tokens for it is among them.
    """
    own = _end_bytes(rank) + _layer_bytes(rank)
    if rank.drafting is None or rank.draft is None:
        return own
    return own + _layer_bytes(rank.draft) + (_end_bytes(rank.draft) if rank.drafting.owns_ends else 0.0)


def _end_bytes(rank: Rank) -> float:
    """Embedding and head, and what is held whole beside the layers. [B]"""
    model, tp = rank.model, rank.tp
    head = model.vocab_size * model.hidden_size if rank.last else 0
    tied = model.tie_word_embeddings and rank.first and rank.last
    embedding = (model.embedding_rows or model.vocab_size) * model.hidden_size if rank.first else 0
    head_bytes = 0 if tied else head * bytes_per_weight(model.head_weights)
    total = (embedding * BF16 + head_bytes) / tp
    if rank.first:
        # vLLM's mm_encoder_tp_mode is "weights": most towers are shared among ranks as the rest is.
        whole = model.tower is not None and not model.tower.sharded
        total += (model.other_parameters + model.tower_parameters / (1 if whole else tp)) * BF16
    return total


def _layer_bytes(rank: Rank) -> float:
    total = 0.0
    for layers in rank.model.layers:
        blocks = sum(block.weight_bytes(rank) for block in layers.blocks)
        total += layers.count * (blocks + layers.norm_parameters * BF16)
    return total


def kv_bytes_per_token(rank: Rank) -> float:
    """Cache bytes a token takes on a rank over all layers, before windows, a draft's among them. [B]"""
    own = rank.model.kv_bytes_per_token(rank.tp, rank.kv_bytes)
    return own + (kv_bytes_per_token(rank.draft) if rank.draft else 0.0)


def cache_block(rank: Rank, block_size: int) -> int:
    """Tokens of a cache block: where layers keep states, as many as make a page of attention hold one. [tokens]

    Source: vLLM platforms/interface.py and models/config.py, HybridAttentionMambaModelConfig.
    """
    page, token = _pages(rank)
    if not page or not token:
        return block_size
    return max(block_size, block_size * math.ceil(page / (block_size * token)))


def _pages(rank: Rank) -> tuple[float, float]:
    """(the largest state of a layer, a token's cache in a layer of attention); zero where there are none. [B]"""
    layers = [block for group in rank.model.layers if not group.encoder for block in group.blocks]
    found = [(block.keeps_state, block.state(rank.tp, rank.kv_bytes)) for block in layers]
    states = [state.sequence_bytes for keeps, state in found if keeps]
    tokens = [state.token_bytes for keeps, state in found if not keeps and state.token_bytes]
    return max(states, default=0.0), min(tokens, default=0.0)


def sequence_kv_bytes(rank: Rank, context: Any, block_size: int, source_len: Any = 0) -> Any:
    """Cache bytes of one sequence at ``context`` tokens, in whole blocks; windowed layers keep their window.

    A state takes a page of attention, which is no smaller.
    """
    total: Any = sequence_kv_bytes(rank.draft, context, block_size) if rank.draft else 0.0
    page = block_size * _pages(rank)[1]
    for layers in rank.model.layers:
        if layers.encoder:
            continue
        for block in layers.blocks:
            state = block.state(rank.tp, rank.kv_bytes)
            if block.keeps_state:
                total = total + layers.count * max(state.sequence_bytes, page)
            elif any(state):
                total = total + layers.count * state.bytes(context, block_size, source_len)
    return total


def activation_bytes(rank: Rank, limits: Limits) -> float:
    """Peak of a profile run: the widest layer's tensors at full token budget, or the sampler's logits."""
    model, tokens = rank.model, limits.max_num_batched_tokens
    stream = 3 * BF16 * tokens * model.hidden_size
    widest = max(block.activation_bytes(rank, tokens) for layers in model.layers for block in layers.blocks)
    file = rank.engine.file
    rows = file.speculation.logit_rows if rank.drafting else 1
    sampled, sampler = min(limits.max_num_seqs * rows, tokens), file.sampler
    logits = sampled * model.vocab_size * (sampler.sharded / rank.tp + sampler.gathered)
    images, held = _image_bytes(rank, tokens)
    return held + max(stream + widest, tokens * model.hidden_size * BF16 + logits, images)


def _image_bytes(rank: Rank, tokens: int) -> tuple[float, float]:
    """(peak of the tower over as many of the largest images as a step encodes, what it keeps of them). [B]"""
    tower = rank.model.tower
    if tower is None or not rank.first:
        return 0.0, 0.0
    largest = tower.picture(_LARGEST_IMAGE, _LARGEST_IMAGE)
    images = max(tokens // largest.tokens, 1)
    rows = images * largest.tiles * largest.patches
    peak = BF16 * rows * (3 * tower.width + max(3 * tower.width, tower.inner))
    return peak, BF16 * max(tokens, largest.tokens) * rank.model.hidden_size


def communication_bytes(rank: Rank, hardware: Hardware, limits: Limits) -> float:
    """Buffers of every group a rank belongs to, as the engine's file and DeepEP size them. [B]"""
    plan, reserves = rank.plan, rank.engine.file.reserves
    total = reserves.communication_bytes(plan.tp, custom=plan.custom_all_reduce)
    total += reserves.communication_bytes(plan.pp, custom=False)
    moe = rank.model.moe
    if moe is not None and plan.dp > 1:
        total += reserves.communication_bytes(plan.dp * (plan.tp if plan.ep > 1 else 1), custom=False)
    if moe is None or not plan.deepep:
        return total
    nodes = -(-plan.world // hardware.gpus_per_node)
    if plan.backend == "deepep_high_throughput":
        return total + reserves.deepep_buffer.value * (2 if nodes > 1 else 1)
    return (
        total
        + reserves.deepep_buffer.value
        + low_latency_buffer_bytes(limits.max_num_batched_tokens, moe.seen(rank.model.hidden_size), moe.num_experts)
    )


def low_latency_buffer_bytes(tokens: int, hidden: int, experts: int) -> float:
    """DeepEP's low-latency buffers, two of each: a slot for every token and expert (DeepEP csrc/config.hpp). [B]"""
    dispatch = 16 + max(2 * hidden, hidden + hidden // 128 * 4)
    combine = 2 * hidden
    send = max(tokens * dispatch, experts * tokens * combine)
    receive = experts * tokens * max(dispatch, combine)
    return 2.0 * (send + receive + 4 * experts)


def memory_room(rank: Rank, hardware: Hardware, limits: Limits, batch: int, context: int, source_len: int = 0) -> Room:
    """How memory is used and what fits; the fullest stage of a pipeline counts.

    Parameters
    ----------
    batch, context : int
        Sequences, and tokens each reaches (prompt and output).
    source_len : int
        Encoder tokens per sequence (encoder-decoder models).
    """
    rooms = [room for _, room in stage_rooms(rank, hardware, limits, batch, context, source_len)]
    return min(rooms, key=lambda room: room.kv_available - room.kv_needed)


def stage_rooms(
    rank: Rank, hardware: Hardware, limits: Limits, batch: int, context: int, source_len: int = 0
) -> list[tuple[Rank, Room]]:
    """The memory of each pipeline stage."""
    return [(stage, _room(stage, hardware, limits, batch, context, source_len)) for stage in rank.stages()]


def fullest_stage(rank: Rank, hardware: Hardware, limits: Limits) -> tuple[Rank, Room]:
    """The stage that holds fewest sequences of a usual length."""
    rooms = stage_rooms(rank, hardware, limits, 1, _USUAL_CONTEXT)
    return min(rooms, key=lambda item: item[1].kv_available / max(item[1].kv_needed, 1e-9))


def graph_bytes(rank: Rank, limits: Limits) -> float:
    """Set aside for CUDA graphs; nothing where none are captured. [B]"""
    reserve = rank.engine.file.reserves.cuda_graphs
    return reserve.value if reserve and limits.captured_tokens else 0.0


def _room(rank: Rank, hardware: Hardware, limits: Limits, batch: int, context: int, source_len: int) -> Room:
    reserves = rank.engine.file.reserves
    total = hardware.gpu.memory.value
    usable = rank.engine.usable_bytes(total, limits.gpu_memory_utilization)
    weights, activations = weight_bytes(rank), activation_bytes(rank, limits)
    graphs = graph_bytes(rank, limits) if hardware.has_sms else 0.0
    communication = communication_bytes(rank, hardware, limits)
    other = reserves.attention_workspace.value
    available = usable - weights - activations - graphs - communication - other
    per_token = kv_bytes_per_token(rank)
    one = float(sequence_kv_bytes(rank, context, limits.block_size, source_len))
    return Room(
        total, usable, weights, activations, graphs, communication, other, available, per_token,
        kv_blocks=max(int(available // (limits.block_size * per_token)), 0) if per_token else 0,
        kv_needed=batch * one,
        largest_batch=min(max(int(available // max(one, 1e-9)), 0), limits.max_num_seqs),
        longest_context=longest_context(rank, available / batch, limits.block_size, source_len),
        longest_alone=longest_context(rank, available, limits.block_size, source_len),
        kv_range=kv_range(rank.engine, limits, (total, available), activations, graphs),
    )  # fmt: skip


def kv_range(
    engine: Engine, limits: Limits, memory: tuple[float, float], activations: float, graphs: float
) -> tuple[float, float]:
    """90 % of what is left for the cache: what was seen of each reserve, each off by itself. [B]

    Parameters
    ----------
    memory : tuple
        The GPU's, and what is left of it for the cache.
    """
    reserves, (total, available) = engine.file.reserves, memory
    usable = engine.usable_bytes(total, limits.gpu_memory_utilization)
    context = reserves.cuda_context
    taken = [
        (part, part * ends[0] / reserve.value, part * ends[1] / reserve.value)
        for part, reserve in (
            (activations, reserves.activation_peak), (graphs, reserves.cuda_graphs),
            (reserves.attention_workspace.value, reserves.attention_workspace),
        )
        if reserve is not None and (ends := reserve.seen) is not None
    ]  # fmt: skip
    if context.seen is not None:
        # It counts only where the engine may fill nearly all there is.
        within = [min(limits.gpu_memory_utilization * total, total - end) for end in context.seen]
        taken.append((-usable, -within[0], -within[1]))
    more = math.hypot(*(part - least for part, least, _ in taken))
    less = math.hypot(*(most - part for part, _, most in taken))
    return available - less, available + more


def longest_context(rank: Rank, share: float, block_size: int, source_len: int = 0) -> int:
    """The longest context whose cache fits in ``share`` bytes: a digit after the other, many tried at once."""
    longest, step = 0, _LONGEST // _DIGIT
    while step:
        tried = longest + step * np.arange(1, _DIGIT)
        fits = np.broadcast_to(sequence_kv_bytes(rank, tried, block_size, source_len) <= share, tried.shape)
        longest += step * int(fits.sum())
        step //= _DIGIT
    return min(longest, rank.model.max_position_embeddings or longest)


def require_room(room: Room, model: Model, hardware: Hardware, batch: int, ways_out: tuple[str, ...]) -> None:
    """Raise DoesNotFit, saying by how much and what would fit."""
    if room.fits:
        return
    if room.kv_available <= 0:
        what = f"the weights and working memory of {model.name} leave no room for a KV cache"
    else:
        what = f"the KV cache of {batch} sequences is too large (largest batch at this context: {room.largest_batch})"
    message = f"does not fit on {hardware.title}: {what}; {bytes_text(room.shortfall)} too much on each GPU"
    raise DoesNotFit(message, room.shortfall, room, ways_out)
