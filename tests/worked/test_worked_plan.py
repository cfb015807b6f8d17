"""Groups of a parallel plan by hand: how many GPUs, who belongs together, how requests are shared out."""

from __future__ import annotations

from moesim.engines.settings import EngineSettings
from moesim.models.plan import Plan


def test_sizes():
    assert Plan(tp=2, pp=3, dp=4).world == 24 and Plan().world == 1
    assert [Plan(dp=4).share(n) for n in (1, 4, 5, 8, 9)] == [1, 1, 2, 2, 3], "the fullest replica's requests"
    assert Plan(pp=4).in_flight(10) == 4 and Plan(pp=4).in_flight(3) == 3
    assert Plan(pp=4, micro_batches=8).in_flight(10) == 8
    assert Plan(pp=4, dp=2, micro_batches=8).in_flight(10) == 5


def test_who_exchanges():
    assert Plan(dp=2, ep=2).exchanges and not Plan(dp=2, expert_tp=2).exchanges and not Plan(tp=2, ep=2).exchanges
    assert not Plan(dp=2, ep=2).deepep and Plan(dp=2, ep=2, backend="deepep_low_latency").deepep
    assert not Plan(dp=2, expert_tp=2, backend="deepep_low_latency").deepep


def test_members():
    """Two ranks a tensor group, three stages, two replicas: rank = tp + 2 pp + 6 dp."""
    plan = Plan(tp=2, pp=3, dp=2)
    assert plan.members("tp") == (0, 1) and plan.members("pp") == (0, 2, 4) and plan.members("dp") == (0, 6)
    assert plan.members("tp", "dp") == (0, 1, 6, 7)
    assert plan.coordinates(9) == {"tp": 1, "pp": 1, "dp": 1}
    turned = Plan(tp=2, pp=3, dp=2, rank_order=("pp", "dp", "tp"))
    assert turned.members("tp") == (0, 6) and turned.members("pp") == (0, 1, 2) and turned.members("dp") == (0, 3)


def test_plans_of_settings():
    """Experts are sliced over TP x DP, or shared out whole among as many; or both."""

    def sizes(**settings):
        plan = Plan.of(EngineSettings(**settings))
        return plan.tp, plan.pp, plan.dp, plan.ep, plan.expert_tp

    eight = {"tensor_parallel_size": 2, "data_parallel_size": 4}
    assert sizes() == (1, 1, 1, 1, 1)
    assert sizes(**eight, pipeline_parallel_size=3) == (2, 3, 4, 1, 8)
    assert sizes(**eight, enable_expert_parallel=True) == (2, 1, 4, 8, 1)
    assert sizes(**eight, enable_expert_parallel=True, expert_tensor_parallel_size=2) == (2, 1, 4, 4, 2)
    assert Plan.of(EngineSettings(**eight)).backend == "allgather_reducescatter"
    assert not Plan.of(EngineSettings(enable_expert_parallel=True)).expert_parallel, "one rank shares with nobody"
