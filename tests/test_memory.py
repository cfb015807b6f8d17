"""Memory: the parts add up, blocks follow, and a scenario that does not fit says how to make it fit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import DoesNotFit, load_model, predict
from moesim.assembly import assemble, room_of
from moesim.engines.engine import load_engine
from moesim.inputs.routing import Uniform
from moesim.inputs.scenario import Scenario, Workload
from moesim.memory import kv_bytes_per_token, sequence_kv_bytes, weight_bytes
from moesim.models.plan import Plan
from moesim.models.rank import Rank


def rank(model="Mixtral-8x7B-v0.1", tp=1, weights="bfloat16", kv_bytes=2.0) -> Rank:
    model = load_model(model).formatted(lambda _: weights, lambda _: weights)
    return Rank(model, Plan(tp=tp, expert_tp=tp), kv_bytes, Uniform(), load_engine())


def scenario(model="Mixtral-8x7B-v0.1", hardware="h100-sxm", batch=8, isl=2048, osl=512, **changes) -> Scenario:
    base = Scenario(model=model, hardware=hardware, workload=Workload(batch_size=batch, input_len=isl, output_len=osl))
    return base.with_(**changes) if changes else base


def test_weights_of_one_rank_are_the_whole_model():
    assert weight_bytes(rank()) == 2 * load_model("Mixtral-8x7B-v0.1").parameters
    assert weight_bytes(rank("DeepSeek-V2-Lite")) == 2 * load_model("DeepSeek-V2-Lite").parameters


@pytest.mark.parametrize("model", ["Mixtral-8x7B-v0.1", "Qwen3-30B-A3B", "gpt-oss-120b", "DeepSeek-V2-Lite"])
def test_sharding_splits_weights_and_replicates_what_cannot_be_split(model):
    whole, half = weight_bytes(rank(model)), weight_bytes(rank(model, 2))
    assert 0.5 * whole <= half < 0.52 * whole


def test_kv_heads_replicate_once_tp_exceeds_them():
    assert kv_bytes_per_token(rank("Qwen3-30B-A3B", 4)) == 98304 / 4
    assert kv_bytes_per_token(rank("Qwen3-30B-A3B", 8)) == 98304 / 4


def test_the_latent_cache_is_whole_on_every_rank():
    assert kv_bytes_per_token(rank("DeepSeek-V3", 8)) == 70272


def test_fp8_cache_is_half():
    assert kv_bytes_per_token(rank(kv_bytes=1.0)) == 131072 / 2


def test_windows_cap_the_cache():
    oss = rank("gpt-oss-120b")
    short, long = (float(sequence_kv_bytes(oss, n, 16)) for n in (128, 131072))
    assert short == 128 * 73728
    assert long == 131072 * 73728 / 2 + 144 * 73728 / 2


def test_room_adds_up():
    case = scenario(tensor_parallel_size=4)
    room = room_of(case, assemble(case))
    spent = room.weights + room.activations + room.cuda_graphs + room.communication + room.other
    assert room.kv_available == pytest.approx(room.usable - spent)
    assert room.kv_blocks == int(room.kv_available // (16 * 32768))
    assert room.usable == pytest.approx(0.92 * room.total)


@given(batch=st.integers(1, 400), isl=st.integers(1, 30000))
@settings(max_examples=40, deadline=None)
def test_limits_are_tight(batch, isl):
    case = scenario(batch=batch, isl=isl, osl=16, tensor_parallel_size=4)
    parts = assemble(case)
    room = room_of(case, parts)
    assert room.fits == (batch <= room.largest_batch)
    if room.fits:
        assert room.longest_context >= isl + 16


def test_does_not_fit_says_by_how_much_and_what_would():
    with pytest.raises(DoesNotFit) as caught:
        predict(scenario())
    error = caught.value
    assert error.shortfall_bytes > 10 * 2**30
    assert "tensor_parallel_size 2" in error.ways_out
    assert "quantization fp8" in error.ways_out
    for way in error.ways_out:
        name, value = way.rsplit(" ", 1)
        predict(scenario(**{name: int(value) if value.isdigit() else value}))


def test_too_many_sequences_is_another_failure_with_another_way_out():
    with pytest.raises(DoesNotFit, match="KV cache of 900 sequences") as caught:
        predict(scenario(batch=900, tensor_parallel_size=4))
    batch = next(w for w in caught.value.ways_out if w.startswith("batch_size"))
    predict(scenario(batch=int(batch.split()[1]), tensor_parallel_size=4))


def test_vllm_starts_only_where_one_longest_sequence_fits():
    from moesim.report.text import prediction_text

    scout = scenario("Llama-4-Scout-17B-16E-Instruct", "h200", isl=1024, osl=16, tensor_parallel_size=4)
    assert "vLLM starts only with --max-model-len up to" in prediction_text(predict(scout))
    assert "vLLM starts only" not in prediction_text(predict(scout.with_(max_model_len=100_000)))


@pytest.mark.parametrize("none", [{"enforce_eager": True}, {"cudagraph_mode": "none"}])
def test_no_graphs_free_the_graph_pool(none):
    graphs, without = scenario(tensor_parallel_size=4), scenario(tensor_parallel_size=4, **none)
    assert room_of(without, assemble(without)).cuda_graphs == 0
    assert room_of(without, assemble(without)).kv_available > room_of(graphs, assemble(graphs)).kv_available
