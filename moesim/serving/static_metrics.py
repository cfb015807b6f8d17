"""vLLM bench's metrics of a static batch, with 90 % intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.cost import Cost, relative_interval, summed
from moesim.metrics import ended, milliseconds, rate, throughputs, time_per_token
from moesim.serving.static import StaticBatch

_NORMAL_99 = 2.326


def metrics(batch: StaticBatch) -> dict[str, tuple[Any, Any, Any]]:
    """vLLM bench's metrics over the batch's requests, which all arrive together: (value, low, high) by name.

    TPOT = (E2EL - TTFT)/(n_out - 1), mean over requests; ITL pools every gap between two steps' tokens;
    ``itl_per_batch_token_ms`` is (E2E - TTFT)/(batch x out - 1). Throughput counts the whole batch over its end-to-end
    latency. Metrics that need a second output token are NaN without one. ``*_decode_step_ms`` are over steps and
    routing draws.
    """
    prefill_s = batch.prefill.seconds
    e2e_s, ttft_s, all_first_s = batch.end_s, batch.ttft_s, prefill_s + batch.first_step_s
    gaps = np.where(batch.output_len > 1, batch.output_len - 1, np.nan)
    steps = np.maximum(batch.decode_steps - batch.first_token_is_decoded, 1)
    tokens_out = batch.batch * batch.output_len
    of_prefill, of_decode = relative_interval(batch.prefill), relative_interval(batch.decode)
    of_all = relative_interval(summed("", [batch.prefill, batch.decode]))
    # Prompts that end early wait for the others' prefill.
    waited = (prefill_s - batch.mean_finish_s) / prefill_s
    spread = {family: (down * waited, up * waited) for family, (down, up) in batch.prefill.spread.items()}
    waiting = Cost("waiting", prefill_s * waited, spread)
    of_gaps = relative_interval(summed("", [waiting, batch.decode]))
    per_gap_s = time_per_token(e2e_s, ttft_s, batch.output_len)
    median_s, p99_s = _pooled_gaps(batch, (0.5, 0.99))
    slow_s = _slow_step(batch)
    # Where routing draws make steps differ, every sequence of a step sees it.
    p99_s = np.where(np.asarray(batch.decode.variance) > 0, np.maximum(p99_s, slow_s), p99_s)
    per_batch_token_s = (e2e_s - all_first_s) / np.where(tokens_out > 1, tokens_out - 1, np.nan)
    one = gaps / gaps

    first = milliseconds(ttft_s, of_prefill)
    rates = throughputs(batch.batch, batch.batch * batch.input_len, tokens_out, e2e_s)
    return {
        "mean_ttft_ms": first,
        "max_ttft_ms": milliseconds(all_first_s, of_prefill),
        "mean_tpot_ms": milliseconds(per_gap_s, of_gaps),
        "mean_itl_ms": milliseconds(per_gap_s * gaps / steps, of_gaps),
        "median_itl_ms": milliseconds(one * median_s, of_decode),
        "p99_itl_ms": milliseconds(one * p99_s, of_gaps),
        "mean_e2el_ms": ended(first, milliseconds(e2e_s, of_all)),
        **{name: rate(value, of_all) for name, value in rates.items()},
        "itl_per_batch_token_ms": milliseconds(one * per_batch_token_s, of_decode),
        "median_decode_step_ms": milliseconds(one * np.median(batch.decode_step_s, axis=1), of_decode),
        "p99_decode_step_ms": milliseconds(one * slow_s, of_decode),
    }


def _slow_step(batch: StaticBatch) -> Any:
    """The decode step that one in a hundred exceeds: long contexts, and routing that fills one rank."""
    steps_s = batch.decode_step_s
    middle, late = np.median(steps_s, axis=1), np.quantile(steps_s, 0.99, axis=1)
    draws = batch.decode.variance / np.maximum(batch.decode_steps - batch.first_token_is_decoded, 1)
    return middle + np.hypot(late - middle, _NORMAL_99 * np.sqrt(draws))


def _pooled_gaps(batch: StaticBatch, quantiles: tuple[float, ...]) -> list[Any]:
    """Quantiles over every gap of every request: one wait for others' prefill, then a decode step per token."""
    steps_s, stall_s = batch.decode_step_s, batch.stall_s
    gaps = np.maximum(batch.decode_steps - batch.first_token_is_decoded, 1)[:, None]
    first_s = stall_s + steps_s[:, :1]
    values = np.concatenate([first_s, steps_s], axis=1)
    weights = np.empty(values.shape)
    weights[:, : first_s.shape[1]] = 1.0 / first_s.shape[1]
    weights[:, first_s.shape[1] :] = (gaps - 1) / steps_s.shape[1]
    order = values.argsort(axis=1)
    passed = np.take_along_axis(weights, order, axis=1).cumsum(axis=1)
    values = np.take_along_axis(values, order, axis=1)
    last = values.shape[1] - 1
    places = [np.minimum((passed < q * gaps).sum(1, keepdims=True), last) for q in quantiles]
    return [np.take_along_axis(values, place, axis=1)[:, 0] for place in places]
