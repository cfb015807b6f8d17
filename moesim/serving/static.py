"""A static batch on an engine: which steps run, and what their times add up to.

One call prices many workloads: ``batch``, ``input_len`` and ``output_len`` are arrays over points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, reduced, summed
from moesim.engines.speculation import rounds
from moesim.ops.load import Group
from moesim.steps.pipeline import decode_cycle, prefill_row, waiting
from moesim.steps.step import Steps

Array = np.ndarray[Any, Any]

_REQUEST_QUANTILES = 32
_PREFILL_SAMPLES = 8
"""Prefill steps are sampled this many times more finely than decode steps: their context differs more."""


@dataclass(frozen=True)
class Chunks:
    """Prefill steps of static batches, one entry a step: up to ``budget`` prompt tokens in order of arrival."""

    groups: tuple[Group, ...]
    finished: Array
    """Prompts whose last token is in each step."""
    point: Array
    """Which workload each step belongs to."""
    weight: Array
    """Steps each entry stands for: 1, or more where long prefills are sampled."""
    first: Array
    """Whether it is the first of its workload."""


def prefill_chunks(batch: Array, input_len: Array, budget: int, samples: int | None = None) -> Chunks:
    """Cut prompts into steps of ``budget`` tokens, as vLLM's scheduler does.

    A step holds at most three kinds of sequences: the rest of a prompt begun before, whole prompts, and the
    beginning of the next one.

    Parameters
    ----------
    batch, input_len : ndarray, shape (points,)
    budget : int
        max_num_batched_tokens.
    samples : int, optional
        Price at most this many steps of each point, from 3: the first, the last, and full ones evenly spaced between.
    """
    total = batch * input_len
    steps = -(-total // budget)
    priced = np.minimum(steps, samples) if samples else steps
    point = np.repeat(np.arange(len(batch)), priced)
    order = np.arange(len(point)) - np.repeat(np.cumsum(priced) - priced, priced)
    first, last = order == 0, order == priced[point] - 1
    weight = np.where(first | last, 1.0, (np.maximum(steps - 2, 1) / np.maximum(priced - 2, 1))[point])
    between = 1 + np.floor((order - 0.5) * weight).astype(np.int64)
    index = np.where(last, steps[point] - 1, np.where(first, 0, between))
    start = index * budget
    end, length = np.minimum(start + budget, total[point]), input_len[point]
    past = start % length
    rest = np.where(past > 0, np.minimum(length - past, end - start), 0)
    whole, begun = np.divmod(end - start - rest, length)
    groups = (
        Group((rest > 0).astype(int), np.maximum(rest, 1), past),
        Group(whole, length, np.zeros_like(whole)),
        Group((begun > 0).astype(int), np.maximum(begun, 1), np.zeros_like(begun)),
    )
    kept = tuple(g for g in groups if np.any(g.sequences > 0))
    return Chunks(kept, end // length - start // length, point, weight, first)


@dataclass(frozen=True)
class StaticBatch:
    """Static batches priced: every field is an array over points.

    ``prefill`` and ``decode`` are cost trees summed over their steps.
    """

    batch: Array
    input_len: Array
    output_len: Array
    prefill: Cost
    decode: Cost
    mean_finish_s: Array
    """When prompts end their prefill, averaged over requests."""
    stall_s: Array
    """Shape (points, quantiles): how long evenly spaced requests wait between that and the first decode step."""
    decode_step_s: Array
    """Shape (points, nodes): decode step times along the batch's life."""
    first_token_is_decoded: bool
    """The first token comes out of the first decode step (encoder-decoder models), not out of prefill."""
    decode_steps: Array
    """Steps that only decode: one a token, fewer where tokens are drafted."""

    @property
    def first_step_s(self) -> Any:
        """From a prompt's end to its first token. [s]"""
        return self.decode_step_s[:, 0] if self.first_token_is_decoded else 0.0

    @property
    def ttft_s(self) -> Array:
        """Time to first token, averaged over requests. [s]"""
        return self.mean_finish_s + self.first_step_s

    @property
    def end_s(self) -> Array:
        """When the last token is there. [s]"""
        return self.prefill.seconds + self.decode.seconds


def static_batch(
    steps: Steps, batch: Any, input_len: Any, output_len: Any, budget: int, samples: int | None = None,
    images: int = 0, alike: bool = True,
) -> StaticBatch:  # fmt: skip
    """Price static batches: prefill in chunks, then a decode step per output token at its own context.

    Parameters
    ----------
    batch, input_len, output_len : int or ndarray, shape (points,)
    samples : int, optional
        Steps priced per phase and point. None prices every step, and takes a single point.
    images : int
        Of each prompt, their tokens among its own.
    alike : bool
        Points of equal workload take as long as each other; not where the steps know more of a point than its load.
    """
    batch, input_len, output_len = (np.atleast_1d(np.asarray(x, np.int64)) for x in (batch, input_len, output_len))
    plan, encoder = steps.rank.plan, steps.rank.model.has_encoder
    replica = plan.share(batch)
    prefill, mean_finish, stall = _prefill(steps, replica, input_len, budget, samples, images, alike)
    count = output_len if encoder else output_len - 1
    decode_steps = np.array([rounds(steps.rank.kept, int(n)) for n in count]) if steps.rank.kept else count
    context, weight = _decode_contexts(0 * input_len if encoder else input_len, count, decode_steps, samples)
    source = input_len[:, None] if encoder else 0
    in_flight = plan.in_flight(batch)[:, None]
    sequences = -(-replica[:, None] // in_flight)
    groups = (steps.rank.decoding(sequences, context),)
    at_nodes = decode_cycle(steps, steps.load(groups, source), sequences, in_flight)
    total = float(weight[0].sum())
    if len(batch) == 1:
        decode = reduced(at_nodes, lambda x: x * total if isinstance(x, float) else _weighted_sum(x, weight).item())
    else:
        decode = reduced(at_nodes, lambda x: _weighted_sum(x, weight))
    node_s = np.broadcast_to(at_nodes.seconds, context.shape)
    return StaticBatch(batch, input_len, output_len, prefill, decode, mean_finish, stall, node_s, encoder, decode_steps)


def _prefill(
    steps: Steps, batch: Array, input_len: Array, budget: int, samples: int | None, images: int, alike: bool
) -> tuple[Cost, Array, Array]:
    """(prefill summed over steps, mean time at which a prompt ends, waits after it), by point.

    Equal prompts are priced once where they are alike.
    """
    back = np.arange(len(batch))
    if len(batch) > 1 and alike:
        (batch, input_len), back = np.unique(np.stack([batch, input_len]), axis=1, return_inverse=True)
    chunks = prefill_chunks(batch, input_len, budget, samples * _PREFILL_SAMPLES if samples else None)
    encoder = steps.rank.model.has_encoder
    load = replace(steps.load(chunks.groups), first=chunks.first)
    if images:
        # A step encodes as many images as its share of the prompts holds.
        load = replace(load, images=load.tokens / input_len[chunks.point] * images)
    per_step, left_s = prefill_row(steps, load, chunks.finished, chunks.point, chunks.weight, encoder)
    steps_of = np.bincount(chunks.point, chunks.weight, len(batch))

    alone = float(steps_of[0])

    def over_steps(x: Any) -> Any:
        if len(back) == 1:
            if isinstance(x, float):
                return x * alone
            return np.asarray(x).item() * alone if np.size(x) == 1 else float(np.dot(x, chunks.weight))
        x = np.asarray(x, float)
        if x.size == 1:
            return x.reshape(1) * steps_of[back]
        return np.bincount(chunks.point, x * chunks.weight, len(batch))[back]

    first = np.flatnonzero(np.diff(chunks.point, prepend=-1))
    ends = np.append(first[1:], len(left_s)) - 1
    passed = np.cumsum(chunks.weight)
    rows = [
        _prompt_ends(many, length, budget, passed[i : j + 1] - passed[i] + chunks.weight[i], left_s[i : j + 1])
        for many, length, i, j in zip(batch.tolist(), input_len.tolist(), first.tolist(), ends.tolist(), strict=True)
    ]
    mean_finish = np.array([row.mean() for row in rows])
    share = (np.arange(_REQUEST_QUANTILES) + 0.5) / _REQUEST_QUANTILES
    waited = np.array([row[-1] - row[np.ceil(share * len(row)).astype(int) - 1] for row in rows])
    whole = reduced(per_step, over_steps)
    if steps.rank.plan.pp > 1:
        rest: Any = np.maximum(left_s[ends][back] - whole.seconds, 0.0)
        rest = rest.item() if len(back) == 1 else rest
        why = "when the last step leaves the last stage - the slowest stage's time"
        whole = summed("prefill", [*whole.children, waiting("other stages, and the host", rest, whole, why)])
    return whole, mean_finish[back], waited[back]


def _prompt_ends(batch: int, input_len: int, budget: int, steps: Array, left_s: Array) -> Array:
    """When each of a batch's prompts ends, with straight lines where ``steps`` of them are priced. [s]"""
    return np.interp(-(-np.arange(1, batch + 1) * input_len // budget), steps, left_s)


def _weighted_sum(x: Any, weight: Array) -> Array:
    """Sum over nodes; what does not change with context is multiplied out."""
    x = np.asarray(x, float)
    if x.ndim < 2 or x.shape[1] == 1:
        return x.reshape(-1) * weight.sum(1)
    return (x * weight).sum(1)


def _decode_contexts(start: Array, tokens: Array, steps: Array, samples: int | None) -> tuple[Array, Array]:
    """(past tokens at each decode step or midpoint, steps it stands for); shapes (points, nodes)."""
    nodes = max(int(np.ceil(steps.max())), 1) if samples is None else samples
    middle = (np.arange(nodes) + 0.5) / nodes
    context = start[:, None] + np.floor(middle * tokens[:, None]).astype(np.int64)
    return context, np.broadcast_to((steps / nodes)[:, None], context.shape)
