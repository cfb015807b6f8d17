"""Clusters as graphs: golden bandwidths by hand, files that are refused, and what wiring can never do."""

import pytest

from moesim import SpecError, load_hardware
from moesim.hardware.topology import route


def test_golden_routes():
    node = route(load_hardware("dgx-h100"), tuple(range(8)))
    assert (node.ring_bytes_per_s, node.direct_bytes_per_s, node.switched) == (450e9, 450e9, True)
    pod = load_hardware("h100-pod-4")
    whole = route(pod, tuple(range(32)))
    assert whole.ring_bytes_per_s == pytest.approx(8 * 47e9), "rings share out the eight NICs of a node"
    # 24 of a GPU's 31 peers are on other nodes, all through its own NIC.
    assert whole.direct_bytes_per_s == pytest.approx(47e9 * 31 / 24)
    across = route(pod, (0, 8, 16, 24))
    assert across.ring_bytes_per_s == pytest.approx(47e9) and across.nodes == 4 and not across.switched
    assert route(pod, tuple(range(8))).switched


def test_pcie_shares_its_root():
    """Three GPUs: three flows of a ring pass one root complex."""
    assert route(load_hardware("a6000-x3"), (0, 1, 2)).ring_bytes_per_s == pytest.approx(52e9 / 3)
    assert route(load_hardware("rtx-4090-x2"), (0, 1)).ring_bytes_per_s == pytest.approx(12.9e9)


def test_a_torus_serves_neighbours_best():
    torus = load_hardware("tpu-v3-slice")
    row, everyone = route(torus, (0, 1, 2, 3)), route(torus, tuple(range(16)))
    assert row.ring_bytes_per_s == pytest.approx(63e9)
    assert everyone.direct_bytes_per_s < row.direct_bytes_per_s


def test_one_gpu_needs_no_link():
    assert route(load_hardware("h100-pod-4"), (5,)).latency_s == 0


CLUSTER = """name: mine
gpu: nvidia-h100-sxm5-80gb
source: me
nodes: 2
node:
  gpus: 2
  nvlink: [[0, 1]]
  nics: 1
  nic: {value: 25 GB/s, source: me}
fabric:
  kind: fat_tree
  latency: {value: 5 us, source: me}
  gap: {value: 1 us, source: me}
  achieved: {value: 1.0, source: me}
  oversubscription: {value: 2.0, source: me}
doubts: [none]
"""


def test_a_users_cluster(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(CLUSTER)
    hardware = load_hardware(str(path))
    assert hardware.gpus == 4 and hardware.title == "mine" and hardware.links.kind == "bridge"
    assert route(hardware, (0, 1)).ring_bytes_per_s == pytest.approx(450e9)
    # One NIC of 25 GB/s a node, halved by the uplinks of its leaf.
    assert route(hardware, (0, 2)).ring_bytes_per_s == pytest.approx(12.5e9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gpus: 2", "gpus: 0", "greater than or equal to 1"),
        ("[[0, 1]]", "[[0, 7]]", "names a GPU beyond the 2 of the node"),
        ("nics: 1", "nics: 3", "3 NICs cannot be dealt out evenly to 2 GPUs"),
        ("25 GB/s", "25", "has no unit"),
        ("kind: fat_tree", "kind: torus", "needs 'shape' and 'link'"),
        ("nodes: 2", "nodes: 2\nspeed: 3", "'speed' is not a known key"),
        ("  nics: 1\n  nic: {value: 25 GB/s, source: me}\n", "", "more than one node needs 'nics'"),
        ("value: 1.0, source: me", "value: 1.5, source: me", "is not plausible"),
        ("gpu: nvidia-h100-sxm5-80gb", "gpu: h100-pod-4", "is a cluster; a GPU is expected"),
        ("gpu: nvidia-h100-sxm5-80gb", "gpu: h1000", "mine.yaml:2: the hardware 'h1000' is not known"),
        ("[[0, 1]]", "[[1, 1]]", "names a GPU twice"),
        ("[[0, 1]]", "torus", "needs a fabric of kind 'torus'"),
        ("  nics: 1", "  pcie_switches: [[0], [0]]\n  nics: 1", "under two switches"),
        ("  nics: 1", "  nic_count: 1\n  nics: 1", "known here: gpus, link, nic, nics"),
    ],
)
def test_bad_clusters_are_refused_in_a_sentence(tmp_path, old, new, message):
    path = tmp_path / "mine.yaml"
    assert old in CLUSTER
    path.write_text(CLUSTER.replace(old, new))
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        load_hardware(str(path))
