"""What a cluster file says: how GPUs of a node are wired, and how nodes are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from moesim.files.quantities import BytesPerSecond, Ratio, Seconds, Share, Strict


class Node(Strict):
    """The wiring of one node. Bandwidths per device and direction."""

    gpus: int = Field(ge=1, le=256)
    nvlink: Literal["switch", "none", "torus"] | list[tuple[int, int]]
    """``switch`` (NVSwitch), ``none``, pairs joined by a bridge, or a chip's links into the fabric's torus."""
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

    name: str
    aliases: list[str] = []
    gpu: str
    """A GPU under hwspecs/."""
    source: str
    nodes: int = Field(default=1, ge=1, le=4096)
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
