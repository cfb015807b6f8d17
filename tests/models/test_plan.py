"""Plans: what must hold whatever the numbers, golden bytes, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import SpecError, load_hardware, load_model, predict
from moesim.assembly import assemble
from moesim.cost.forms import collective
from moesim.cost.gpu import GpuNumbers
from moesim.cost.machine import Machine
from moesim.engines.engine import load_engine
from moesim.hardware.topology import Route, route
from moesim.inputs.routing import Balanced, Uniform, Zipf
from moesim.inputs.scenario import Scenario, Workload
from moesim.memory import low_latency_buffer_bytes, weight_bytes
from moesim.models.frame import Frame
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops import Collective, ExpertAllToAll
from moesim.ops.all_to_all import distinct_places
from moesim.ops.load import Group, Load
from moesim.paths import CLUSTERS

MIXTRAL, QWEN = "Mixtral-8x7B-v0.1", "Qwen3-30B-A3B"


def scenario(model=QWEN, hardware="dgx-h100", batch=64, isl=256, osl=16, **changes) -> Scenario:
    base = Scenario(model=model, hardware=hardware, workload=Workload(batch_size=batch, input_len=isl, output_len=osl))
    return base.with_(**changes) if changes else base


def rank(model, plan, routing=None) -> Rank:
    return Rank(load_model(model), plan, 2.0, routing or Uniform(), load_engine())


def operations(model, plan, tokens=64, routing=None):
    part = rank(model, plan, routing)
    layers = next(g for g in part.model.layers if g.routed is not None)
    load = Load((Group.decode(tokens, 100),), np.asarray(tokens), True)
    return dict(layers.operations(Frame(part, load)))


# --- one GPU


def test_a_plan_of_ones_is_the_single_gpu_prediction_exactly():
    alone, ones = scenario(hardware="h100-sxm"), scenario(hardware="h100-sxm", tp=1, pp=1, dp=1, ep=True)
    assert Plan.of(ones.engine) == Plan()
    assert predict(alone).metrics == predict(ones).metrics
    assert predict(scenario(hardware="dgx-h100")).metrics == predict(alone).metrics, "a node around it changes nothing"


def test_one_rank_sends_nothing():
    for kind in ("all_reduce", "all_gather", "reduce_scatter", "alltoall"):
        assert Collective(1e6, 1, kind).link_bytes == 0
    for backend in ("deepep_low_latency", "deepep_high_throughput"):
        op = ExpertAllToAll(backend, "dispatch", 64, 2048, 8, 128, 1)
        assert op.link_bytes == 0 and op.node_bytes == 0
    assert not any(isinstance(op, (Collective, ExpertAllToAll)) for op in operations(QWEN, Plan()).values())


# --- bytes


def test_distinct_places_of_the_formula_card():
    assert distinct_places(8, 256, 8) == pytest.approx(8 * (1 - np.prod([(224 - i) / (256 - i) for i in range(8)])))
    assert distinct_places(1, 64, 8) == 1
    assert distinct_places(64, 64, 8) == pytest.approx(8), "an expert a rank: every pick is another rank"
    assert distinct_places(8, 256, 8, 8, 4) <= 4, "node-limited routing"
    assert distinct_places(8, 256, 8, 8, 8) == pytest.approx(distinct_places(8, 256, 8))


def test_node_limited_routing_against_drawing():
    random, nodes, ranks = np.random.default_rng(0), [], []
    for _ in range(4000):
        groups = random.permutation(8)[:4]
        picks = random.choice(np.concatenate([np.arange(32) + 32 * g for g in groups]), 8, replace=False)
        nodes.append(len(set(picks // 64)))
        ranks.append(len(set(picks // 8)))
    assert distinct_places(4, 256, 8, 8, 4) == pytest.approx(np.mean(nodes), rel=0.01)
    assert distinct_places(32, 256, 8, 8, 4) == pytest.approx(np.mean(ranks), rel=0.01)


def test_dispatch_bytes_of_the_formula_card():
    """N k H b (1 - 1/G), the combine the same in bfloat16; low latency adds a 16-byte header a copy."""
    op = ExpertAllToAll("deepep_low_latency", "combine", 128, 7168, 8, 256, 8)
    assert op.link_bytes == pytest.approx(128 * 8 * (7168 * 2 + 16) * 7 / 8)
    fp8 = ExpertAllToAll("deepep_low_latency", "dispatch", 128, 7168, 8, 256, 8, bytes_per_element=1.0)
    assert fp8.token_bytes == 7168 + 7168 / 128 * 4 + 16


def test_between_nodes_a_token_is_sent_once_a_node():
    op = ExpertAllToAll("deepep_high_throughput", "combine", 1.0, 1.0, 8, 256, 32, nodes=4)
    assert op.node_bytes == pytest.approx(distinct_places(4, 256, 8) * 3 / 4 * 2.0)
    assert op.node_bytes < ExpertAllToAll("deepep_low_latency", "combine", 1.0, 1.0, 8, 256, 32, nodes=4).node_bytes


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 4096), dp=st.sampled_from([2, 4, 8]), tp=st.sampled_from([1, 2, 4]))
def test_bytes_sent_equal_bytes_received(tokens, dp, tp):
    """What ranks gather together is what they scatter back, and what a rank dispatches comes back by combine."""
    plan = Plan(tp=tp, dp=dp, ep=tp * dp)
    found = operations(QWEN, plan, tokens)
    hidden, k = 2048, 8
    gathered, scattered = found["gather_tokens"], found["scatter_tokens"]
    assert gathered.message_bytes == tokens * dp * (2 * hidden + 8 * k)
    assert scattered.message_bytes == tokens * dp * 2 * hidden
    assert gathered.ranks == scattered.ranks == tp * dp
    low = operations(QWEN, Plan(tp=tp, dp=dp, ep=tp * dp, backend="deepep_low_latency"), tokens)
    assert low["dispatch"].link_bytes == pytest.approx(low["combine"].link_bytes)
    assert low["dispatch"].tokens == -(-tokens // tp)


def test_low_latency_buffers_of_deepseek_v3():
    """A slot for every token and expert: 256 tokens, 256 experts, 7168 wide: 3.7 GB."""
    assert low_latency_buffer_bytes(256, 7168, 256) == pytest.approx(3.76e9, rel=0.01)


# --- who computes what


def test_experts_of_a_rank():
    sliced = operations(MIXTRAL, Plan(tp=4, expert_tp=4))["experts"]
    shared_out = operations(MIXTRAL, Plan(tp=4, ep=4))["experts"]
    assert (sliced.width, sliced.num_experts, float(sliced.rows)) == (3584, 8, 128)
    assert (shared_out.width, shared_out.num_experts) == (14336, 2) and float(shared_out.rows) > 32
    flat = operations(MIXTRAL, Plan(tp=2, dp=4, expert_tp=8))["experts"]
    assert (flat.width, int(flat.tokens)) == (1792, 256), "vLLM slices experts over TP x DP, for all replicas' tokens"


def test_flop_of_all_ranks_are_those_of_the_layer():
    even = Balanced(kind="balanced")
    whole = operations(QWEN, Plan(), 512, even)["experts"].flop
    parts = operations(QWEN, Plan(tp=4, ep=4), 512, even)["experts"].flop
    assert 4 * parts == pytest.approx(whole)


def test_weights_of_all_ranks_are_the_model():
    model = load_model(MIXTRAL)
    whole = weight_bytes(rank(MIXTRAL, Plan()))
    stages = rank(MIXTRAL, Plan(pp=4)).stages()
    assert sum(weight_bytes(stage) for stage in stages) == pytest.approx(whole)
    assert sum(stage.model.num_hidden_layers for stage in stages) == model.num_hidden_layers
    experts = 8 * 3 * 4096 * 14336 * 2 * 32
    shared_out = weight_bytes(rank(MIXTRAL, Plan(dp=8, ep=8)))
    assert shared_out == pytest.approx(whole - experts * 7 / 8)
    more = weight_bytes(rank(MIXTRAL, Plan(dp=8, ep=8, redundant=8)))
    assert more - shared_out == pytest.approx(experts / 8), "a replica takes a slot on every rank"


@pytest.mark.parametrize("name", ["DeepSeek-V3", "gpt-oss-120b", "Llama-4-Maverick-17B-128E-Instruct", MIXTRAL])
@pytest.mark.parametrize("stages", [2, 3, 5, 8])
def test_stages_hold_every_layer_once(name, stages):
    model = load_model(name)
    parts = [model.stage(i, stages) for i in range(stages)]
    sizes = [p.num_hidden_layers for p in parts]
    assert sum(sizes) == model.num_hidden_layers and max(sizes) - min(sizes) <= 1
    for group in model.layers:
        same = [g.count for p in parts for g in p.layers if g.blocks == group.blocks]
        assert sum(same) == group.count
    if name == "DeepSeek-V3":
        assert sum(g.count for g in parts[0].layers if g.routed is None) == 3


# --- time

ROUTES = Route(16, 2, 100e9, 40e9, 40e9, 5e-6, 1e-6, False)


@settings(max_examples=60, deadline=None)
@given(
    size=st.floats(256, 1e9), kind=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "alltoall"]),
    nodes=st.sampled_from([1, 2, 4]), algorithm=st.sampled_from(["auto", "two_level", "two_dh"]),
)  # fmt: skip
def test_more_bandwidth_never_slows_and_nodes_never_speed(size, kind, nodes, algorithm):
    machine = Machine(load_hardware("h100-sxm"), load_engine())
    p = machine.family(f"nccl/{kind}")[0].parameters
    algorithm = algorithm if kind == "alltoall" else "auto"

    def seconds(many_nodes, speed):
        rate = 376e9 if many_nodes == 1 else 47e9 * speed
        way = Route(8, many_nodes, rate * 8 / many_nodes, rate, rate, 0.0 if many_nodes == 1 else 5e-6,
                    0.0 if many_nodes == 1 else 1e-6, many_nodes == 1)  # fmt: skip
        return float(
            collective.nccl_seconds(p, Collective(size, 8, kind, algorithm=algorithm), machine.gpu, way).seconds
        )

    assert seconds(nodes, 2.0) <= seconds(nodes, 1.0) * (1 + 1e-9)
    assert seconds(nodes, 1.0) >= seconds(1, 1.0) * (1 - 1e-9)


@pytest.mark.parametrize("backend", ["deepep_low_latency", "deepep_high_throughput"])
@pytest.mark.parametrize("tokens", [1, 64, 256, 1024])
def test_deepep_between_nodes_is_never_faster(backend, tokens):
    pod = Machine(load_hardware("h100-pod-4"), load_engine())

    def seconds(ranks):
        op = ExpertAllToAll(backend, "combine", tokens, 7168, 8, 256, len(ranks), members=ranks)
        return float(pod.price("combine", op).seconds)

    near, two, far = (seconds(tuple(range(n))) for n in (8, 16, 32))
    assert near <= two <= far or (backend == "deepep_high_throughput" and two <= far)


def test_two_level_wins_small_messages_and_loses_large_ones():
    """Twice the volume, fewer messages (docs/model/collectives.md)."""
    machine = Machine(load_hardware("h100-pod-40"), load_engine())
    members = tuple(range(320))

    def seconds(size, algorithm):
        return float(machine.price("x", Collective(size, 320, "alltoall", members, algorithm)).seconds)

    assert seconds(64e3, "two_level") < seconds(64e3, "auto")
    assert seconds(1e9, "two_level") > seconds(1e9, "auto")


def test_trees_beat_rings_for_small_messages_over_many_nodes():
    machine = Machine(load_hardware("h100-pod-40"), load_engine())
    members = tuple(range(0, 320, 8))

    def seconds(size, algorithm):
        return float(machine.price("x", Collective(size, 40, "all_reduce", members, algorithm)).seconds)

    assert seconds(16e3, "tree") < seconds(16e3, "ring")
    assert seconds(1e9, "ring") <= seconds(1e9, "tree")
    assert seconds(16e3, "auto") == min(seconds(16e3, "tree"), seconds(16e3, "ring"))


def test_efa_all_reduce_of_four_nodes_as_published():
    """365 GB/s bus bandwidth on 32 H200 with 3.2 Tb/s a node (stas00/ml-engineering): the rails bound it."""
    way = route(load_hardware("h100-pod-4"), tuple(range(32)))
    op = Collective(4 * 2.0**30, 32, "all_reduce", tuple(range(32)))
    busbw = op.link_bytes / float(Machine(load_hardware("h100-pod-4"), load_engine()).price("x", op).seconds)
    assert busbw == pytest.approx(365e9, rel=0.1) and busbw <= way.ring_bytes_per_s


@settings(max_examples=15, deadline=None)
@given(s=st.floats(0.1, 1.5), tokens=st.sampled_from([8, 64, 1024]))
def test_a_balanced_placement_is_never_slower(s, tokens):
    """By rows never; a few tokens may touch some more experts where hot ones no longer share a rank."""
    machine = Machine(load_hardware("dgx-h100"), load_engine())
    skew = Zipf(kind="zipf", s=s)

    def seconds(**more):
        op = operations(QWEN, Plan(dp=8, ep=8, **more), tokens, skew)["experts"]
        return float(machine.price("experts", op).seconds)

    assert seconds(placement="load_sorted") <= seconds() * (1 + 1e-6 if tokens > 64 else 1.1)


def test_skew_and_its_cure_show_in_the_prediction():
    skew = {"routing": {"kind": "zipf", "s": 1.0}, "isl": 2048, "batch": 8}
    even = predict(scenario(tp=8, ep=True, isl=2048, batch=8))["mean_ttft_ms"]
    hot = predict(scenario(tp=8, ep=True, **skew))["mean_ttft_ms"]
    cured = predict(scenario(tp=8, ep=True, enable_eplb=True, num_redundant_experts=32, **skew))["mean_ttft_ms"]
    assert even < cured < hot


def test_routing_draws_widen_the_step_times():
    result = predict(scenario(dp=8, ep=True))
    assert result["p99_decode_step_ms"] > result["median_decode_step_ms"]
    plain = predict(scenario(tp=4))
    assert plain["p99_decode_step_ms"] == pytest.approx(plain["median_decode_step_ms"], rel=0.01)


# --- pipelines


def test_a_cycle_is_the_larger_of_all_stages_and_the_slowest_one_for_all():
    two = predict(scenario(pp=2, pipeline_micro_batches=2))
    decode = next(c for c in two.cost.children if c.name == "decode")
    names = [c.name for c in decode.children]
    assert names == ["stage 0", "stage 1", "host", "waiting for other micro-batches"]
    assert sum(c.seconds for c in decode.children) == pytest.approx(decode.seconds)
    many = predict(scenario(pp=2, pipeline_micro_batches=8))
    waiting = next(c for c in many.cost.children if c.name == "decode").children[-1]
    assert waiting.seconds > 0


def test_waiting_is_as_uncertain_as_what_is_waited_for():
    widths = []
    for batches in (4, 32):
        metric = predict(scenario(MIXTRAL, pp=4, pipeline_micro_batches=batches, batch=64)).metrics["mean_tpot_ms"]
        widths.append((metric.high - metric.low) / metric.value)
    assert widths[1] == pytest.approx(widths[0], rel=0.3)


def test_a_pipeline_is_no_faster_than_its_stages():
    """Small prefill steps are bound by the host, whatever the stages."""
    one, two = (predict(scenario("OLMoE-1B-7B-0924", pp=n, max_num_batched_tokens=64, max_num_seqs=64))["mean_ttft_ms"]
                for n in (1, 2))  # fmt: skip
    assert two > 0.33 * one, "stages halve, and the host of one step overlaps the GPU's of another"


def test_a_sweep_says_what_predict_says():
    pytest.importorskip("pandas")
    from moesim import sweep

    for changes in (
        {"pp": 2}, {"dp": 4, "ep": True}, {"tp": 2, "dp": 2, "ep": True, "all2all_backend": "deepep_low_latency"},
        {"dp": 8, "ep": True, "all2all_backend": "deepep_high_throughput", "enable_dbo": True},
    ):  # fmt: skip
        one = scenario(batch=64, isl=512, osl=32, **changes)
        table = sweep(one, {"batch_size": [8, 64]})
        alone = predict(one)
        assert table["mean_tpot_ms"][1] == pytest.approx(alone["mean_tpot_ms"], rel=0.01), changes
        assert table["kv_needed_bytes"][1] == pytest.approx(alone.memory.kv_needed), changes


def test_no_collective_beats_the_wire():
    """Every algorithm, every size: the volume over the bottleneck is the least there is."""
    for name, many in (("h100-pod-4", 32), ("ndm-a100-v4", 64), ("a6000-x3", 3), ("tpu-v3-slice", 16)):
        hardware = load_hardware(name)
        machine, members = Machine(hardware, load_engine()), tuple(range(many))
        way = route(hardware, members)
        for kind, algorithms in (("all_reduce", ("ring", "tree", "nvls", "auto")), ("all_gather", ("auto",)),
                                 ("alltoall", ("auto", "two_level", "two_dh"))):  # fmt: skip
            for algorithm in algorithms:
                op = Collective(np.geomspace(1e3, 1e9, 13), many, kind, members, algorithm, custom=False)
                rate = way.direct_bytes_per_s if kind == "alltoall" else way.ring_bytes_per_s
                away = 1.0 if algorithm in {"two_level", "two_dh"} else 0.0
                bound = op.link_bytes / rate * (1 - away * 0.5)
                assert (machine.price("x", op).seconds >= bound * (1 - 1e-9)).all(), (name, kind, algorithm)


def test_every_number_of_a_fabric_counts(tmp_path):
    text = (CLUSTERS / "h100-pod-4.yaml").read_text().replace("kind: rail", "kind: fat_tree")
    engine = {"dp": 32, "ep": True, "batch": 64, "isl": 512, "osl": 4}

    def tpot(backend, old="", new=""):
        path = tmp_path / "mine.yaml"
        assert old in text
        path.write_text(text.replace(old, new) if old else text)
        return predict(scenario(hardware=str(path), all2all_backend=backend, **engine))["mean_ttft_ms"]

    for backend in ("nccl_all_to_all", "two_level", "deepep_high_throughput", "deepep_low_latency", None):
        usual = tpot(backend)
        assert tpot(backend, "achieved: {value: 0.94", "achieved: {value: 0.1") > usual, backend
        assert tpot(backend, "value: 5 us", "value: 500 us") > usual, backend
        slow = tpot(backend, "  gap:", "  oversubscription: {value: 50, source: me}\n  gap:")
        assert slow > usual or backend is None, backend  # rings keep to their rails


def test_switches_change_what_they_name():
    plain = predict(scenario(tp=4, batch=8))["mean_tpot_ms"]
    assert predict(scenario(tp=4, batch=8, disable_custom_all_reduce=True))["mean_tpot_ms"] > plain
    assert predict(scenario(tp=4, batch=8, nccl_algo="tree"))["mean_tpot_ms"] == plain, "vLLM's own kernels come first"
    skew = {"routing": {"kind": "zipf", "s": 1.0}, "tp": 8, "ep": True, "isl": 2048}
    assert predict(scenario(enable_eplb=True, **skew))["mean_ttft_ms"] < predict(scenario(**skew))["mean_ttft_ms"]


def test_slices_of_experts_multiply_what_is_sent():
    whole, halves = (ExpertAllToAll("deepep_low_latency", "combine", 64, 2048, 8, 128, 8, slices=n) for n in (1, 2))
    assert halves.link_bytes == 2 * whole.link_bytes
    most = ExpertAllToAll("deepep_high_throughput", "combine", 64, 2048, 8, 128, 8, busiest=50.0)
    assert most.rows == 64 * 8, "a rank receives a token once at most"


def test_micro_batches_read_the_experts_again():
    """Two half batches touch nearly as many experts each: a pipeline gains next to nothing where weights bound it."""
    one, two = (predict(scenario(MIXTRAL, pp=2, pipeline_micro_batches=n, batch=32))["mean_tpot_ms"] for n in (1, 2))
    assert 0.85 * one < two < one
    assert predict(scenario(MIXTRAL, tp=2, batch=32))["mean_tpot_ms"] < 0.8 * two


def test_overlap_hides_no_more_than_the_shorter_side():
    engine = {"dp": 8, "ep": True, "all2all_backend": "deepep_high_throughput", "batch": 64, "isl": 2048, "osl": 1}
    plain, both = (predict(scenario(enable_dbo=on, **engine)) for on in (False, True))
    layer = both.cost.children[0].children[0]
    hidden = next(c for c in layer.children if c.name == "hidden by overlap")
    moving = sum(c.total for c in layer.children if c.name in {"dispatch", "combine"})
    assert -moving <= hidden.seconds < 0
    assert both["mean_ttft_ms"] > 0.5 * plain["mean_ttft_ms"]


# --- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "Qwen3-32B", "ep": True}, "Qwen3-32B has no experts"),
        ({"model": "MiniMax-M2.5", "tp": 8}, "192 wide, no multiple of the 128 of fp8_block"),
        (
            {"dp": 2, "ep": True, "all2all_backend": "deepep_low_latency", "hardware": "hgx-a100"},
            "needs NVSwitch and Hopper",
        ),
        ({"pipeline_micro_batches": 4}, "only with pipeline_parallel_size"),
        ({"model": MIXTRAL, "tp": 16, "hardware": "h100-pod-4", "ep": True}, "more than the 8 experts"),
        ({"dp": 2, "num_redundant_experts": 2}, "set enable_eplb"),
        ({"tp": 8, "ep": True, "enable_eplb": True, "num_redundant_experts": 3}, "do not divide evenly among 8"),
        ({"enable_eplb": True}, "needs enable_expert_parallel"),
        ({"tp": 4, "all2all_backend": "deepep_low_latency"}, "only with data_parallel_size above 1"),
        ({"dp": 2, "ep": True, "enable_dbo": True}, "through a DeepEP backend"),
        ({"pp": 64, "hardware": "h100-pod-12"}, "exceeds the 48 layers"),
        ({"model": "switch-base-128", "pp": 2}, "has an encoder"),
        ({"tp": 2, "expert_tensor_parallel_size": 2}, "needs enable_expert_parallel"),
        ({"tp": 4, "ep": True, "expert_tensor_parallel_size": 3}, "3 does not divide the 4 ranks"),
        ({"rank_order": ["tp", "tp", "dp"]}, "must name tp, pp and dp once"),
        ({"pp": 3, "dp": 4}, "more than the 8 of dgx-h100"),
        ({"tp": 1, "dp": 8, "model": "Phi-3.5-MoE-instruct", "hardware": "h100-pod-4", "pp": 0}, "greater than"),
        ({"dp": 8, "ep": True, "all2all_backend": "deepep_low_latency", "max_num_batched_tokens": 4096}, "1024 tokens"),
    ],
    ids=str,
)
def test_impossible_plans_are_refused_with_the_reason(changes, message):
    with pytest.raises(SpecError, match=message):
        scenario(**changes)


# --- places


def test_members_follow_the_rank_order():
    plan = Plan(tp=2, pp=2, dp=2, ep=4)
    assert plan.members("tp") == (0, 1) and plan.members("pp") == (0, 2) and plan.members("dp") == (0, 4)
    assert plan.members("tp", "dp") == (0, 1, 4, 5)
    turned = Plan(tp=2, pp=2, dp=2, rank_order=("dp", "pp", "tp"))
    assert turned.members("dp") == (0, 1) and turned.members("tp") == (0, 4)
    assert [turned.coordinates(p)["tp"] for p in range(8)] == [0] * 4 + [1] * 4


def test_ranks_far_apart_are_slower():
    near = {"hardware": "h100-pod-4", "tp": 4, "pp": 4, "batch": 8}
    far = near | {"rank_order": ["pp", "tp", "dp"]}
    assert predict(scenario(**near))["mean_tpot_ms"] < predict(scenario(**far))["mean_tpot_ms"]


def test_replicas_share_the_requests():
    parts = assemble(scenario(dp=4, batch=10))
    assert parts.rank.plan.dp == 4
    same = [predict(scenario("Qwen3-8B", dp=n, batch=8 * n))["mean_tpot_ms"] for n in (1, 4)]
    assert same[0] == pytest.approx(same[1]), "dense replicas do not meet"


def test_numbers_of_the_gpu_follow_the_cluster():
    assert GpuNumbers.of(load_hardware("h800-pod-4")).link_bytes_per_s == 200e9
    assert GpuNumbers.of(load_hardware("ndm-a100-v4")).nic_bytes_per_s == 25e9
    assert GpuNumbers.of(load_hardware("a6000-x3")).link_bytes_per_s == 26e9
