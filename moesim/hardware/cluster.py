"""What a cluster file says: how GPUs of a node are wired, and how nodes are."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Literal

from pydantic import Field, model_validator

from moesim.errors import SpecError
from moesim.files.quantities import BytesPerSecond, FileName, Ratio, Seconds, Share, Strict

MOST_NODES = 4096


class Node(Strict):
    """The wiring of one node. Bandwidths per device and direction."""

    gpus: int = Field(ge=1, le=256)
    nvlink: Literal["switch", "mesh", "none", "torus"] | list[tuple[int, int]]
    """``switch`` (NVSwitch), ``mesh`` (each linked to each), ``none``, linked pairs (a pair named twice has two links),
    or a chip's links into the fabric's torus. ``none`` and nothing of PCIe is PCIe as tables of such GPUs saw it."""
    link: BytesPerSecond | None = None
    """One link of a mesh or of a pair; null gives a pair all that the GPU file's links carry."""
    pcie: BytesPerSecond | None = None
    """One GPU's PCIe link; null is the GPU file's host link."""
    pcie_switches: list[tuple[int, ...]] = []
    """GPUs under one PCIe switch; empty hangs every GPU on the root."""
    root: BytesPerSecond | None = None
    """The host's root complex, shared by what passes through it; null does not limit."""
    nics: int = Field(default=0, ge=0, le=256)
    """NICs of the node, dealt out evenly among its GPUs."""
    nic: BytesPerSecond | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Node:
        pairs = self.nvlink if isinstance(self.nvlink, list) else []
        if self.nvlink == "mesh" and self.link is None:
            raise ValueError("node.nvlink 'mesh' needs 'link' (the bandwidth of one)")
        if self.link is not None and self.nvlink in ("switch", "none", "torus"):
            raise ValueError(f"'link' is of a mesh or of pairs; node.nvlink is '{self.nvlink}'")
        for group in [*pairs, *self.pcie_switches]:
            if any(not 0 <= g < self.gpus for g in group):
                raise ValueError(f"{list(group)} names a GPU beyond the {self.gpus} of the node")
            if len(set(group)) < len(group):
                raise ValueError(f"{list(group)} names a GPU twice")
        switched = [g for group in self.pcie_switches for g in group]
        if len(set(switched)) < len(switched):
            raise ValueError("'pcie_switches' puts a GPU under two switches")
        if bool(self.nics) != (self.nic is not None):
            raise ValueError("'nics' and 'nic' (the bandwidth of one) go together")
        if self.nics and self.gpus % self.nics:
            raise ValueError(f"{self.nics} NICs cannot be dealt out evenly to {self.gpus} GPUs")
        return self

    @property
    def described(self) -> bool:
        """Whether the file says how GPUs reach each other; else it is as tables of PCIe-only GPUs saw it."""
        return self.nvlink != "none" or bool(self.pcie or self.pcie_switches or self.root)

    @property
    def linked(self) -> Counter[tuple[int, int]]:
        """Links between two GPUs without a switch, by pair."""
        if self.nvlink == "mesh":
            return Counter(combinations(range(self.gpus), 2))
        return Counter((min(pair), max(pair)) for pair in self.nvlink) if isinstance(self.nvlink, list) else Counter()

    def first(self, gpus: int) -> Node:
        """Its first GPUs and what wires them."""
        nvlink = self.nvlink
        if isinstance(nvlink, list):
            nvlink = [pair for pair in nvlink if max(pair) < gpus] or "none"
        switches = [tuple(g for g in group if g < gpus) for group in self.pcie_switches]
        share = gpus * self.nics // self.gpus
        nics = next((n for n in range(max(share, 1), 0, -1) if gpus % n == 0), 0) if self.nics else 0
        return self.model_copy(
            update={
                "gpus": gpus,
                "nvlink": nvlink,
                "link": None if nvlink == "none" else self.link,
                "pcie_switches": [group for group in switches if group],
                "nics": nics,
            }
        )


class Fabric(Strict):
    """What joins the nodes."""

    kind: Literal["rail", "fat_tree", "torus"]
    """``rail``: NIC i of every node on leaf i; ``fat_tree``: all NICs of a node on its leaf; ``torus``: chips."""
    latency: Seconds
    """One message to another node before its first byte arrives."""
    gap: Seconds
    """Between two messages of one GPU."""
    achieved: Share
    """Of the NIC's line rate that large messages reach."""
    oversubscription: Ratio | None = None
    """Leaf uplinks: bandwidth down over bandwidth up; null is 1."""
    shape: tuple[int, ...] = ()
    """Torus only: chips along each dimension."""
    link: BytesPerSecond | None = None
    """Torus only: one link, one direction."""

    @model_validator(mode="after")
    def _consistent(self) -> Fabric:
        if (self.kind == "torus") != (bool(self.shape) and self.link is not None):
            raise ValueError("a torus, and nothing else, needs 'shape' and 'link'")
        return self


class Cluster(Strict):
    """Equal nodes of equal GPUs. GPUs are numbered node by node."""

    name: FileName
    aliases: list[str] = []
    gpu: str
    """A GPU under hwspecs/."""
    source: str
    nodes: int = Field(default=1, ge=1, le=MOST_NODES)
    node: Node
    fabric: Fabric | None = None
    doubts: list[str] = []

    @model_validator(mode="after")
    def _consistent(self) -> Cluster:
        if self.nodes > 1 and self.fabric is None:
            raise ValueError("more than one node needs a 'fabric'")
        if self.nodes > 1 and self.fabric and self.fabric.kind != "torus" and not self.node.nics:
            raise ValueError("more than one node needs 'nics' on each")
        if self.node.nvlink == "torus" and (self.fabric is None or self.fabric.kind != "torus"):
            raise ValueError("node.nvlink 'torus' needs a fabric of kind 'torus'")
        if self.fabric and self.fabric.kind == "torus":
            chips = 1
            for side in self.fabric.shape:
                chips *= side
            if chips != self.gpus or self.node.nvlink != "torus":
                raise ValueError(f"the torus has {chips} places for {self.gpus} chips; node.nvlink must be 'torus'")
        return self

    def __hash__(self) -> int:
        """By name; equality compares every value."""
        return hash(self.name)

    @property
    def gpus(self) -> int:
        return self.nodes * self.node.gpus

    def sized(self, gpus: int) -> Cluster:
        """The same with as many GPUs: the first of one node, or whole nodes. Raises SpecError."""
        if gpus == self.gpus:
            return self
        per_node = self.node.gpus
        if self.node.nvlink == "torus":
            raise SpecError(f"'{self.name}' is a torus of {self.gpus}; {gpus} cannot be cut from it")
        if gpus > per_node and self.fabric is None:
            raise SpecError(
                f"{gpus} x {self.gpu}: a node has {per_node}, and '{self.name}' says of no network between nodes; "
                f"1 to {per_node} are accepted, or a cluster file"
            )
        if gpus > per_node and gpus % per_node:
            low = gpus - gpus % per_node
            raise SpecError(
                f"{gpus} x {self.gpu} are no whole nodes of {per_node}; {low} or {low + per_node} are accepted"
            )
        if gpus > per_node * MOST_NODES:
            raise SpecError(f"{gpus} x {self.gpu} are too many; up to {per_node * MOST_NODES} are accepted")
        return self.model_copy(
            update={
                "name": f"{gpus}x{self.gpu}",
                "aliases": [],
                "nodes": max(gpus // per_node, 1),
                "node": self.node if gpus > per_node else self.node.first(gpus),
                "doubts": [*self.doubts, f"sized from '{self.name}'"],
            }
        )
