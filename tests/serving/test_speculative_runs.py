"""Speculation in static batches, in the steady state and under load: its limits, and that the three agree."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.assembly import assemble
from moesim.engines.draws import drafts_kept
from moesim.engines.speculation import geometric, rounds, tokens_a_round
from moesim.errors import SpecError
from moesim.explore.speculation import speculation
from moesim.inputs.scenario import Scenario, Workload
from moesim.prediction import predict, predict_steady
from moesim.serving.engine import step_table
from moesim.steps.table import Composition

STATIC = Workload(batch_size=8, input_len=512, output_len=200)
CLOSED = Workload(max_concurrency=8, num_prompts=160, input_len=512, output_len=200)
DRAFT = {"method": "draft_model", "model": "Qwen3-0.6B"}


def scenario(load=STATIC, **settings):
    base = Scenario(model="Qwen3-30B-A3B", hardware="h200-sxm", workload=load)
    return base.with_(**settings) if settings else base


def drafting(drafts, rate, load=STATIC, kind=DRAFT, **settings):
    config = {**kind, "num_speculative_tokens": drafts, "acceptance_rate": rate}
    return scenario(load, engine__speculative_config=config, **settings)


@pytest.mark.parametrize("load", [STATIC, CLOSED])
def test_no_drafts_is_no_speculation(load):
    plain, found = predict(scenario(load)), predict(drafting(0, 0.7, load))
    assert found.metrics == plain.metrics and found.memory == plain.memory


@pytest.mark.parametrize("kind", [DRAFT, {"method": "ngram"}, {"method": "eagle3"}, {"method": "medusa"}])
@pytest.mark.parametrize("load", [STATIC, CLOSED])
def test_drafts_that_are_never_kept_never_win(kind, load):
    plain, found = predict(scenario(load)), predict(drafting(3, 0.0, load, kind))
    for name in ("mean_tpot_ms", "mean_e2el_ms", "mean_itl_ms"):
        assert found[name] >= plain[name]
    assert found["output_throughput"] <= plain["output_throughput"]


@pytest.mark.parametrize("load", [STATIC, CLOSED])
def test_more_acceptance_never_slows(load):
    found = [predict(drafting(3, rate, load))["mean_tpot_ms"] for rate in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert found == sorted(found, reverse=True)


def test_a_step_is_as_long_however_many_are_kept():
    few, many = predict(drafting(3, 0.2)), predict(drafting(3, 0.9))
    assert few["median_itl_ms"] == pytest.approx(many["median_itl_ms"], rel=0.01)
    assert few["mean_ttft_ms"] == many["mean_ttft_ms"]


def test_tpot_is_the_round_over_its_tokens():
    found = predict(drafting(3, 0.7))
    expected = found["median_itl_ms"] * rounds(geometric(0.7, 3), 199) / 199
    assert found["mean_tpot_ms"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", [DRAFT, {"method": "eagle"}, {"method": "ngram"}])
@pytest.mark.parametrize("rate", [0.4, 0.8])
def test_static_steady_and_simulated_agree(kind, rate):
    static = predict(drafting(3, rate, STATIC, kind))
    served = predict(drafting(3, rate, CLOSED, kind))
    steady = predict_steady(drafting(3, rate, CLOSED, kind))
    # Under load others' prompts come between.
    assert 1.0 <= served["mean_tpot_ms"] / static["mean_tpot_ms"] < 1.15
    assert steady["mean_tpot_ms"] == pytest.approx(served["mean_tpot_ms"], rel=0.03)
    assert steady["mean_itl_ms"] == pytest.approx(served["mean_itl_ms"], rel=0.03)
    assert steady["output_throughput"] == pytest.approx(served["output_throughput"], rel=0.04)


@pytest.mark.parametrize("ahead", [True, False])
def test_stretches_change_nothing(ahead, monkeypatch):
    """Steps priced in one go and one by one: draws hang on the request and its round alone."""
    from moesim.serving import simulation

    settings = {"async_scheduling": ahead}
    kind = {"method": "eagle"}
    fast = {rate: predict(drafting(3, rate, CLOSED, kind, **settings)) for rate in (0.0, 0.6, 1.0)}
    monkeypatch.setattr(simulation, "_SHORTEST_STRETCH", 1 << 30)
    for rate, found in fast.items():
        slow = predict(drafting(3, rate, CLOSED, kind, **settings))
        for name in ("mean_tpot_ms", "mean_ttft_ms", "output_throughput"):
            assert found[name] == pytest.approx(slow[name], rel=1e-6), (rate, name)
        assert found.report.steps == slow.report.steps
        assert found.report.output_tokens == slow.report.output_tokens == 160 * 200


@pytest.mark.parametrize(("count", "rate", "output"), [(3, 0.7, 8), (5, 0.8, 16)])
def test_short_answers_take_the_rounds_they_should(count, rate, output):
    """Draws are the geometric law's, and none is thrown away because it would end an answer."""
    load = Workload(max_concurrency=1, num_prompts=600, input_len=64, output_len=output)
    found = predict(drafting(count, rate, load, {"method": "ngram"})).report
    expected = 600 * rounds(geometric(rate, count), output - 1)
    assert found.steps - 600 == pytest.approx(expected, rel=0.02)


def test_a_static_batch_has_room_for_its_drafts():
    room = {"max_num_batched_tokens": 1024, "max_num_seqs": 512}
    fits = Workload(batch_size=250, input_len=64, output_len=16)
    predict(drafting(3, 0.7, fits, {"method": "ngram"}, **room))
    with pytest.raises(SpecError, match="checks 2048 tokens in a step, own and drafted, where 1024 fit"):
        drafting(3, 0.7, fits.model_copy(update={"batch_size": 512}), {"method": "ngram"}, **room)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"method": "ngram", "model": "nothere"}, "ngram runs no model"),
        ({"method": "eagle", "prompt_lookup_max": 4}, "only under ngram, not eagle"),
        ({"method": "eagle", "model": "Qwen3-1.7B"}, "has 28 layers, so it is no eagle head; draft_model runs it"),
        ({"method": "eagle", "model": "/nowhere/config.json"}, None),
    ],
)
def test_settings_of_another_method(config, said):
    if said is None:
        assert "no config of /nowhere" in " ".join(predict(drafting(2, 0.7, STATIC, config)).knowledge.notes)
        return
    with pytest.raises(SpecError, match=said):
        drafting(2, 0.7, STATIC, config)


def test_draws_are_even_and_apart():
    request, number = np.arange(200)[:, None], np.arange(500)
    drawn = drafts_kept((0.9, 0.5, 0.1), request, number)
    for least, chance in ((1, 0.9), (2, 0.5), (3, 0.1)):
        assert (drawn >= least).mean() == pytest.approx(chance, abs=0.005)
    once = (drawn >= 2).astype(float) - 0.5
    assert abs((once[:, 1:] * once[:, :-1]).mean()) < 0.002 and abs((once[1:] * once[:-1]).mean()) < 0.002


@pytest.mark.parametrize("kind", [DRAFT, {"method": "eagle3"}, {"method": "medusa"}, {"method": "ngram"}])
def test_table_and_tree_agree(kind):
    steps = assemble(drafting(3, 0.7, kind=kind)).steps
    table = step_table(steps)
    for part in (Composition((), 6, 700.0, 6, 18), Composition(((300, 64),), 6, 700.0, 7, 18)):
        tree = steps.cost("step", steps.load(part.groups()), part.sampled)
        assert float(table.time([part]).through) == pytest.approx(float(tree.seconds), rel=1e-9)


def test_a_check_runs_all_drafts_through_the_experts():
    steps = assemble(drafting(3, 0.7, kind={"method": "ngram"})).steps
    load = steps.load((steps.rank.decoding(8, 700),))
    tree = steps.cost("decode", load, 8)
    experts = next(c for layer in tree.children for c in layer.children if c.name == "experts")
    head = next(c for part in tree.children for c in part.children if c.name == "lm_head")
    assert experts.op.tokens == 32 and head.op.m == 32


def test_drafts_leave_less_of_the_budget():
    """A draft model's extra row is kept free for every sequence there may be, from 0.17 on (vLLM's scheduler)."""
    from moesim.serving.engine import scheduler_limits

    def budget(**more):
        found = drafting(3, 0.7, **more)
        parts = assemble(found)
        return scheduler_limits(found.engine, parts.limits, parts.rank).max_num_batched_tokens

    assert budget() == 8192 - 1024
    assert budget(version="0.15") == 8192
    assert budget(kind={"method": "eagle"}) == 8192


def test_break_even_at_a_load():
    found = speculation(predict(drafting(3, 0.7)))
    assert found is not None
    here = found.here
    assert here.tokens == pytest.approx(tokens_a_round(geometric(0.7, 3)))
    assert here.pays_above == pytest.approx(here.seconds / found.plain_s)
    assert [r.drafts for r in found.tried] == list(range(1, 9))
    # At exactly the acceptance that it needs, a draft neither wins nor loses.
    tie = predict(drafting(3, here.rate_needed))
    assert tie["mean_tpot_ms"] == pytest.approx(predict(scenario())["mean_tpot_ms"], rel=0.01)


def test_large_drafts_of_a_small_mixture_cannot_win_alone():
    """Qwen3-30B-A3B reads 3 billion weights a token: with all drafts kept one of 8 billion loses, one of 4 ties."""
    one = Workload(batch_size=1, input_len=512, output_len=200)
    gain = {}
    for name in ("Qwen3-1.7B", "Qwen3-4B", "Qwen3-8B"):
        found = speculation(predict(drafting(3, 1.0, one, {"method": "draft_model", "model": name})))
        assert found is not None
        gain[name] = 4.0 / found.here.pays_above
    assert gain["Qwen3-8B"] < 0.8 < gain["Qwen3-4B"] < 1.05 < gain["Qwen3-1.7B"] < 1.6


def test_a_latched_acceptance_is_told_with_its_source():
    config = {"method": "ngram", "num_speculative_tokens": 2, "acceptance_length": 1.8, "acceptance_source": "a log"}
    found = predict(scenario(engine__speculative_config=config))
    assert any("a log" in note for note in found.knowledge.notes)
    assert found["mean_itl_ms"] / found["mean_tpot_ms"] == pytest.approx(1.8, rel=0.01)


@pytest.mark.parametrize("method", ["draft_model", "eagle"])
def test_plans_capacity_and_search_speculate(method):
    from moesim.explore.capacity import capacity
    from moesim.explore.plans import plans
    from moesim.explore.search.best import search
    from moesim.serving.report import Slo

    kind = DRAFT if method == "draft_model" else {"method": method}
    fast = drafting(3, 0.9, CLOSED, kind)
    slo = Slo(tpot_s=0.008)
    found = capacity(fast, slo)
    assert found.value > capacity(scenario(CLOSED), slo).value
    ranked = plans(drafting(3, 0.9, STATIC, kind, tensor_parallel_size=2), 2)
    assert ranked[0].prediction is not None and all(c.prediction is None or c.plan.pp == 1 for c in ranked)
    one = Workload(batch_size=1, input_len=64, output_len=32)
    small = drafting(3, 0.9, one, kind, hardware="rtx-4090")
    plain = Scenario(model="Qwen3-30B-A3B", hardware="rtx-4090", workload=one)
    drafts, alone = (search(s, systems=("fiddler",), minimize="tpot").best for s in (small, plain))
    assert drafts and alone and drafts.values["tpot"] < alone.values["tpot"]
