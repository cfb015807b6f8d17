"""A GPU that does not exist: ``h100-sxm[hbm_bandwidth*1.2, dense*2]`` is a shipped one with figures multiplied."""

from __future__ import annotations

import re
from typing import Any

from moesim.errors import SpecError
from moesim.hardware.hardware import Gpu, Hardware

_FORM = re.compile(r"\s*(?P<name>[^\[\]]+?)\s*\[(?P<changes>[^\[\]]*)\]\s*")
_CHANGE = re.compile(r"\s*(?P<field>[a-z_0-9]+)\s*\*\s*(?P<factor>\d{1,6}(?:\.\d{1,9})?)\s*")
_GPU = tuple(name for name in Gpu.model_fields)
_DENSE = tuple(name for name in _GPU if name.startswith("dense_"))
_LINKS = {"link": "gpu_to_gpu", "host_link": "host", "nic": "nic"}
_NODE = {"link": ("link", "pcie"), "nic": ("nic",)}
"""Of a cluster's node, beside the GPU's own."""
FIELDS = (*_GPU, "dense", *_LINKS)
"""What can be multiplied; ``dense`` is every rate of arithmetic."""


def parted(name: str) -> tuple[str, dict[str, float]] | None:
    """(the shipped name, field -> factor) of a changed one; None of any other. Raises SpecError."""
    found = _FORM.fullmatch(name)
    if found is None:
        return None
    factors: dict[str, float] = {}
    for text in found["changes"].split(","):
        change = _CHANGE.fullmatch(text)
        if change is None or not 1e-3 <= float(change["factor"]) <= 1e3:
            raise SpecError(
                f"'{text.strip()}' is no change of a GPU; FIELD*FACTOR, like hbm_bandwidth*1.2, is accepted"
            )
        if change["field"] not in FIELDS:
            raise SpecError(f"'{change['field']}' is no figure of a GPU; there are {', '.join(FIELDS)}")
        if change["field"] in factors:
            raise SpecError(f"'{change['field']}' is changed twice in '{name}'; once is accepted")
        factors[change["field"]] = float(change["factor"])
    return found["name"], factors


def changed(hardware: Hardware, factors: dict[str, float]) -> Hardware:
    """The same with figures multiplied; what it has not stays away."""
    gpu, links, cluster = hardware.gpu, hardware.links, hardware.cluster
    for field, factor in factors.items():
        if field in _LINKS:
            links = _scaled(links, (_LINKS[field],), factor)
            if cluster is not None:
                node = _scaled(cluster.node, _NODE.get(field, ()), factor)
                cluster = cluster.model_copy(update={"node": node})
        else:
            gpu = _scaled(gpu, _DENSE if field == "dense" else (field,), factor)
    return hardware.model_copy(update={"gpu": gpu, "links": links, "cluster": cluster, "unchanged": hardware.gpu})


def _scaled(part: Any, names: tuple[str, ...], factor: float) -> Any:
    found = {}
    for name in names:
        figure = getattr(part, name)
        if figure is not None:
            value = max(round(figure.value * factor), 1) if name == "sm_count" else figure.value * factor
            found[name] = figure.model_copy(update={"value": value, "note": f"x {factor:g} as asked"})
    return part.model_copy(update=found)
