"""Collectives by hand: bus factors, the volume of a ring, forms with easy constants, routes through a small cluster."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim import load_hardware
from moesim.cost.forms.collective import (
    _choices,
    _direct,
    _nvls,
    _ring,
    _tree,
    _two_dh,
    _two_level,
    custom_seconds,
    symmetric_seconds,
)
from moesim.cost.gpu import GpuNumbers
from moesim.hardware.topology import Route, route
from moesim.ops import Collective
from moesim.ops.collective import BUS_FACTOR

GPU = replace(GpuNumbers.of(load_hardware("h100-sxm")), link_bytes_per_s=100.0, hbm_bytes_per_s=1000.0)
# LL is never the fastest and LL128 neither: what is left is Simple at half the link, a pipeline that fills at once.
SIMPLE = {
    "t_ll": 10.0, "h_ll": 0.25, "r_ll": 1e-9, "t_ll128": 1.0, "h_ll128": 0.0, "r_ll128": 1e-9, "t_simple": 2.0,
    "h_simple": 0.5, "r_simple": 0.5, "n_fill": 1e-9, "r_copy": 0.5, "r_nvls": 0.25, "x_shared": 0.0,
}  # fmt: skip


def exactly(x):
    return pytest.approx(x, rel=1e-9)


def test_bus_factors():
    assert BUS_FACTOR == {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "alltoall": 1.0}


@pytest.mark.parametrize(("kind", "factor"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
def test_a_ring(kind, factor):
    """Launch 10 + 1 + 2, two further ranks of 0.75; 3/4 of 4000 bytes at 50 B/s, twice; a quarter copied."""
    seconds, launch = _ring(SIMPLE, Collective(4000.0, 4, kind), GPU, None)
    assert seconds == exactly(13 + 2 * 0.75 + factor * 3000 / 50 + 1000 / 500)
    assert launch == exactly(10 + 2 * 0.25)
    # GPUs that share a link have less of it each: (4 / 2)^0.5 slower.
    shared = _ring(SIMPLE | {"x_shared": 0.5}, Collective(4000.0, 4, kind), GPU, None)[0]
    assert shared == exactly(14.5 + factor * 3000 * 2**0.5 / 50 + 2)


def test_a_ring_between_nodes():
    """At most 20 B/s past each GPU; each of two nodes adds 3 s of latency a round."""
    way = Route(4, 2, 20.0, 15.0, 5.0, 3.0, 0.5, False)
    seconds, launch = _ring(SIMPLE, Collective(4000.0, 4), GPU, way)
    assert seconds == exactly(14.5 + 6000 / 20 + 2 + 2 * 2 * 3)
    assert launch == exactly(10.5 + 12)


def test_a_tree():
    """Twice the whole message; a local chain of two and a level between nodes, there and back."""
    way = Route(4, 2, 20.0, 15.0, 5.0, 3.0, 0.5, False)
    assert way.local_ranks == 2
    seconds, launch = _tree(SIMPLE, Collective(4000.0, 4), GPU, way)
    # Hops: one in the node, one level: no further one.
    assert seconds == exactly(13 + 0.75 * 1 + 8000 / 20 + 2 * 1 * 3)
    assert launch == exactly(10 + 0.25 + 6)


def test_in_switch_reduction():
    """(1 + 1/n) of the message past each link at a quarter of 100 B/s."""
    seconds, launch = _nvls(SIMPLE, Collective(4000.0, 8), GPU, None)
    assert seconds == exactly(13 + 6 * 0.75 + 1.125 * 4000 / 25) and launch == exactly(17.5)
    assert _nvls(SIMPLE, Collective(4000.0, 4), GPU, None)[0] == np.inf, "rings up to four ranks"
    forced = _nvls(SIMPLE, Collective(4000.0, 4, algorithm="nvls"), GPU, None)[0]
    assert forced == exactly(14.5 + 1.25 * 4000 / 25)


def test_direct_messages():
    seconds, launch = _direct(SIMPLE, Collective(4000.0, 4, "alltoall", busiest=1.5), GPU, None)
    assert seconds == exactly(14.5 + 0.75 * 6000 / 50 + 1500 / 500) and launch == exactly(10.5)
    # One message each way between two ranks: no further rank; the whole message, no more copied than as much.
    assert _direct(SIMPLE, Collective(4000.0, 2, "send_recv"), GPU, None)[0] == exactly(13 + 4000 / 50 + 4000 / 500)
    way = Route(4, 2, 20.0, 15.0, 5.0, 3.0, 0.5, False)
    far = _direct(SIMPLE, Collective(4000.0, 4, "alltoall"), GPU, way)[0]
    # Two peers on the other node: a latency, and a gap between their messages.
    assert far == exactly(13 + 0.75 * 0 + 3000 / 15 + 2 + 3 + 0.5)


def test_exchanges_in_two_levels():
    """Pairs within nodes at 50 B/s, then pairs between nodes at 5 B/s; a piece more for each rank beyond the local."""
    way = Route(4, 2, 20.0, 15.0, 5.0, 3.0, 0.5, False)
    op = Collective(4000.0, 4, "alltoall")
    # Hops cost nothing beyond the pieces.
    p = SIMPLE | {"h_simple": -0.25}
    inside = 13 + 2000 / 50 + 2000 / 500
    # One peer away: a latency, no gap.
    across = 13 + 2000 / 5 + 2000 / 500 + 3
    assert _two_level(p, op, GPU, way)[0] == exactly(inside + across + 0.25 * 2)
    assert _two_dh(p, op, GPU, way)[0] == exactly(inside + across + 4 * 4000 / 1000)
    near = Route(4, 1, 20.0, 15.0, 1e18, 0.0, 0.0, True)
    for form in (_two_level, _two_dh):
        assert form(SIMPLE, op, GPU, near) == _direct(SIMPLE, op, GPU, near)


def test_algorithms_there_are():
    far, pcie, switched = (Route(4, n, 1.0, 1.0, 1.0, 0.0, 0.0, s) for n, s in ((2, False), (1, False), (1, True)))
    reduce = Collective(1.0, 4)
    assert [_choices(reduce, way) for way in (None, far, pcie, switched)] == [
        ("ring", "nvls"), ("ring", "tree"), ("ring",), ("ring", "nvls"),
    ]  # fmt: skip
    assert _choices(Collective(1.0, 4, "all_gather"), None) == ("ring",)
    assert (
        _choices(Collective(1.0, 4, "alltoall"), None) == _choices(Collective(1.0, 2, "send_recv"), far) == ("direct",)
    )


def test_vllms_own_all_reduces():
    p = {"t_launch": 4.0, "t_rank": 0.5, "r_one_shot": 0.5, "t_two_shot": 2.0, "r_two_shot": 0.25, "r_copy": 0.1}
    # One shot reads three peers; a byte more and each rank reads its quarter of each, then gathers.
    limit = 512 * 1024
    one = custom_seconds(p, Collective(limit - 4.0, 4), GPU).seconds
    assert one == exactly(4 + 2 * 0.5 + 3 * (limit - 4) / 50 + (limit - 4) / 100)
    two = custom_seconds(p, Collective(float(limit), 4), GPU).seconds
    assert two == exactly(5 + 2 + 2 * 0.75 * limit / 25 + limit / 100)
    eight = custom_seconds(p, Collective(256.0 * 1024, 8), GPU).seconds
    assert eight == exactly(4 + 6 * 0.5 + 2 + 2 * 7 / 8 * 256 * 1024 / 25 + 256 * 1024 / 100)
    pair = custom_seconds(p, Collective(1e9, 2), GPU).seconds
    assert pair == exactly(4 + 1e9 / 50 + 1e9 / 100), "two ranks always read each other once"
    p = {"t_launch": 9.0, "r_link": 0.5, "r_copy": 0.2}
    assert symmetric_seconds(p, Collective(1000.0, 8), GPU).seconds == exactly(9 + 1000 / 50 + 2 * 1000 / 200)


def test_routes_by_hand():
    """Four nodes of eight, a 50 GB/s NIC a GPU of which 94 % are reached: rails."""
    pod = load_hardware("h100-pod-4")
    pair = route(pod, (0, 8))
    assert (pair.ranks, pair.nodes, pair.local_ranks, pair.switched) == (2, 2, 1, False)
    assert pair.ring_bytes_per_s == exactly(47e9) and pair.direct_bytes_per_s == exactly(47e9)
    assert pair.remote_bytes_per_s == exactly(47e9)
    assert pair.latency_s == exactly(5e-6) and pair.gap_s == exactly(1e-6)
    two_nodes = route(pod, tuple(range(16)))
    # 8 of 15 peers are away, all through the GPU's own NIC; eight rings leave a node by a NIC each.
    assert two_nodes.direct_bytes_per_s == exactly(47e9 * 15 / 8)
    assert two_nodes.remote_bytes_per_s == exactly(47e9)
    assert two_nodes.ring_bytes_per_s == exactly(8 * 47e9)
    inside = route(pod, (0, 1, 2, 3))
    assert inside.switched and inside.ring_bytes_per_s == 450e9 and inside.latency_s == 0 and inside.nodes == 1
