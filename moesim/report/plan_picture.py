"""A plan as a picture: which GPU holds what, and which links carry what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moesim.experts.placement import linear
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.hardware import Hardware
from moesim.inputs.model_of import model_of
from moesim.models.model import Model
from moesim.models.plan import Plan
from moesim.outcome import Prediction
from moesim.report.figure import pyplot, save
from moesim.report.plan_text import traffic
from moesim.units import bytes_text

_PER_ROW = 4
_BOX, _GAP = (2.7, 1.05), 0.3
_STAGES = ("#cfe3f5", "#f9dcc4", "#d5ecd4", "#ead7f1", "#fbeeb8", "#d9d9d9", "#f5c9d6", "#c9efec")
_MOST_NODES = 4


def draw_plan(prediction: Prediction, target: Path) -> Path:
    """Boxes for GPUs, grouped by node; below them what passes links. Needs matplotlib."""
    plt = pyplot()
    scenario = prediction.scenario
    plan, hardware = Plan.of(scenario.engine), load_hardware(scenario.hardware)
    model = model_of(scenario)
    per_node = min(hardware.gpus_per_node, plan.world)
    nodes = min(-(-plan.world // per_node), _MOST_NODES)
    rows = -(-per_node // _PER_ROW)
    node_height = rows * (_BOX[1] + _GAP) + 0.5
    width = min(per_node, _PER_ROW) * (_BOX[0] + _GAP) + _GAP
    moved = sorted(traffic(prediction), key=lambda row: -row[4])[:8]
    height = nodes * node_height + 1.0 + 0.32 * (len(moved) + 2)
    width = max(width + _GAP, 9.0)
    figure, axes = plt.subplots(figsize=(width, height), dpi=110)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    axes.text(
        _GAP, height - 0.35, f"{scenario.model}: {plan.describe()} on {hardware.title}", fontsize=13, weight="bold"
    )
    top = height - 0.7
    for node in range(nodes):
        _draw_node(axes, plt, node, per_node, top, node_height, hardware, plan, model)
        top -= node_height
    hidden = -(-plan.world // per_node) - nodes
    if hidden > 0:
        axes.text(_GAP, top - 0.05, f"and {hidden} more nodes like these", fontsize=9, style="italic")
    top -= 0.35
    axes.text(_GAP, top, "What passes links over the whole batch (each GPU sends)", fontsize=10, weight="bold")
    for phase, name, members, sent, seconds in moved:
        top -= 0.32
        where = _link(hardware, members)
        what = f"{phase}: {name.replace('_', ' ')} among {len(members)} GPUs"
        line = f"{what}, {bytes_text(sent)}, {seconds:.3g} s, over {where}"
        axes.text(_GAP, top, line, fontsize=9)
    if not moved:
        axes.text(_GAP, top - 0.32, "nothing: no GPU talks to another", fontsize=9)
    return save(figure, target, bbox_inches="tight")


_JOINED = {
    "NVSwitch": "all joined by NVSwitch", "bridge": "NVLink bridges", "mesh": "links to each other",
    "torus": "torus links",
}  # fmt: skip


def _draw_node(
    axes: Any, plt: Any, node: int, per_node: int, top: float, node_height: float, hardware: Hardware, plan: Plan,
    model: Model,
) -> None:  # fmt: skip
    columns = min(per_node, _PER_ROW)
    frame = (columns * (_BOX[0] + _GAP) + _GAP / 2, node_height - 0.15)
    axes.add_patch(plt.Rectangle((_GAP / 2, top - frame[1]), *frame, fill=False, edgecolor="#888888", linestyle="--"))
    links = {
        "NVSwitch": "all joined by NVSwitch",
        "bridge": "NVLink bridges",
        "mesh": "links to each other",
        "torus": "torus links",
    }
    joined = links.get(hardware.links.kind, "joined through PCIe")
    axes.text(_GAP, top - 0.27, f"node {node}: {joined}", fontsize=8, color="#555555")
    for i in range(per_node):
        place = node * per_node + i
        if place >= plan.world:
            break
        x = _GAP + (i % _PER_ROW) * (_BOX[0] + _GAP)
        y = top - 0.38 - (i // _PER_ROW) * (_BOX[1] + _GAP) - _BOX[1]
        where = plan.coordinates(place)
        colour = _STAGES[where["pp"] % len(_STAGES)]
        axes.add_patch(plt.Rectangle((x, y), *_BOX, facecolor=colour, edgecolor="black", linewidth=0.8))
        for n, line in enumerate(_holds(place, where, plan, model)):
            weight = "bold" if n == 0 else "normal"
            axes.text(x + 0.08, y + _BOX[1] - 0.22 - 0.21 * n, line, fontsize=7.5, weight=weight)


def _holds(place: int, where: dict[str, int], plan: Plan, model: Model) -> list[str]:
    """What a GPU holds, in up to four short lines."""
    lines = [f"GPU {place}"]
    if plan.dp > 1:
        lines[0] += f"   replica {where['dp']} of {plan.dp}"
    layers = [model.stage(i, plan.pp).num_hidden_layers for i in range(plan.pp)]
    first = sum(layers[: where["pp"]])
    stage = f"stage {where['pp']}: " if plan.pp > 1 else ""
    lines.append(f"{stage}layers {first}-{first + layers[where['pp']] - 1}")
    lines.append(f"attention: heads, slice {where['tp'] + 1} of {plan.tp}" if plan.tp > 1 else "attention: whole")
    moe = model.moe
    if moe is not None:
        lines.append(_experts(where["dp"] * plan.tp + where["tp"], plan, moe.num_experts))
    return lines


def _experts(flat: int, plan: Plan, experts: int) -> str:
    rank, piece = divmod(flat, plan.expert_tp)
    sliced = f", slice {piece + 1} of {plan.expert_tp}" if plan.expert_tp > 1 else ""
    if plan.ep == 1:
        return f"experts: all {experts}{sliced}"
    if plan.redundant:
        return f"experts: {-(-(experts + plan.redundant) // plan.ep)} slots placed by load{sliced}"
    if plan.placement == "round_robin":
        return f"experts: {rank}, {rank + plan.ep}, ..{sliced}"
    if plan.placement == "load_sorted":
        return f"experts: {-(-experts // plan.ep)} by load{sliced}"
    held = np.flatnonzero(linear(experts, plan.ep)[rank])
    first, last = int(held[0]), int(held[-1])
    return f"experts: {first}-{last}{sliced}" if last > first else f"expert: {first}{sliced}"


def _link(hardware: Hardware, members: tuple[int, ...]) -> str:
    """The links a group has between its GPUs."""
    from moesim.hardware.topology import route

    found = route(hardware, members) if hardware.cluster else None
    if found is None:
        return hardware.links.kind if hardware.links.kind != "none" else "PCIe"
    if found.switched:
        return "NVSwitch"
    busiest = f"busiest {found.bottleneck}"
    return f"{found.nodes} nodes, {busiest}" if found.nodes > 1 else busiest
