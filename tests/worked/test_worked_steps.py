"""Steps by hand: what the host adds, what overlap hides, when rows of steps leave a pipeline, what a cycle waits."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim import load_hardware, load_model
from moesim.cost.cost import Cost
from moesim.cost.forms.elementwise import host_seconds, host_work
from moesim.cost.machine import Machine
from moesim.engines.engine import load_engine
from moesim.inputs.routing import Balanced
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops import Host
from moesim.ops.load import Group, Load
from moesim.steps.overlap import half, hidden_seconds, splits
from moesim.steps.pipeline import _row_ends, decode_cycle, prefill_row, waiting, whole_step
from moesim.steps.step import StepModel, kernels_of, one_number

H100 = Machine(load_hardware("h100-sxm"), load_engine())
EXACT = 1e-12


def exactly(x):
    return pytest.approx(x, rel=EXACT)


def rank(plan=None, model="Mixtral-8x7B-v0.1"):
    balanced = Balanced(kind="balanced")
    return Rank(load_model(model), plan or Plan(), 2.0, balanced, load_engine())


# --- the host: 500 us a step, 2 us a sequence, 20 us an operation outside graphs

P = {"t_step": 500e-6, "t_sequence": 2e-6, "t_last_rank": 100e-6, "t_kernel_eager": 20e-6}


@pytest.mark.parametrize(
    ("graph", "ahead", "gpu_us", "waits_us"),
    [
        (True, False, 9999, 500 + 20),  # scheduled after the GPU is done
        (True, True, 300, 520 - 300),  # while it works
        (True, True, 9999, 0),
        (False, False, 300, 520 + 1000 - 300),  # 50 launches run ahead of the GPU
        (False, False, 9999, 520),
        (False, True, 300, 520 + 1000 - 300),
        (False, True, 1200, 320),
        (False, True, 9999, 0),
    ],
)
def test_host(graph, ahead, gpu_us, waits_us):
    op = Host(10, 50, graph, gpu_us * 1e-6, ahead)
    assert host_seconds(P, op, H100.gpu).seconds == pytest.approx(waits_us * 1e-6, rel=EXACT, abs=1e-18)


def test_host_that_only_launches():
    """A later stage of a pipeline schedules nothing."""
    launches = Host(10, 50, False, 300e-6, schedules=False)
    assert host_work(P, launches) == (0, exactly(1000e-6))
    assert host_seconds(P, launches, H100.gpu).seconds == exactly(700e-6)
    assert host_seconds(P, replace(launches, graph=True), H100.gpu).seconds == 0
    assert host_work(P, Host(10, 50, True, 0.0)) == (exactly(520e-6), 0)


def test_the_last_of_eight_ranks_begins_three_doublings_late():
    op = Host(10, 50, True, 1.0, ranks=8)
    assert host_seconds(P, op, H100.gpu).seconds == exactly(520e-6 + 3 * 100e-6)
    assert host_seconds(P, replace(op, ahead=True), H100.gpu).seconds == 0, "queued before the step before it ends"
    assert host_seconds(P, replace(op, ahead=True, gpu_s=500e-6), H100.gpu).seconds == exactly(20e-6)
    assert host_seconds(P, replace(op, schedules=False), H100.gpu).seconds == 0


def test_host_of_many_steps():
    op = Host(np.array([10, 0]), 50, np.array([True, False]), np.array([1.0, 300e-6]))
    assert host_seconds(P, op, H100.gpu).seconds.tolist() == exactly([520e-6, 500e-6 + 700e-6])


def test_launches_one_by_one_are_assumed():
    slow, fast = Host(32, 300, False, 1.0), Host(32, 300, False, 1e-6)
    assert H100.price("host", slow).tag == "fitted" and H100.price("host", fast).tag == "assumed"
    assert H100.price("host", fast).bound == "host"
    assert H100.host_seconds(fast) == exactly(H100.price("host", fast).seconds)


# --- overlap


def dbo(backend="deepep_low_latency"):
    return rank(Plan(dp=8, ep=8, backend=backend, overlap=True))


def decode(tokens):
    return Load((Group.decode(tokens, 100),), tokens, True)


def test_where_a_step_is_split():
    """From 32 tokens of decodes, from 512 where a prompt is among them."""

    def prompt(tokens):
        return Load((Group(1, tokens - 2, 0), Group.decode(2, 100)), tokens, False)

    assert [splits(dbo(), decode(n)) for n in (31, 32, 512)] == [False, True, True]
    assert [splits(dbo(), prompt(n)) for n in (32, 511, 512)] == [False, False, True]
    verify = Load((Group.verify(8, 4, 100),), 32, True)
    assert splits(dbo(), verify)
    assert splits(rank(Plan(dp=8, ep=8, backend="deepep_low_latency")), decode(512)) is False


def test_half_of_a_step():
    load = Load((Group(2, 301, 7), Group.decode(5, 100)), 609, True, 3)
    assert half(load) == Load((Group(1.0, 301, 7), Group.decode(2.5, 100)), 305, True, 3)


def test_what_overlap_hides():
    """Both run until one is done, computing 1.25 times as long and moving 2.8 times; high throughput borrows 20 of 132
    SMs from what computes."""
    # 1 s of moving takes 2.8 s, in which 2.24 s are computed: 6 s in all are done in 4.76.
    assert hidden_seconds(dbo(), 132, 1.0, 5.0) == exactly(1.0 - 0.2 * 2.8)
    # 1 s of computing takes 1.25 s, in which 1.25/2.8 s have moved.
    assert hidden_seconds(dbo(), 132, 5.0, 1.0) == exactly(1.25 / 2.8 - 0.25)
    high = dbo("deepep_high_throughput")
    assert hidden_seconds(high, 132, 3.0, 5.0) == exactly(3 * (1 - 20 / 132))
    assert hidden_seconds(high, 132, 5.0, 3.0) == exactly(3.0), "what computes is slower, and all of it beside"
    both = hidden_seconds(dbo(), 132, np.array([1.0, 5.0]), np.array([5.0, 1.0]))
    assert both == exactly([1.0 - 0.2 * 2.8, 1.25 / 2.8 - 0.25])


def test_a_split_layer_is_two_halves_less_what_is_hidden():
    part = dbo("deepep_high_throughput")
    layer = StepModel(part, H100, 0, False).gpu_costs(part, decode(64), 64)[0]
    moving = sum(2 * c.seconds for c in layer.children if c.name in {"dispatch", "combine"})
    computing = sum(2 * c.seconds for c in layer.children if c.name not in {"dispatch", "combine"} and c.op is not None)
    hidden = layer.children[-1]
    assert hidden.name == "hidden by overlap" and hidden.spread == {} and hidden.count == 1
    assert hidden.seconds == exactly(-min(moving, computing * 132 / 112) * 112 / 132)
    assert layer.seconds == exactly(moving + computing + hidden.seconds)
    assert {c.count for c in layer.children[:-1]} == {2}
    experts = next(c.op for c in layer.children if c.name == "experts")
    assert experts.tokens == 8 * 32


def test_dense_layers_are_not_split():
    """DeepSeek-V3's first three: they exchange nothing."""
    part = Rank(
        load_model("DeepSeek-V3"), Plan(dp=8, ep=8, backend="deepep_low_latency", overlap=True), 2.0,
        Balanced(kind="balanced"), load_engine(),
    )  # fmt: skip
    dense, sparse = StepModel(part, H100, 0, False).gpu_costs(part, decode(64), 64)[:2]
    assert (dense.count, sparse.count) == (3, 58)
    assert {c.count for c in dense.children} == {1} and dense.children[0].op.rows == 64
    assert sparse.children[-1].name == "hidden by overlap" and sparse.children[0].op.rows == 32


# --- rows of steps through stages


def ends(stages, weight=None, point=None):
    many = len(stages[0])
    point = np.zeros(many, int) if point is None else np.array(point)
    weight = np.ones(many) if weight is None else np.array(weight, float)
    return _row_ends([np.array(s, float) for s in stages], point, weight).tolist()


def test_one_stage_runs_steps_in_turn():
    assert ends([[1, 2, 3]]) == [1, 3, 6]
    assert ends([[1, 2, 3]], [1, 4, 2]) == [1, 9, 15]
    assert ends([[1, 2, 3, 4]], point=[0, 0, 1, 1]) == [1, 3, 3, 7]
    assert _row_ends([2.0], np.zeros(3, int), np.array([1.0, 1.0, 2.0])).tolist() == [2, 4, 8]


def test_two_stages_and_three_steps():
    """Enter the second stage when out of the first and it is free: 1-3, 3-4 and 6-7."""
    assert ends([[1, 2, 3], [2, 1, 1]]) == [3, 4, 7]
    # A slow second stage: 1-5, 5-7, 7-8, though the third was ready at 6.
    assert ends([[1, 2, 3], [4, 2, 1]]) == [5, 7, 8]
    # Three stages: leave the second at 3, 4, 7; the third takes 1, 5, 1: 3-4, 4-9, 9-10.
    assert ends([[1, 2, 3], [2, 1, 1], [1, 5, 1]]) == [4, 9, 10]
    assert ends([[1, 2, 3, 1], [2, 1, 1, 2]], point=[0, 0, 0, 1]) == [3, 4, 7, 3], "each row begins at zero"


def test_equal_steps_are_those_written_out():
    random = np.random.default_rng(0)
    for _ in range(200):
        many, stages = random.integers(1, 5), random.integers(1, 5)
        weight, seconds = random.integers(1, 6, many), random.random((stages, many))
        rows = np.repeat(np.arange(many), weight)
        written = ends([s[rows] for s in seconds])
        assert ends(list(seconds), weight) == pytest.approx([written[i] for i in np.cumsum(weight) - 1])


def test_equal_steps_counted_once():
    """Weights as if each step were written out: the first stage sets the pace, or the second after one step."""
    assert ends([[2, 2], [1, 1]], [1, 3]) == [3, 9]
    assert ends([[1, 1, 2], [3, 3, 3]], [1, 4, 1]) == [4, 16, 19]
    written_out = ends([[1, 1, 1, 1, 1, 2], [3, 3, 3, 3, 3, 3]])
    assert [written_out[0], written_out[4], written_out[5]] == [4, 16, 19]


# --- cycles


class Laid:
    """Steps whose costs are laid down: two stages and the host."""

    def __init__(self, stages: list[float], host: float = 0.0, stages_in_plan: int = 2):
        self.rank = SimpleNamespace(plan=SimpleNamespace(pp=stages_in_plan))
        self._stages = [Cost(f"stage {i}", s, {f"f{i}": (0.1 * s, 0.2 * s)}, count=1) for i, s in enumerate(stages)]
        self._host = Cost("host", host, {"host": (0.0, host)})

    def stage_costs(self, load: Any, sampled: Any) -> list[Cost]:
        return self._stages

    def schedule_cost(self, stages: list[Cost], load: Any) -> Cost:
        return self._host


@pytest.mark.parametrize(
    ("in_flight", "idle"),
    [
        (1, 0.0),  # one way through is 3 + 5 + 1
        (2, 1.0),  # twice 5 s, less 9
        (4, 11.0),
    ],
)
def test_idle_of_a_cycle(in_flight, idle):
    cycle = decode_cycle(Laid([3.0, 5.0], 1.0), None, 1, in_flight)
    waits = cycle.children[-1]
    assert [c.name for c in cycle.children] == ["stage 0", "stage 1", "host", "waiting for other micro-batches"]
    assert waits.seconds == idle and cycle.seconds == 9 + idle == max(9.0, 5.0 * in_flight)
    assert waits.bound == "pipeline" and waits.source == "stage 1"
    # As uncertain as the stage waited for.
    assert waits.spread["f1"] == exactly((0.1 * idle, 0.2 * idle))


def test_a_slow_host_is_a_stage():
    cycle = decode_cycle(Laid([3.0, 5.0], 6.0), None, 1, 3)
    assert cycle.children[-1].seconds == 3 * 6 - 14 and cycle.children[-1].source == "host"


def test_waiting_of_nothing():
    assert waiting("x", 2.0, Cost("c", 4.0, {"f": (1.0, 2.0)}), "").spread == {"f": (0.5, 1.0)}
    assert waiting("x", 0.0, Cost("c", 0.0, {"f": (0.0, 0.0)}), "").spread == {"f": (0.0, 0.0)}


def test_a_row_of_prefill_steps():
    """The host is a stage before the first; the slowest stage stands for the step."""
    cost, left = prefill_row(Laid([3.0, 5.0], 1.0), None, 1, np.zeros(2, int), np.ones(2))
    assert left.tolist() == [9.0, 14.0]
    assert [c.name for c in cost.children] == ["stage 1"] and cost.seconds == 5.0


def test_a_whole_step():
    step = whole_step(Laid([3.0, 5.0], 1.0), "step", None, 1)
    assert step.seconds == 9.0 and [c.name for c in step.children] == ["stage 0", "stage 1", "host"]


# --- steps of a model


def test_kernels_and_loads():
    steps = StepModel(rank(), H100, 512, True)
    load = steps.load((Group.decode(17, 100),))
    assert (load.padded_tokens, load.graph, load.tokens) == (24, True, 17)
    most = steps.load((Group(1, 512, 0),))
    assert (most.padded_tokens, most.graph) == (512, True)
    long = steps.load((Group(1, 513, 0),))
    assert (long.padded_tokens, long.graph) == (513, False)
    # Graphs of decodes alone: a step with a prompt is neither padded nor captured.
    alone = StepModel(replace(rank(), graphs_prompts=False), H100, 512, True)
    assert (alone.load((Group.decode(17, 100),)).padded_tokens, alone.load((Group.decode(17, 100),)).graph) == (
        24,
        True,
    )
    mixed = alone.load((Group.decode(17, 100), Group(np.array([0, 1]), 100, 0)))
    assert (mixed.padded_tokens.tolist(), mixed.graph.tolist()) == ([24, 117], [True, False])
    parts = steps.gpu_costs(steps.rank, load, 17)
    # 32 layers of 2 norms, qkv, rope, attention, output, router, top-k, 6 of experts; embedding, norm, head, 4 of
    # sampling.
    assert kernels_of(parts) == 32 * 14 + 7
    split = Cost("l", 1.0, {}, count=3, children=[Cost("a", 1.0, {}, count=2), Cost("h", -1.0, {}, bound="overlap")])
    assert kernels_of([split]) == 6
    assert one_number(np.array([3, 3])) == 3 and one_number(np.array([7])) == 7
    assert one_number(np.array([3, 4])).tolist() == [3, 4]


@pytest.mark.parametrize(("captured", "ahead"), [(512, True), (512, False), (0, True), (0, False)])
def test_host_of_a_step(captured, ahead):
    steps = StepModel(rank(Plan(tp=4, expert_tp=4)), H100, captured, ahead)
    load = steps.load((Group.decode(16, 100),))
    cost = steps.cost("decode", load, 16)
    host = cost.children[-1]
    gpu_s = sum(c.total for c in cost.children[:-1])
    p = H100.family("host")[0].parameters
    # A layer: 8 products and small kernels, two of them all-reduces that do the norms, and 6 of experts; ends: 8.
    launching = 0.0 if captured else (32 * 14 + 8) * p["t_kernel_eager"]
    preparing = p["t_step"] + 16 * p["t_sequence"]
    alone = 2 * p["t_last_rank"] + preparing + max(launching - gpu_s, 0.0)
    assert host.seconds == pytest.approx(max(preparing + launching - gpu_s, 0) if ahead else alone, rel=1e-9, abs=1e-15)
    assert cost.seconds == exactly(gpu_s + host.seconds)


@pytest.mark.parametrize(("ahead", "gpu_us"), [(False, 1.0), (True, 1.0), (True, 1e6)])
def test_schedule_of_a_pipeline(ahead, gpu_us):
    """Composing the step alone: its launches belong to the stages."""
    steps = StepModel(rank(Plan(pp=2)), H100, 0, ahead)
    gpu_s = 2 * gpu_us * 1e-6
    stages = [Cost("stage 0", gpu_s / 2, {}), Cost("stage 1", gpu_s / 2, {})]
    p = H100.family("host")[0].parameters
    preparing = p["t_step"] + 16 * p["t_sequence"]
    found = steps.schedule_cost(stages, steps.load((Group.decode(16, 100),))).seconds
    assert found == pytest.approx(max(preparing - gpu_s, 0.0) if ahead else preparing, rel=1e-12, abs=1e-18)


def test_stages_wait_for_their_own_launches():
    eager, graph = (StepModel(rank(Plan(pp=2)), H100, captured, False) for captured in (0, 512))
    first, last = eager.stage_costs(eager.load((Group.decode(8, 100),)), 8)
    for stage, kernels in ((first, 16 * 9 + 1), (last, 16 * 9 + 3)):
        *parts, launches = stage.children
        assert launches.name == "launches"
        gpu_s = sum(c.total for c in parts)
        each = H100.family("host")[0].parameters["t_kernel_eager"]
        assert launches.seconds == pytest.approx(max(kernels * each - gpu_s, 0.0), rel=1e-9, abs=1e-15)
        assert stage.seconds == exactly(gpu_s + launches.seconds)
    names = [[c.name for c in s.children] for s in graph.stage_costs(graph.load((Group.decode(8, 100),)), 8)]
    assert all("launches" not in of for of in names) and "send_recv" in names[0] and "send_recv" not in names[1]
