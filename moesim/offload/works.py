"""A step's layers as work for the lanes: what is on the GPU, guessed, fetched, streamed, or run on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moesim.cost.host import HostMachine
from moesim.models.blocks.moe import Moe
from moesim.offload import memory
from moesim.offload.lanes import LayerWork
from moesim.offload.misses import Requests, drawn_misses
from moesim.offload.plan import OffloadPlan
from moesim.offload.sections import Sections
from moesim.offload.streamed import HEAD, copies_of, cpu_layer, head_stream
from moesim.ops.load import Load
from moesim.steps.step import one_number

_GUESSES = {"next_gate", "activation_matrix"}


@dataclass(frozen=True)
class Alike:
    """Layers of one kind that are treated alike; arrays of ``work`` may have an axis of layers in front."""

    kind: int
    places: tuple[int, ...]
    """Where in the model they are."""
    work: LayerWork

    @property
    def layers(self) -> int:
        return len(self.places)

    def over_layers(self, x: Any) -> Any:
        """Sum over layers of a count or a time, mean over draws; one entry a step."""
        x = np.asarray(x, float)
        if x.ndim == 3:
            return x.sum(0).mean(-1)
        return self.layers * (x.mean(-1) if x.ndim else x)


def works(
    plan: OffloadPlan, requests: Requests | None, around: HostMachine, kinds: dict[int, Sections], load: Load,
    encoder: bool, phase: str,
) -> list[Alike]:  # fmt: skip
    """The layers of a step, those alike together; under a plan of several points, the load's steps for each in turn."""
    groups: dict[tuple[int, bool], list[int]] = {}
    model = plan.rank.model
    for place, i in enumerate(model.order):
        if model.layers[i].encoder == encoder:
            groups.setdefault((i, plan.resident[place]), []).append(place)
    first = min((places[0] for (i, _), places in groups.items() if model.layers[i].routed is not None), default=0)
    found = []
    for (i, resident), places in groups.items():
        work = _work(plan, requests, around, kinds[i], i, resident, load, phase, places, first)
        found.append(Alike(i, tuple(places), work))
    streams = plan.by_layer and plan.policy.missing == "gpu" and not encoder
    if streams and head_stream(plan):
        found.append(Alike(HEAD, (len(model.order),), _streaming(LayerWork("head"), plan, around, HEAD, 0.0)))
    return found


def in_order(alike: list[Alike]) -> list[LayerWork]:
    """Single layers, from the first to the last."""
    placed = [
        (place, group.work.layer(k, _name(group, place))) for group in alike for k, place in enumerate(group.places)
    ]
    return [work for _, work in sorted(placed, key=lambda item: item[0])]


def _name(group: Alike, place: int) -> str:
    return "head" if group.kind == HEAD else f"layer {place}"


def _work(
    plan: OffloadPlan, requests: Requests | None, around: HostMachine, kind: Sections, i: int, resident: bool,
    load: Load, phase: str, places: list[int], first: int,
) -> LayerWork:  # fmt: skip
    layers = plan.rank.model.layers[i]
    if not resident and plan.policy.missing == "cpu":
        busy, read = cpu_layer(around, plan, layers, load, kind)
        return LayerWork("", whole_cpu_s=_wide(busy), stream_disk_s=_wide(read))
    before, after = (_wide(kind.seconds(section), plan.points) for section in (0, 2))
    work = LayerWork("", before_s=before, after_s=after, cache_cpu_s=_over_cache(around, plan, kind))
    if layers.routed is not None:
        assert requests is not None
        work = _with_experts(work, plan, requests, around, kind, layers.routed, load, phase, places, first)
    return work if resident else _streaming(work, plan, around, i, _wide(kind.distinct))


def _over_cache(around: HostMachine, plan: OffloadPlan, kind: Sections) -> Any:
    """Attention of a layer on the CPU: the cache through main memory, or its products; what it is asked comes from the
    GPU and the answer goes back. [s]"""
    tp, hidden = plan.rank.tp, plan.rank.model.hidden_size
    return sum(
        (
            _wide(
                around.cpu_seconds(tp * c.op.hbm_bytes, tp * c.op.flop)
                + 2.0 * around.copy_seconds(2.0 * c.op.tokens * hidden),
                plan.points,
            )
            for c in kind.on_cpu
        ),
        0.0,
    )


def _streaming(work: LayerWork, plan: OffloadPlan, around: HostMachine, kind: int, distinct: Any) -> LayerWork:
    """The same of what comes over the link as a whole, from disk before where it lies there."""
    copies = copies_of(plan, kind, distinct)
    read = plan.disk_share * around.disk_seconds(copies.count * copies.bytes_each)
    return replace(work, stream_s=copies.count * around.copy_seconds(copies.bytes_each), stream_disk_s=read)


def _with_experts(
    work: LayerWork, plan: OffloadPlan, requests: Requests, around: HostMachine, kind: Sections, ffn: Moe,
    load: Load, phase: str, places: list[int], first: int,
) -> LayerWork:  # fmt: skip
    """A layer's experts: on the GPU, guessed, fetched, or run on the CPU."""
    policy, points = plan.policy, plan.points
    tokens, distinct = _of_steps(load, points, load.tokens, kind.distinct)
    each = memory.expert_bytes(plan.rank, ffn)
    slots = plan.slots_at(places, len(tokens) // points)
    hit = requests.hit_rate(tokens, slots)
    if policy.cold_start and phase == "prefill":
        # Everything comes once, with the first prompt's first step.
        (first_steps,) = _of_steps(load, points, load.first)
        hit = np.where(first_steps & (slots < ffn.num_experts), 0.0, hit)
    asked, miss = _wide(distinct), 1.0 - hit[..., None]
    misses = drawn_misses(distinct, hit, len(places))
    each_token = 2.0 * ffn.expert_parameters(plan.rank.model.hidden_size)
    # The CPU runs an expert whole, however many GPUs have slices of it.
    whole = plan.rank.plan.expert_tp * each
    cpu_share, rows = _on_cpu(
        plan, requests, around, whole, each_token, tokens, tokens * ffn.num_experts_per_tok / distinct
    )
    on_cpu = bool(np.any(cpu_share > 0))
    guessed: Any = 0.0 * misses
    wasted: Any = 0.0 * misses
    if policy.prefetch in _GUESSES and phase == "decode" and not (on_cpu and policy.missing == "cheaper"):
        recall, most = policy.prefetch_recall or 0.0, policy.prefetch_experts
        room = np.inf if most is None else float(most)
        has_guess = np.array([place != first for place in places])[:, None, None]
        guessed = has_guess * np.minimum(recall * misses, room)
        wasted = has_guess * np.minimum((1.0 - recall) * asked * miss, np.maximum(room - guessed, 0.0))
    left = misses - guessed
    return replace(
        work,
        expert_s=_wide(kind.seconds(1), points) / asked,
        hits=np.maximum(asked - misses, 0.0),
        guessed=guessed,
        wasted=wasted,
        fetched=left * (1.0 - _wide(cpu_share)),
        on_cpu=left * _wide(cpu_share),
        copy_s=around.copy_seconds(each),
        back_s=around.copy_seconds(each) if policy.writeback else 0.0,
        disk_s=_wide(np.repeat(plan.disk_share * around.disk_seconds(each), len(tokens) // points)),
        cpu_s=_wide(around.cpu_seconds(whole, rows * each_token)) if on_cpu else 0.0,
    )


def _on_cpu(
    plan: OffloadPlan, requests: Requests, around: HostMachine, bytes_each: float, flop_a_token: float, tokens: Any,
    rows: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """(of the missing experts, the share that runs on the CPU: all, none, or those that it takes less to run there than
    to fetch; tokens of each of them)."""
    policy, every = plan.policy, np.ones_like(tokens, float)
    if policy.missing != "cheaper":
        fetches = policy.gpu_from_step is not None and tokens >= policy.gpu_from_step
        return every * (policy.missing == "cpu") * np.logical_not(fetches), rows
    if policy.gpu_from_tokens is not None:
        return requests.fewer(tokens, policy.gpu_from_tokens)
    copied = bytes_each / plan.rank.plan.expert_tp
    cheaper = around.cpu_seconds(bytes_each, np.mean(rows) * flop_a_token) < around.copy_seconds(copied)
    return every * bool(cheaper), rows


def _of_steps(load: Load, points: int, *values: Any) -> list[Any]:
    """One entry a step, for each point in turn; where there is one point, what is equal for all steps has one entry."""
    if points == 1:
        return [np.ravel(x) for x in np.broadcast_arrays(*(one_number(np.asarray(x)) for x in values))]
    return [np.tile(np.ravel(np.broadcast_to(x, load.shape)), points) for x in values]


def _wide(x: Any, points: int = 1) -> Any:
    """Room for the draws, and for each point in turn: (steps,) -> (points x steps, 1)."""
    flat = np.ravel(np.asarray(x, float))
    return (np.tile(flat, points) if points > 1 and flat.size > 1 else flat)[:, None]
