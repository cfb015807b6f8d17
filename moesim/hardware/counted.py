"""A count with a card ("8xH100", "h100 x8"): the card's shipped node cut to it, or several such nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from moesim.errors import SpecError
from moesim.hardware.cluster import Cluster, Node
from moesim.hardware.hardware import Hardware

_READINGS = (
    re.compile(r"\s*(?P<count>\d{1,3})\s+(?P<card>[A-Za-z].+)"),
    re.compile(r"(?P<card>.+):(?P<count>\d{1,6})"),
    re.compile(r"\s*(?P<count>\d{1,6})\s*[xX*×]\s*(?P<card>.+)"),
    re.compile(r"(?P<card>.+?)[\s_-]*[xX*×]\s*(?P<count>\d{1,6})\s*"),
)


def readings(name: str) -> Iterator[tuple[int, str]]:
    """What a name may mean as a count and a card; "2x4090" reads both ways, and one of them is no card."""
    for form in _READINGS:
        if found := form.fullmatch(name):
            yield int(found["count"]), found["card"]


def cluster_of(card: Hardware, count: int, shipped: list[Cluster]) -> Cluster:
    """``count`` GPUs of a card as they are usually wired: from the smallest of its shipped clusters with as many.

    Raises
    ------
    SpecError
        No such cluster can be built.
    """
    if count < 1:
        raise SpecError(f"{count} x {card.name}: a count is 1 or more")
    if not shipped:
        return _from_card(card, count)
    enough = [cluster for cluster in shipped if cluster.gpus >= count]
    if enough:
        return min(enough, key=lambda c: c.gpus).sized(count)
    return max(shipped, key=lambda c: (c.fabric is not None, c.gpus)).sized(count)


def _from_card(card: Hardware, count: int) -> Cluster:
    """Cards in the slots of one host: over PCIe, two of them under the bridge the card has."""
    if count > card.gpus_per_node:
        raise SpecError(
            f"{count} x {card.name}: no node of more than {card.gpus_per_node} is known; "
            f"1 to {card.gpus_per_node} are accepted, or a cluster file"
        )
    bridged = card.links.kind == "bridge" and count == 2
    if card.links.kind not in {"none", "bridge"} and count > 1:
        raise SpecError(f"{count} x {card.name}: how they are wired ({card.links.kind}) needs a cluster file")
    return Cluster(
        name=f"{count}x{card.name}",
        gpu=card.name,
        source=card.source,
        node=Node(gpus=count, nvlink=[(0, 1)] if bridged else "none"),
        doubts=["slots of one host at their full rate; no node of this card is described"],
    )
