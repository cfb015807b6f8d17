"""Bytes that expert parallelism sends, by hand: DeepSeek-V3 under DP8 EP8, and the exchanges of other back ends.

DeepSeek-V3: hidden 7168, 8 of 256 experts. A dispatched token is 7168 fp8 bytes and a float32 scale per 128 of them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim import load_model
from moesim.engines.engine import load_engine
from moesim.inputs.routing import Balanced, Uniform
from moesim.models.blocks.moe import Moe
from moesim.models.frame import Frame
from moesim.models.model import Layers, Model
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops import Collective, ExpertAllToAll
from moesim.ops.all_to_all import distinct_places
from moesim.ops.load import Group, Load

EXACT = 1e-12
V3 = "DeepSeek-V3"
DISPATCHED = 7168 * 1 + 7168 / 128 * 4
assert DISPATCHED == 7392.0
# (224 x 223 x ... x 217) / (256 x 255 x ... x 249): none of 8 picks among 256 experts falls on 32 given ones.
NONE_OF_32 = 1.0
for i in range(8):
    NONE_OF_32 *= (224 - i) / (256 - i)
RANKS_OF_TOKEN = 8 * (1 - NONE_OF_32)


def exactly(x):
    return pytest.approx(x, rel=EXACT)


def moe(plan, experts="fp8_block", tokens=128, model=V3):
    """Operations of an MoE layer where every rank decodes ``tokens`` tokens, experts evenly loaded."""
    named = load_model(model).formatted(lambda _: experts, lambda _: experts)
    rank = Rank(named, plan, 2.0, Balanced(kind="balanced"), load_engine())
    layers = next(g for g in rank.model.layers if g.routed is not None)
    return dict(layers.operations(Frame(rank, Load((Group.decode(tokens, 100),), tokens, True))))


def test_low_latency_of_deepseek_v3():
    """A copy an expert, 16 bytes of header a copy; an eighth of the copies stays on the rank."""
    found = moe(Plan(dp=8, ep=8, backend="deepep_low_latency"))
    dispatch, combine = found["dispatch"], found["combine"]
    assert (dispatch.bytes_per_element, combine.bytes_per_element) == (1.0, 2.0)
    assert (dispatch.tokens, dispatch.top_k, dispatch.num_experts, dispatch.ranks) == (128, 8, 256, 8)
    assert dispatch.members == (0, 1, 2, 3, 4, 5, 6, 7) and dispatch.sms == 20
    assert (dispatch.n_group, dispatch.topk_group, dispatch.slices) == (8, 4, 1)
    assert (dispatch.phase, combine.phase) == ("dispatch", "combine")
    assert dispatch.copies == 8 and dispatch.node_copies == 0
    assert dispatch.busiest == exactly(1.0), "evenly loaded"
    assert dispatch.token_bytes == 7392 + 16
    assert dispatch.rows == exactly(128 * 8)
    assert dispatch.link_bytes == exactly(128 * 8 * 7408 * 7 / 8)
    assert dispatch.node_bytes == 0
    assert dispatch.hbm_bytes == exactly((128 + 1024) * 7408)
    assert combine.token_bytes == 7168 * 2 + 16
    assert combine.link_bytes == exactly(1024 * 14352 * 7 / 8)
    assert combine.hbm_bytes == exactly(1152 * 14352)
    assert dispatch.flop == 0 and not dispatch.of_context


def test_high_throughput_of_deepseek_v3():
    """A copy a rank, without header: the 8 experts of 4 of 8 groups lie on 4 ranks at most, a group a rank."""
    found = moe(Plan(dp=8, ep=8, backend="deepep_high_throughput"))
    dispatch, combine = found["dispatch"], found["combine"]
    # A group of 32 experts is a rank; 4 of 8 are chosen; none of the 8 picks hits a chosen one: C(96, 8) / C(128, 8).
    missed = 1.0
    for i in range(8):
        missed *= (96 - i) / (128 - i)
    copies = 4 * (1 - missed)
    assert dispatch.token_bytes == 7392 and combine.token_bytes == 14336
    assert dispatch.copies == exactly(copies)
    assert dispatch.link_bytes == exactly(128 * copies * 7392 * 7 / 8)
    assert dispatch.hbm_bytes == exactly((128 + 128 * copies) * 7392)
    assert combine.hbm_bytes == exactly((128 + 128 * copies) * 14336)


def test_the_element_sent_is_that_of_the_experts():
    deepep = Plan(dp=8, ep=8, backend="deepep_low_latency")
    assert moe(deepep, "fp8_block")["dispatch"].bytes_per_element == 1.0
    for weights in ("bfloat16", "fp8", "int4", "mxfp4"):
        found = moe(deepep, weights)
        assert found["dispatch"].bytes_per_element == found["combine"].bytes_per_element == 2.0
    assert moe(deepep, "bfloat16")["dispatch"].token_bytes == 14336 + 16, "bfloat16 carries no scales"


def test_gathered_and_scattered_tokens():
    """A token with its 8 expert numbers and 8 weights, 4 bytes each; results come back in bfloat16."""
    plan = Plan(dp=8, ep=8)
    fp8, bf16 = moe(plan), moe(plan, "bfloat16")
    assert fp8["gather_tokens"].message_bytes == exactly(1024 * (7392 + 8 * 8))
    assert bf16["gather_tokens"].message_bytes == exactly(1024 * (14336 + 64))
    for found in (fp8, bf16):
        gather, scatter = found["gather_tokens"], found["scatter_tokens"]
        assert scatter.message_bytes == exactly(1024 * 14336)
        assert (gather.kind, scatter.kind) == ("all_gather", "reduce_scatter")
        assert gather.members == scatter.members == tuple(range(8))
    assert fp8["gather_tokens"].link_bytes == exactly(7 / 8 * 1024 * 7456)
    assert fp8["gather_tokens"].hbm_bytes == exactly(2 * 1024 * 7456)


def test_gathered_without_expert_parallelism():
    """Slices of every expert: only replicas gather, each tensor-parallel rank for itself."""
    found = moe(Plan(tp=2, dp=4, expert_tp=8))
    assert found["gather_tokens"].members == found["scatter_tokens"].members == (0, 2, 4, 6)
    assert found["gather_tokens"].message_bytes == exactly(4 * 128 * 7456)
    assert found["scatter_tokens"].message_bytes == exactly(4 * 128 * 14336)
    assert found["router"].m == 128, "ranks of a replica route all its tokens"
    assert found["all_reduce"].message_bytes == exactly(128 * 14336)


def test_ranks_of_a_replica_split_its_tokens():
    found = moe(Plan(tp=2, dp=4, ep=8, backend="deepep_low_latency"), tokens=129)
    assert found["dispatch"].tokens == found["router"].m == found["shared_up_proj"].m == 65
    assert found["shared_up_proj"].n == 2 * 2048, "the shared expert whole on each"
    assert found["gather_sequence"].message_bytes == exactly(129 * 14336)
    assert found["gather_sequence"].members == (0, 1) and found["gather_sequence"].kind == "all_gather"
    assert found["experts"].tokens == 4 * 129
    assert "all_reduce" in found, "of attention"


def test_plain_exchanges():
    """NCCL's all-to-all sends k copies; DeepSpeed's coordinated one exchanges slices, then gathers them."""
    plain = moe(Plan(tp=2, dp=4, ep=8, backend="nccl_all_to_all"), "bfloat16")
    for phase in ("dispatch", "combine"):
        op = plain[phase]
        assert op.message_bytes == exactly(64 * 8 * 14336)
        assert (op.kind, op.algorithm, op.ranks) == ("alltoall", "auto", 8)
    assert moe(Plan(dp=8, ep=8, backend="two_level"), "bfloat16")["dispatch"].algorithm == "two_level"
    assert moe(Plan(dp=8, ep=8, backend="two_dh"), "bfloat16")["combine"].algorithm == "two_dh"
    sliced = moe(Plan(dp=8, ep=4, expert_tp=2, backend="nccl_all_to_all"), "bfloat16")
    assert sliced["dispatch"].message_bytes == exactly(128 * 8 * 14336 * 2), "each slice of an expert needs the token"
    both = moe(Plan(tp=2, dp=4, ep=8, backend="coordinated"), "bfloat16")
    assert both["dispatch"].message_bytes == exactly(64 * 8 * 14336) and both["dispatch"].members == (0, 2, 4, 6)
    assert both["dispatch_slices"].message_bytes == exactly(64 * 8 * 14336 * 2)
    assert both["dispatch_slices"].members == (0, 1) and both["dispatch_slices"].kind == "all_gather"
    assert "gather_sequence" not in both


@pytest.mark.parametrize("backend", ["deepep_low_latency", "deepep_high_throughput", "nccl_all_to_all", "coordinated"])
def test_the_busiest_rank_receives_more(backend):
    """Two tokens pick one of two experts each: both the same in half of all draws, so 1.5 of 1 on average."""
    model = Model("toy", "Toy", 128, 1000, (Layers(1, (Moe(2, 1, 32),), 128),))
    tp = 2 if backend == "coordinated" else 1
    plan = Plan(tp=tp, dp=2, ep=2, expert_tp=tp, backend=backend)
    rank = Rank(model, plan, 2.0, Uniform(), load_engine())
    found = dict(Moe(2, 1, 32).operations(Frame(rank, Load((Group.decode(1, 9),), 1, True))))
    for phase in ("dispatch", "combine"):
        assert float(found[phase].busiest) == pytest.approx(1.5, rel=1e-9)
    assert float(found["experts"].rows) == pytest.approx(1.5, rel=1e-9)
    even = replace(rank, routing=Balanced(kind="balanced"))
    assert dict(Moe(2, 1, 32).operations(Frame(even, Load((Group.decode(1, 9),), 1, True))))["dispatch"].busiest == 1.0


def test_slices_and_busiest_rank():
    low = ExpertAllToAll("deepep_low_latency", "combine", 10, 1000, 4, 64, 8, slices=2, busiest=1.5)
    assert low.copies == 8
    assert low.rows == exactly(10 * 8 * 1.5)
    assert low.link_bytes == exactly(120 * (2000 + 16) * 7 / 8)
    assert low.hbm_bytes == exactly((10 + 120) * 2016)
    # High throughput: 4 groups of 2 ranks, C(48, 4) / C(64, 4) of tokens miss one.
    missed = (48 / 64) * (47 / 63) * (46 / 62) * (45 / 61)
    copies = 4 * (1 - missed) * 2
    high = ExpertAllToAll("deepep_high_throughput", "combine", 10, 1000, 4, 64, 8, slices=2, busiest=1.2)
    assert high.copies == exactly(copies)
    assert high.rows == exactly(10 * copies * 1.2)
    most = ExpertAllToAll("deepep_high_throughput", "combine", 10, 1000, 4, 64, 8, slices=2, busiest=9.0)
    assert most.rows == 80, "a rank receives a token once at most"


def test_bytes_between_nodes():
    """Four nodes: three quarters of what is sent leaves. Low latency every copy, high throughput one a node."""
    low = ExpertAllToAll("deepep_low_latency", "dispatch", 100, 7168, 8, 256, 32, 4, 1.0, busiest=1.25)
    assert low.node_copies == exactly(0.75 * 8)
    assert low.node_bytes == exactly(100 * 6 * 1.25 * 7408)
    # One node of four holds 64 of 256 experts.
    missed = 1.0
    for i in range(8):
        missed *= (192 - i) / (256 - i)
    high = ExpertAllToAll("deepep_high_throughput", "combine", 100, 7168, 8, 256, 32, 4)
    assert high.node_copies == exactly(0.75 * 4 * (1 - missed))
    assert high.node_bytes == exactly(100 * 0.75 * 4 * (1 - missed) * 14336)


def test_distinct_places():
    assert distinct_places(8, 256, 8) == exactly(RANKS_OF_TOKEN)
    # 2 of 4 experts on 2 ranks: together with chance 1/3, apart with 2/3.
    assert distinct_places(2, 4, 2) == exactly(1 / 3 * 1 + 2 / 3 * 2)
    # 2 of 8 experts, from 1 of 2 groups; 4 ranks of 2 experts, two ranks a group: as 2 of 4 on 2 ranks.
    assert distinct_places(4, 8, 2, 2, 1) == exactly(5 / 3)
    # The same on 2 ranks, a group each: one rank always.
    assert distinct_places(2, 8, 2, 2, 1) == exactly(1.0)
    # 2 of 4 groups of 2 experts, 2 of those 4 experts, on 2 ranks of two groups each. Both groups on one rank: 1/3 of
    # draws, one place. One on each (2/3): both experts of one group with chance 1/3, else two places.
    assert distinct_places(2, 8, 2, 4, 2) == exactly(1 / 3 + 2 / 3 * (1 / 3 + 2 / 3 * 2))
    assert distinct_places(1, 8, 2) == exactly(1.0)


def test_messages_between_gpus():
    """Sent by each rank: (n - 1) / n of the buffer, twice that for an all-reduce."""
    assert Collective(1200.0, 4, "all_reduce").link_bytes == 2 * 0.75 * 1200
    for kind in ("all_gather", "reduce_scatter", "alltoall"):
        assert Collective(1200.0, 4, kind).link_bytes == 0.75 * 1200
    assert Collective(1200.0, 4, "alltoall", busiest=1.5).link_bytes == 0.75 * 1200 * 1.5
    assert Collective(1200.0, 2, "send_recv").link_bytes == 1200
    assert Collective(1200.0, 4).hbm_bytes == 2400
    assert Collective(1200.0, 4).flop == 0 and not Collective(1200.0, 4).of_context
