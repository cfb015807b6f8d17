"""A cluster as a graph, and what a group of GPUs finds between them.

Vertices are GPUs, switches, NICs and leaves; an edge is one direction of a link, with its bandwidth. Each pattern of
traffic (a ring, an all-to-all) is a set of flows along shortest paths; the edge with the most bytes over its
bandwidth sets the rate of all. networkx loads when a cluster is first asked for.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from moesim.hardware.hardware import Hardware

Vertex = tuple[Any, ...]
_UNLIMITED = 1e18


@dataclass(frozen=True, slots=True)
class Route:
    """The bottleneck of a group on its cluster. Bandwidths are per GPU and direction, as large messages achieve."""

    ranks: int
    nodes: int
    """Nodes the group spans."""
    ring_bytes_per_s: float
    """What rings through all of them carry past each GPU."""
    direct_bytes_per_s: float
    """What each sends when all send equal shares to all others."""
    remote_bytes_per_s: float
    """What of that can leave its node."""
    latency_s: float
    """One message to another node, before its first byte arrives."""
    gap_s: float
    """Between two messages of one GPU to other nodes."""
    switched: bool
    """All in one NVSwitch domain, where the switch can add up."""
    bottleneck: str = ""
    """The busiest link of an all-to-all."""

    @property
    def local_ranks(self) -> int:
        return max(self.ranks // self.nodes, 1)


@lru_cache(maxsize=32)
def graph(hardware: Hardware) -> Any:
    """The cluster as a networkx DiGraph; edges carry ``bytes_per_s`` and ``weight`` (hops)."""
    import networkx

    cluster, result = hardware.cluster, networkx.DiGraph()
    assert cluster is not None

    def join(a: Vertex, b: Vertex, bytes_per_s: float, hops: float = 1.0, one_way: bool = False) -> None:
        result.add_edge(a, b, bytes_per_s=bytes_per_s, weight=hops)
        if not one_way:
            result.add_edge(b, a, bytes_per_s=bytes_per_s, weight=hops)

    if cluster.fabric and cluster.fabric.kind == "torus":
        _join_torus(hardware, join)
        return result
    for number in range(cluster.nodes):
        _join_node(hardware, number, join)
    if cluster.nodes > 1:
        _join_fabric(hardware, join)
    return result


def _join_node(hardware: Hardware, number: int, join: Any) -> None:
    cluster = hardware.cluster
    assert cluster is not None
    node, first = cluster.node, number * cluster.node.gpus
    gpus = [("gpu", first + i) for i in range(node.gpus)]
    pcie = (node.pcie or hardware.links.host).value
    # What enters the root leaves it through one edge, which all share.
    into, out = ("root", number, "in"), ("root", number, "out")
    join(into, out, node.root.value if node.root else _UNLIMITED, one_way=True)
    behind: dict[int, Vertex] = {}
    for index, group in enumerate(node.pcie_switches):
        behind |= dict.fromkeys(group, ("pcie switch", number, index))
    for i, gpu in enumerate(gpus):
        if i in behind:
            join(gpu, behind[i], pcie)
    for port in {*behind.values(), *(gpu for i, gpu in enumerate(gpus) if i not in behind)}:
        join(port, into, pcie, one_way=True)
        join(out, port, pcie, one_way=True)
    if node.nvlink == "switch":
        for gpu in gpus:
            join(gpu, ("nvswitch", number), hardware.links.gpu_to_gpu.value, 0.5)
    for (a, b), links in node.linked.items():
        join(gpus[a], gpus[b], links * (node.link or hardware.links.gpu_to_gpu).value, 0.5)
    if cluster.nodes == 1:
        return
    for n in range(node.nics):
        nic, behind_it = ("nic", number, n), gpus[n * node.gpus // node.nics : (n + 1) * node.gpus // node.nics]
        for gpu in behind_it:
            # Groups beside this one use the NIC too: each GPU has its fair share.
            join(gpu, nic, min(pcie, _nic_rate(hardware) / len(behind_it)))


def _nic_rate(hardware: Hardware) -> float:
    """What large messages achieve through one NIC. [B/s]"""
    cluster = hardware.cluster
    assert cluster is not None and cluster.fabric is not None and cluster.node.nic is not None
    return cluster.node.nic.value * cluster.fabric.achieved.value


def _join_fabric(hardware: Hardware, join: Any) -> None:
    """Leaves and one spine: a rail fabric gives every NIC of a place its leaf, a fat tree every node."""
    cluster = hardware.cluster
    assert cluster is not None and cluster.fabric is not None
    fabric, node = cluster.fabric, cluster.node
    rate = _nic_rate(hardware)
    over = fabric.oversubscription.value if fabric.oversubscription else 1.0
    leaves: Counter[Vertex] = Counter()
    for number, n in itertools.product(range(cluster.nodes), range(node.nics)):
        leaf = ("leaf", n if fabric.kind == "rail" else number)
        leaves[leaf] += 1
        join(("nic", number, n), leaf, rate)
    for leaf, ports in leaves.items():
        join(leaf, ("spine",), ports * rate / over)


def _join_torus(hardware: Hardware, join: Any) -> None:
    cluster = hardware.cluster
    assert cluster is not None and cluster.fabric is not None and cluster.fabric.link is not None
    shape, rate = cluster.fabric.shape, cluster.fabric.link.value * cluster.fabric.achieved.value
    places = {where: i for i, where in enumerate(itertools.product(*(range(s) for s in shape)))}
    for where, i in places.items():
        for axis in (axis for axis, side in enumerate(shape) if side > 1):
            beyond = (*where[:axis], (where[axis] + 1) % shape[axis], *where[axis + 1 :])
            join(("gpu", i), ("gpu", places[beyond]), rate)


@lru_cache(maxsize=256)
def route(hardware: Hardware, members: tuple[int, ...]) -> Route | None:
    """What the GPUs at ``members`` find between them on the hardware's cluster; None where its file leaves it open."""
    cluster = hardware.cluster
    assert cluster is not None
    per_node = cluster.node.gpus
    by_node: dict[int, list[int]] = {}
    for place in members:
        by_node.setdefault(place // per_node, []).append(place)
    fabric, many = cluster.fabric, len(members)
    torus = fabric is not None and fabric.kind == "torus"
    # Every chip of a torus is a node of its own: all its messages pass the fabric.
    nodes = many if torus else len(by_node)
    switched = nodes == 1 and cluster.node.nvlink == "switch"
    if switched or many == 1:
        link = hardware.links.gpu_to_gpu.value
        return Route(many, nodes, link, link, _UNLIMITED, 0.0, 0.0, switched, "NVSwitch")
    if nodes == 1 and cluster.node.nvlink == "mesh" and cluster.node.link:
        # Rings along different links share out the volume: all links of a GPU are busy, as in an all-to-all.
        links = (many - 1) * cluster.node.link.value
        return Route(many, nodes, links, links, _UNLIMITED, 0.0, 0.0, switched, "mesh")
    if nodes == 1 and not cluster.node.described:
        return None
    paths = _paths(hardware, members)
    rings = list(_rings(by_node)) if not torus else [tuple(members)]
    hops = Counter[tuple[Vertex, Vertex]]()
    for ring in rings:
        for a, b in zip(ring, ring[1:] + ring[:1], strict=True):
            hops.update(itertools.pairwise(paths[a][("gpu", b)]))
    everyone = Counter[tuple[Vertex, Vertex]]()
    for a, b in itertools.permutations(members, 2):
        everyone.update(itertools.pairwise(paths[a][("gpu", b)]))
    rate = graph(hardware).edges
    # A ring carries its share of the volume past every GPU; an all-to-all sends 1/(n - 1) of it to each other.
    ring_s = max(count / rate[edge]["bytes_per_s"] for edge, count in hops.items()) / len(rings)
    busiest, direct_s = max(
        ((edge, count / rate[edge]["bytes_per_s"]) for edge, count in everyone.items()), key=lambda item: item[1]
    )
    far = fabric is not None and nodes > 1
    direct = (many - 1) / direct_s
    away = many - many / nodes
    return Route(
        many, nodes, 1.0 / ring_s, direct, direct * away / (many - 1) if away else _UNLIMITED,
        fabric.latency.value if far and fabric else 0.0, fabric.gap.value if far and fabric else 0.0,
        switched, " to ".join(_name(v) for v in busiest),
    )  # fmt: skip


def _paths(hardware: Hardware, members: tuple[int, ...]) -> dict[int, dict[Vertex, list[Vertex]]]:
    import networkx

    whole = graph(hardware)
    return {place: networkx.single_source_dijkstra_path(whole, ("gpu", place)) for place in members}


def _rings(by_node: dict[int, list[int]]) -> Iterable[tuple[int, ...]]:
    """Rings that cross between nodes at each local place in turn, as NCCL's channels use every NIC."""
    locals_ = [by_node[n] for n in sorted(by_node)]
    for shift in range(max(len(g) for g in locals_)):
        ring: list[int] = []
        for number, group in enumerate(locals_):
            # A node is entered at the place where the one before was left: on the same rail.
            start = (shift - number) % len(group)
            ring += group[start:] + group[:start]
        yield tuple(ring)


def _name(vertex: Vertex) -> str:
    return " ".join(str(part) for part in vertex)
