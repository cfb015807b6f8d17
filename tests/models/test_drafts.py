"""What drafts for a model: its parameters, its bytes, its passes."""

from __future__ import annotations

import pytest

from moesim.assembly import assemble
from moesim.engines.speculation import SpeculativeConfig
from moesim.errors import SpecError
from moesim.inputs.scenario import Scenario, Workload
from moesim.memory import kv_bytes_per_token, weight_bytes
from moesim.models.catalogue import load_model
from moesim.models.drafts import drafted


def config(method, drafts=3, **more):
    return SpeculativeConfig(method=method, num_speculative_tokens=drafts, acceptance_rate=0.5, **more)


def scenario(model, speculative, **settings):
    load = Workload(batch_size=4, input_len=512, output_len=64)
    base = Scenario(model=model, hardware="h200-sxm", workload=load).with_(**settings)
    return base.with_(engine__speculative_config=speculative)


def test_an_mtp_layer_is_a_layer_of_the_target_and_a_product():
    target = load_model("DeepSeek-V3")
    draft, owns, note = drafted(target, config("mtp"))
    assert draft is not None and not owns and not note
    hidden, last = target.hidden_size, target.layers[-1]
    parameters = sum(group.parameters(hidden) for group in draft.layers)
    joined = 2 * hidden * hidden + 2 * hidden
    assert parameters == last.parameters(hidden) // last.count + joined + hidden
    # The published MTP module of DeepSeek-V3 has 11.5 billion parameters beside the shared embedding and head.
    assert parameters == pytest.approx(11.5e9, rel=0.01)


@pytest.mark.parametrize("model", ["Mixtral-8x7B-v0.1", "gpt-oss-120b"])
def test_a_model_without_such_a_layer_is_refused(model):
    with pytest.raises(SpecError, match="has no layer that predicts further tokens"):
        drafted(load_model(model), config("mtp"))


@pytest.mark.parametrize(
    "model", ["GLM-4.5-Air", "Qwen3.5-35B-A3B", "NVIDIA-Nemotron-3-Super-120B-A12B", "MiniMax-M3", "Step-3.7-Flash"]
)
def test_every_kind_of_model_drafts_with_its_own_layer(model):
    draft, _, _ = drafted(load_model(model), config("mtp"))
    assert draft is not None and draft.moe is not None
    assert any(block.attention_heads for block in draft.layers[0].blocks)


def test_an_eagle_head_that_nothing_describes_is_built_and_said_so():
    target = load_model("Meta-Llama-3.1-70B")
    head, owns, note = drafted(target, config("eagle"))
    assert head is not None and not owns and "as no model is named" in note
    # Published EAGLE heads of 70 billion parameters: one layer and a product of two rows, 0.99 billion.
    assert sum(group.parameters(8192) for group in head.layers) == pytest.approx(0.99e9, rel=0.01)


def test_an_eagle3_head_has_a_small_vocabulary_of_its_own():
    head, owns, _ = drafted(load_model("Meta-Llama-3.1-8B"), config("eagle3"))
    assert head is not None and owns and head.vocab_size == 32_000


def test_drafts_take_memory():
    plain = assemble(scenario("Qwen3-30B-A3B", None)).rank
    rank = assemble(scenario("Qwen3-30B-A3B", config("draft_model", model="Qwen3-1.7B"))).rank
    alone = assemble(scenario("Qwen3-1.7B", None)).rank
    assert weight_bytes(rank) == weight_bytes(plain) + weight_bytes(alone)
    assert kv_bytes_per_token(rank) == kv_bytes_per_token(plain) + kv_bytes_per_token(alone)


def test_shared_embeddings_are_not_held_twice():
    plain = assemble(scenario("DeepSeek-V3", None, tensor_parallel_size=8)).rank
    rank = assemble(scenario("DeepSeek-V3", config("mtp"), tensor_parallel_size=8)).rank
    more = weight_bytes(rank) - weight_bytes(plain)
    # Experts in fp8 shared by eight ranks, the joining product whole in bfloat16.
    assert more == pytest.approx(11.5e9 / 8 + 2 * 2 * 7168**2, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "draft_model", "model": "Meta-Llama-3.1-8B"}, "must have the target's"),
        ({"method": "draft_model", "model": "t5-11b"}, "tokens"),
        ({"method": "draft_model", "model": "Qwen3-0.6B", "draft_tensor_parallel_size": 3}, "neither 1 nor"),
        ({"method": "mtp"}, "has no layer that predicts further tokens"),
        ({"method": "draft_model", "model": "nobodys"}, "neither in the catalogue"),
        ({"method": "draft_model"}, "needs 'model'"),
    ],
)
def test_drafts_that_cannot_be(changes, said):
    data = {"num_speculative_tokens": 2, "acceptance_rate": 0.5, **changes}
    with pytest.raises(SpecError, match=said):
        scenario("Qwen3-30B-A3B", data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "measured, not predicted"),
        ({"acceptance_rate": 0.5, "acceptance_length": 2.0}, "say the same thing"),
        ({"acceptance_rates": [0.5]}, "has 1 places for 2 drafts"),
        ({"acceptance_rates": [0.5, 0.6]}, "rise"),
        ({"acceptance_length": 3.5}, "more than 2 drafts and one give"),
        ({"acceptance_rate": 1.5}, "less than or equal to 1"),
        ({"acceptance_rate": 0.5, "prompt_lookup_min": 5, "prompt_lookup_max": 2}, "prompt_lookup_min is above"),
    ],
)
def test_acceptance_is_said_once_and_makes_sense(data, said):
    with pytest.raises(SpecError, match=said):
        scenario("Qwen3-30B-A3B", {"method": "ngram", "num_speculative_tokens": 2, **data})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pipeline_parallel_size": 2}, "one pipeline stage alone"),
        ({"version": "0.14"}, "has no draft_model"),
        ({"max_num_batched_tokens": 512, "max_num_seqs": 512}, "leaves no token beside"),
    ],
)
def test_engines_that_cannot(settings, said):
    with pytest.raises(SpecError, match=said):
        scenario("Qwen3-30B-A3B", config("draft_model", model="Qwen3-0.6B"), **settings)


def test_ngrams_schedule_nothing_ahead():
    assert not assemble(scenario("Qwen3-30B-A3B", config("ngram"))).limits.async_scheduling
    assert assemble(scenario("Qwen3-30B-A3B", config("eagle"))).limits.async_scheduling
    with pytest.raises(SpecError, match="schedules nothing ahead under ngram"):
        scenario("Qwen3-30B-A3B", config("ngram"), async_scheduling=True)
    asked = scenario("Qwen3-30B-A3B", config("draft_model", model="Qwen3-0.6B"), async_scheduling=True)
    assert assemble(asked).limits.async_scheduling
