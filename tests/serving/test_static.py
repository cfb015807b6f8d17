"""The static batch: every prompt token is computed once, and metrics keep vLLM's definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import predict
from moesim.assembly import assemble
from moesim.cost.cost import leaf_seconds
from moesim.engines.engine import load_engine
from moesim.ops import attended_pairs
from moesim.serving.static import prefill_chunks, static_batch
from moesim.serving.static_metrics import metrics


@given(batch=st.integers(1, 40), length=st.integers(1, 5000), budget=st.integers(1, 9000))
@settings(max_examples=100, deadline=None)
def test_chunks_compute_every_prompt_token_once(batch, length, budget):
    chunks = prefill_chunks(np.array([batch]), np.array([length]), max(budget, 64))
    per_step = sum(g.sequences * np.where(g.sequences > 0, g.query, 0) for g in chunks.groups)
    assert per_step.sum() == batch * length
    assert per_step.max() <= max(budget, 64)
    assert chunks.finished.sum() == batch
    pairs = sum(float((g.sequences * attended_pairs(g.query, g.past)).sum()) for g in chunks.groups)
    assert pairs == pytest.approx(batch * length * (length + 1) / 2)


def test_metrics_follow_vllm(mixtral):
    parts = assemble(mixtral)
    batch = static_batch(parts.steps, 8, 1024, 64, 8192)
    found = {name: np.asarray(value[0]).item() for name, value in metrics(batch).items()}
    prefill, decode = batch.prefill.seconds, batch.decode.seconds
    assert found["mean_e2el_ms"] == pytest.approx(1e3 * (prefill + decode))
    assert found["mean_ttft_ms"] == pytest.approx(1e3 * prefill)
    assert found["mean_tpot_ms"] == pytest.approx((found["mean_e2el_ms"] - found["mean_ttft_ms"]) / 63)
    assert found["itl_per_batch_token_ms"] == pytest.approx(1e3 * decode / (8 * 64 - 1))
    assert found["total_token_throughput"] == pytest.approx(8 * (1024 + 64) / (prefill + decode))
    assert found["output_throughput"] == pytest.approx(8 * 64 / (prefill + decode))


def test_prompts_of_several_chunks_end_one_after_another(mixtral):
    result = predict(mixtral.with_(batch_size=16, input_len=2048))
    assert 0.5 * result["max_ttft_ms"] < result["mean_ttft_ms"] < 0.8 * result["max_ttft_ms"]


def test_decode_is_integrated_over_context(mixtral):
    short, long = mixtral.with_(output_len=2), mixtral.with_(output_len=8000)
    assert predict(long)["mean_tpot_ms"] > predict(short)["mean_tpot_ms"]
    assert predict(long)["p99_itl_ms"] > predict(long)["median_itl_ms"]


def test_one_output_token_has_no_tpot(mixtral):
    result = predict(mixtral.with_(output_len=1))
    assert result.metrics["mean_tpot_ms"] is None
    assert result["mean_e2el_ms"] == result["max_ttft_ms"]
    assert np.isnan(result["mean_tpot_ms"])


@pytest.mark.parametrize("load", [(32, 2048, 16), (64, 8192, 64), (4, 512, 2)])
def test_gaps_are_pooled_with_the_wait_for_other_prefills(mixtral, load):
    batch, input_len, output_len = load
    result = predict(mixtral.with_(batch_size=batch, input_len=input_len, output_len=output_len))
    assert result["median_itl_ms"] <= result["mean_itl_ms"] * 1.001 <= result["max_ttft_ms"]
    if batch * input_len > 8192:
        assert result["p99_itl_ms"] > result["mean_itl_ms"]


def test_chunked_attention_decodes_at_its_place_in_the_chunk(mixtral):
    scout = mixtral.with_(model="Llama-4-Scout-17B-16E-Instruct", tensor_parallel_size=8, batch_size=1)
    result = predict(scout.with_(input_len=8000, output_len=400))
    names = {leaf.source.rpartition(":")[2] for leaf, _ in leaf_seconds(result.cost.children[1])}
    assert "attention_decode" in names and "attention_prefill" not in names


def test_decode_is_padded_to_captured_sizes():
    padded = load_engine().padded_tokens
    assert padded(np.array([1, 3, 5, 9, 257, 600]), 512).tolist() == [1, 4, 8, 16, 272, 600]
    assert [padded(n, 512) for n in (1, 3, 5, 9, 257, 600)] == [1, 4, 8, 16, 272, 600]
    assert padded(np.array([3]), 0).tolist() == [3]


def test_eager_decode_waits_for_launches(mixtral):
    small = mixtral.with_(model="OLMoE-1B-7B-0924", tensor_parallel_size=1, batch_size=1)
    assert predict(small.with_(enforce_eager=True))["mean_tpot_ms"] > predict(small)["mean_tpot_ms"]


@pytest.mark.parametrize("name", ["batch_size", "input_len"])
def test_more_work_takes_longer(mixtral, name):
    base = getattr(mixtral.workload, name)
    assert predict(mixtral.with_(**{name: 4 * base}))["mean_e2el_ms"] > predict(mixtral)["mean_e2el_ms"]


def test_intervals_hold_the_value(mixtral):
    for name, metric in predict(mixtral).metrics.items():
        assert metric.low < metric.value < metric.high, name
