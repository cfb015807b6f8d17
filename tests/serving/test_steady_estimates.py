"""The closed form where it is an estimate: it says so, and stays near the simulation."""

import pytest

import moesim
from moesim.assembly import assemble
from moesim.inputs.model_of import seen
from moesim.memory import fullest_stage
from moesim.prediction import predict
from moesim.serving.engine import front_end, scheduler_limits
from moesim.serving.steady import cache_seats, steady_state


@pytest.fixture(scope="module")
def served():
    return moesim.load("scenarios/mixtral_tp4.yaml").with_(
        max_concurrency=32, input_len=1024, output_len=256, num_prompts=320
    )


def estimate(scenario):
    scenario = seen(scenario)
    parts, load = assemble(scenario), scenario.workload
    fullest = fullest_stage(parts.rank, parts.hardware, parts.limits)
    limits = scheduler_limits(scenario.engine, parts.limits, fullest[0])
    front = front_end(parts.steps.resident, scenario.engine, load)
    return steady_state(parts.steps, limits, cache_seats(fullest, parts.limits.block_size, load), load, front)


@pytest.mark.parametrize(
    ("change", "doubt", "within"),
    [
        ({"pipeline_parallel_size": 2, "tensor_parallel_size": 2}, "pipeline", 0.25),
        ({"max_num_seqs": 8}, "seats", 0.25),
        ({"input_len": 4096, "output_len": 64}, "prompts take", 0.35),
    ],
)
def test_a_doubtful_steady_state_says_why_and_is_near_the_simulation(served, change, doubt, within):
    scenario = served.with_(**change)
    state, run = estimate(scenario), predict(scenario)
    assert doubt in state.doubt
    for name, value in (
        ("output_throughput", state.request_rate * scenario.workload.output_len),
        ("mean_tpot_ms", 1e3 * state.tpot_s),
        ("mean_e2el_ms", 1e3 * state.e2el_s),
    ):
        assert value == pytest.approx(run[name], rel=within), name


def test_little_s_law_holds_where_requests_queue_for_seats(served):
    state = estimate(served.with_(max_num_seqs=8))
    assert state.limited_by == "engine"
    assert state.request_rate * state.e2el_s == pytest.approx(32, rel=1e-6)
    assert state.running == pytest.approx(8)


def test_arrivals_beyond_the_engine_are_told(served):
    state = estimate(served.with_(request_rate=1000.0, max_concurrency=None, num_prompts=1000))
    assert state.limited_by == "engine"
    assert state.request_rate < 1000


def test_prices_are_shared_by_loads(served):
    from moesim.serving.priced_steps import PricedSteps, nodes_up_to

    scenario = seen(served)
    parts = assemble(scenario)
    fullest = fullest_stage(parts.rank, parts.hardware, parts.limits)
    limits = scheduler_limits(scenario.engine, parts.limits, fullest[0])
    front = front_end(parts.steps.resident, scenario.engine, scenario.workload)
    priced = PricedSteps(parts.steps, limits, nodes_up_to(64), scenario.workload)
    seats = cache_seats(fullest, parts.limits.block_size, scenario.workload)
    for clients in (4, 32):
        load = scenario.workload.model_copy(update={"max_concurrency": clients, "num_prompts": None})
        apart = steady_state(parts.steps, limits, seats, load, front)
        shared = steady_state(parts.steps, limits, seats, load, front, priced)
        assert shared.e2el_s == pytest.approx(apart.e2el_s, rel=0.02)


def test_clients_beyond_what_a_rate_needs_change_nothing(served):
    """A rate under a cap that is never reached comes at random, as one without a cap."""
    # As many seats, so that steps are priced at the same numbers of sequences.
    seats = served.with_(max_num_seqs=256, request_rate=2.0)
    open_loop, capped = estimate(seats.with_(max_concurrency=None)), estimate(seats.with_(max_concurrency=256))
    assert capped.limited_by == "rate" and capped.idle_share > 0.01
    for name in ("ttft_s", "tpot_s", "idle_share", "running", "request_rate"):
        assert getattr(capped, name) == pytest.approx(getattr(open_loop, name), rel=1e-6), name
