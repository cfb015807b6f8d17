"""A static batch on an engine: which steps run, and what a client measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.cost.cost import Cost
from moesim.ops.attention import Group
from moesim.step import StepModel

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Chunks:
    """Prefill steps of a static batch: each computes up to ``budget`` prompt tokens, in order of arrival."""

    groups: tuple[Group, ...]
    finished: Array
    """Prompts whose last token is in each step."""


def prefill_chunks(batch: int, input_len: int, budget: int) -> Chunks:
    """Cut ``batch`` prompts of ``input_len`` tokens into steps of ``budget`` tokens, as vLLM's scheduler does.

    A step holds at most three kinds of sequences: the rest of a prompt begun before, whole prompts, and the
    beginning of the next one.
    """
    total = batch * input_len
    start = np.arange(0, total, budget)
    end = np.minimum(start + budget, total)
    past = start % input_len
    rest = np.where(past > 0, np.minimum(input_len - past, end - start), 0)
    whole, begun = np.divmod(end - start - rest, input_len)
    groups = (
        Group((rest > 0).astype(int), np.maximum(rest, 1), past),
        Group(whole, np.full_like(whole, input_len), np.zeros_like(whole)),
        Group((begun > 0).astype(int), np.maximum(begun, 1), np.zeros_like(begun)),
    )
    kept = tuple(g for g in groups if np.any(g.sequences > 0))
    return Chunks(kept, end // input_len - start // input_len)


@dataclass(frozen=True)
class StaticBatch:
    """Costs of a static batch: prefill steps, then a decode step for every further output token.

    ``prefill.seconds`` has one entry a prefill step, ``decode.seconds`` one a decode step (or a quadrature
    node, with ``decode_weights`` steps each); ``encoder`` runs once before (encoder-decoder models).
    """

    prefill: Cost
    finished: Array
    decode: Cost | None
    decode_weights: Array
    batch: int
    input_len: int
    output_len: int
    first_token_is_decoded: bool = False
    """The first token comes out of the first decode step (encoder-decoder models), not out of prefill."""


def static_batch(steps: StepModel, batch: int, input_len: int, output_len: int, budget: int) -> StaticBatch:
    """Price every step of a static batch."""
    chunks = prefill_chunks(batch, input_len, budget)
    if steps.rank.model.has_encoder:
        return _encoder_decoder(steps, chunks, batch, input_len, output_len)
    prefill = steps.cost("prefill", steps.load(chunks.groups), chunks.finished)
    context = np.arange(input_len, input_len + output_len - 1)
    decode = None
    if len(context):
        decode = steps.cost("decode", steps.load((Group(batch, 1, context),)), batch)
    return StaticBatch(prefill, chunks.finished, decode, np.ones(len(context)), batch, input_len, output_len)


def _encoder_decoder(steps: StepModel, chunks: Chunks, batch: int, input_len: int, output_len: int) -> StaticBatch:
    """The prompt runs through the encoder; each output token is a decoder step over cached source keys."""
    prefill = steps.cost("encoder", steps.load(chunks.groups), chunks.finished, encoder=True)
    context = np.arange(output_len)
    decode = steps.cost("decode", steps.load((Group(batch, 1, context),), source_len=input_len), batch)
    return StaticBatch(prefill, chunks.finished, decode, np.ones(output_len), batch, input_len, output_len, True)
