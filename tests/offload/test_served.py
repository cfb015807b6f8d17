"""Offloaded models under load: the scheduler's steps priced by what is off the GPU."""

import numpy as np
import pytest

import moesim
from moesim.assembly import assemble
from moesim.errors import DoesNotFit, SpecError
from moesim.offload.table import OffloadedTable
from moesim.offload.together import lanes_seconds
from moesim.offload.works import works
from moesim.ops.load import Group
from moesim.steps.table import Composition

SYSTEMS = {
    "vllm-offload": {"cpu_offload_gb": 45 * 2**30},
    "llama-cpp": {"n_cpu_moe": 30},
    "ktransformers": {"experts_on_gpu": 20},
    "custom": {"experts_on_gpu": 30},
}


LOAD = {"input_len": 512, "output_len": 64, "num_prompts": 24}


FEW = LOAD | {"max_concurrency": 2}


def scenario(system, **changes):
    offload = {"system": system, **SYSTEMS.get(system, {}), **changes}
    batch = {"batch_size": 8, "input_len": 512, "output_len": 64}
    return moesim.load("scenarios/offload/vllm_offload_served.yaml").with_(offload=offload, workload=batch)


@pytest.mark.parametrize("system", SYSTEMS)
def test_clients_in_step_wait_as_long_between_tokens_as_a_batch(system):
    asked = scenario(system)
    steps = assemble(asked).steps
    alone = steps.cost("decode", steps.load((Group.decode(8, 544),)), 8).seconds
    served = moesim.predict(asked.with_(workload={**LOAD, "max_concurrency": 8}))
    assert served["median_itl_ms"] == pytest.approx(1e3 * float(alone), rel=0.03)


@pytest.mark.parametrize("system", SYSTEMS)
def test_table_and_tree_agree(system):
    steps = assemble(scenario(system)).steps
    table = OffloadedTable(steps)
    for part in (
        Composition((), 5, 1024, 5),
        Composition(((300, 212),), 5, 700, 6),
        Composition(((100, 0), (90, 5)), 0, 0, 2),
    ):
        name = "prefill" if part.prefills else "decode"
        tree = steps.cost(name, steps.load(part.groups()), part.sampled)
        assert table.time([part]).through == pytest.approx(float(tree.seconds), rel=1e-6)
    between = table.time([Composition((), 5, np.array([900, 1024, 1100]), 5)]).through
    assert between[0] < between[1] < between[2]


@pytest.mark.parametrize("system", SYSTEMS)
def test_many_steps_at_once_are_each_what_it_is_alone(system):
    """Steps in any order, of any number of tokens: none borrows from those beside it."""
    steps = assemble(scenario(system)).steps
    random = np.random.default_rng(3)
    tokens, past = random.integers(1, 5, 200), random.integers(10, 4000, 200)

    def seconds(n, context):
        load = steps.load((Group.decode(n, context),))
        alike = works(steps.plan, steps.requests, steps.around, steps.kinds(load, False), load, False, "decode")
        return np.broadcast_to(lanes_seconds(alike, steps.rules)[0], np.shape(n))

    together = seconds(tokens, past)
    each = [seconds(tokens[i : i + 1], past[i : i + 1]).item() for i in range(0, 200, 10)]
    assert together[::10] == pytest.approx(each, rel=2e-3)


def test_weights_on_the_gpu_leave_less_room_for_sequences():
    rooms = [
        moesim.predict(scenario("custom", experts_on_gpu=n).with_(workload={**LOAD, "max_concurrency": 4})).room
        for n in (10, 30)
    ]
    assert rooms[0].kv_available > rooms[1].kv_available > 0
    assert rooms[0].weights + rooms[0].kv_available == pytest.approx(rooms[1].weights + rooms[1].kv_available)


def test_a_cache_on_the_cpu_takes_nothing_of_the_gpu():
    some, all_but_one = (
        moesim.predict(
            scenario("llama-cpp", n_cpu_moe=None, n_gpu_layers=n).with_(workload={**LOAD, "max_concurrency": 2})
        ).room
        for n in (24, 12)
    )
    assert all_but_one.kv_available > 2 * some.kv_available


def test_what_does_not_fit_under_load_says_so():
    with pytest.raises(DoesNotFit, match="KV cache"):
        moesim.predict(scenario("vllm-offload", cpu_offload_gb=0).with_(workload={**LOAD, "max_concurrency": 4}))
    with pytest.raises(DoesNotFit, match="main memory"):
        small = scenario("vllm-offload", cpu_offload_gb=250 * 2**30).with_(
            model="Mixtral-8x22B-v0.1", host="laptop-ddr5", workload={**LOAD, "max_concurrency": 4}
        )
        moesim.predict(small)


@pytest.mark.parametrize("layers", [0, 1, 47])
def test_a_cache_that_layers_on_the_cpu_share_is_no_larger_than_main_memory(layers):
    room = moesim.predict(scenario("llama-cpp", n_cpu_moe=None, n_gpu_layers=layers).with_(workload=FEW)).room
    host = assemble(scenario("llama-cpp", n_cpu_moe=None, n_gpu_layers=layers)).offload.tiers
    assert 0 < room.kv_available * (1 - layers / 48) <= host.dram_budget - host.dram + 1e9


def test_an_amount_of_its_own_leaves_room_for_those_who_run():
    few, many = (
        moesim.predict(
            scenario("custom").with_(
                offload={"system": "custom"}, max_num_seqs=4, workload={**LOAD, "max_concurrency": n}
            )
        )
        for n in (4, 64)
    )
    assert many["median_itl_ms"] == pytest.approx(few["median_itl_ms"], rel=0.01), "four run, however many wait"
    longer = scenario("custom").with_(offload={"system": "custom"}, max_model_len=8192, workload=FEW)
    assert moesim.predict(longer).room.longest_alone >= 8192


def test_a_fuller_engine_calls_more_experts():
    asked = scenario("vllm-offload")
    tpot = [moesim.predict(asked.with_(workload={**LOAD, "max_concurrency": n}))["median_itl_ms"] for n in (1, 4, 16)]
    assert tpot[0] < tpot[1] < tpot[2]
    per_token = [ms / n for ms, n in zip(tpot, (1, 4, 16), strict=True)]
    assert per_token[0] > per_token[1] > per_token[2], "what one sequence fetched, others use"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offload": {"system": "fiddler"}, "workload": LOAD | {"max_concurrency": 4}}, "one batch after the other"),
        ({"offload": {"system": "custom"}, "workload": LOAD | {"request_rate": 1.0}}, "how much stays on the GPU"),
        (
            {"offload": {"system": "custom", "experts_on_gpu": 20, "cold_start": True}, "workload": FEW},
            "earlier requests have filled",
        ),
        (
            {
                "workload": LOAD | {"max_concurrency": 4},
                "engine": {
                    "speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "acceptance_rate": 0.5}
                },
            },
            "under load",
        ),
    ],
)
def test_what_cannot_serve_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        moesim.predict(scenario("custom").with_(**changes))
