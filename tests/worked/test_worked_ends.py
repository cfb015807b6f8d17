"""What stands between and around layers, by hand: a pipeline's hop, embedding, head, sampling, the shared norm."""

from __future__ import annotations

import pytest

from moesim import load_model
from moesim.engines.engine import load_engine
from moesim.inputs.routing import Uniform
from moesim.models.ends import end_operations, hop_operations, sampling_operations
from moesim.models.frame import Frame
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops.load import Group, Load


def frames(plan, tokens=24):
    """Of each stage of Mixtral 8x7B: hidden 4096, vocabulary 32000."""
    rank = Rank(load_model("Mixtral-8x7B-v0.1"), plan, 2.0, Uniform(), load_engine())
    load = Load((Group.decode(tokens, 100),), tokens, True)
    return [Frame(stage, load) for stage in rank.stages()]


def test_a_hop_sends_hidden_states_and_residual():
    (hop,) = [op for _, op in hop_operations(frames(Plan(pp=2))[0])]
    assert hop.message_bytes == hop.link_bytes == 2 * 2 * 24 * 4096
    assert (hop.kind, hop.ranks, hop.members) == ("send_recv", 2, (0, 1))


def test_tensor_parallel_ranks_send_a_slice_each():
    first, second, _ = frames(Plan(tp=4, pp=3, expert_tp=4))
    found = dict(hop_operations(first))
    assert list(found) == ["send_recv", "gather_hidden"]
    assert found["send_recv"].message_bytes == 4 * 24 * 4096 / 4
    gather = found["gather_hidden"]
    assert gather.message_bytes == 4 * 24 * 4096
    assert (gather.kind, gather.ranks, gather.members) == ("all_gather", 4, (0, 1, 2, 3))
    assert gather.link_bytes == 3 / 4 * 4 * 24 * 4096
    assert found["send_recv"].members == (0, 4)
    assert dict(hop_operations(second))["send_recv"].members == (4, 8)


def test_embedding_and_norm_stand_where_they_are_held():
    first, last = frames(Plan(tp=2, pp=2, expert_tp=2))
    begin, end = dict(end_operations(first)), dict(end_operations(last))
    assert list(begin) == ["embedding", "all_reduce"] and list(end) == ["final_norm"]
    assert begin["embedding"].hbm_bytes == 2 * 2 * 24 * 4096 and begin["embedding"].rows == 24
    assert begin["all_reduce"].message_bytes == 2 * 24 * 4096
    assert end["final_norm"].hbm_bytes == 4 * 2 * 24 * 4096 and end["final_norm"].rows == 24
    assert list(dict(end_operations(frames(Plan())[0]))) == ["embedding", "final_norm"]


def test_head_and_sampling():
    first, last = frames(Plan(tp=2, pp=2, expert_tp=2))
    assert list(sampling_operations(first, 5)) == []
    found = dict(sampling_operations(last, 5))
    head = found["lm_head"]
    assert (head.m, head.n, head.k, head.weights) == (5, 16000, 4096, "bfloat16")
    assert found["gather_logits"].message_bytes == 2 * 5 * 32000 and found["gather_logits"].kind == "all_gather"
    sampling = found["sampling"]
    assert (sampling.rows, sampling.hbm_bytes, sampling.launches) == (5, 4 * 4 * 5 * 32000, 4)
    assert list(dict(sampling_operations(frames(Plan())[0], 5))) == ["lm_head", "sampling"]
    assert dict(sampling_operations(last, 0))["lm_head"].m == 1
    (thirds,) = frames(Plan(tp=3, expert_tp=3))
    assert dict(sampling_operations(thirds, 5))["lm_head"].n == 10667, "rounded up"


@pytest.mark.parametrize("tp", [1, 4])
def test_the_all_reduce_of_a_block(tp):
    (at,) = frames(Plan(tp=tp, expert_tp=tp, algorithm="ring", custom_all_reduce=False))
    if tp == 1:
        assert at.reduce == ()
        return
    ((name, op),) = at.reduce
    assert (name, op.message_bytes, op.ranks, op.algorithm, op.custom) == (
        "all_reduce",
        2 * 24 * 4096,
        4,
        "ring",
        False,
    )
