"""Offloading as plain text: tiers of memory, experts found and fetched, busy lanes."""

from __future__ import annotations

from moesim.offload.lanes import LANES
from moesim.offload.plan import OffloadPlan
from moesim.offload.report import OffloadReport
from moesim.offload.tiers import Tiers
from moesim.units import bytes_text

_WIDTH = 48


def tiers_lines(tiers: Tiers) -> list[str]:
    """What lies where."""
    where = "GPU memory" if tiers.gpus == 1 else f"memory of {tiers.gpus} GPUs"
    lines = [
        f"{where}: {bytes_text(tiers.gpu)} at its peak, as nvidia-smi shows it, of {bytes_text(tiers.gpu_budget)}",
        f"  experts, layers {bytes_text(tiers.experts):>10}",
        f"  other weights   {bytes_text(tiers.trunk):>10}",
        f"  landing space   {bytes_text(tiers.buffers):>10}",
        f"  KV cache        {bytes_text(tiers.kv):>10}",
        f"  activations     {bytes_text(tiers.activations):>10}",
        f"  context         {bytes_text(tiers.context):>10}",
        f"main memory: {bytes_text(tiers.dram)} of {bytes_text(tiers.dram_budget)}",
    ]
    if tiers.disk:
        lines.append(f"disk: {bytes_text(tiers.disk)} of {bytes_text(tiers.disk_total)}")
    if tiers.remote:
        lines.append(f"another GPU: {bytes_text(tiers.remote)}")
    return lines


def placement_words(plan: OffloadPlan) -> str:
    """What is on the GPU, in a few words."""
    if plan.by_layer:
        return f"{sum(plan.resident)} of {len(plan.resident)} layers on the GPU"
    experts, slots = plan.rank.model.moe, plan.slots
    total = experts.num_experts if experts else 0
    if len(set(slots)) == 1:
        return f"{slots[0]:.4g} of {total} experts of each layer on the GPU"
    if set(slots) <= {0.0, float(total)}:
        return f"the experts of {sum(s > 0 for s in slots)} of {len(slots)} layers on the GPU"
    return f"{sum(slots):.0f} of {len(slots) * total} experts on the GPU, {min(slots):.4g} to {max(slots):.4g} a layer"


def offload_lines(report: OffloadReport) -> list[str]:
    """Experts of a decode step, the link, and the lanes."""
    plan, timeline = report.plan, report.lanes()
    lines = [f"{plan.system.title} on {plan.host.name}: {placement_words(plan)}"]
    if report.asked and not plan.by_layer:
        cache = f"{plan.policy.cache} cache" if plan.policy.cache != "none" else "no cache"
        lines.append(
            f"  a decode step asks for {report.asked:.4g} experts, finds {report.hit_rate:.0%} on the GPU ({cache})"
        )
    lines.append(f"  to the GPU {report.link_bytes_per_s / 1e9:.4g} GB/s ({report.link_source})")
    if not timeline.events:
        return lines
    lines.append("  lanes of a decode step, layers only:")
    for lane in LANES:
        busy = timeline.busy()[lane]
        if busy:
            lines.append(f"    {lane:12}{1e3 * busy:>10.4g} ms  {_bar(timeline.events, lane, timeline.end_s)}")
    lines.append(f"    {'together':12}{1e3 * timeline.end_s:>10.4g} ms")
    return lines


def _bar(events: list[tuple[str, str, float, float]], lane: str, end_s: float) -> str:
    """When a lane works, in as many characters as fit: a block where it is busy for more than half of one."""
    cells = [0.0] * _WIDTH
    for name, _, start, end in events:
        if name != lane or end_s <= 0:
            continue
        first, last = start / end_s * _WIDTH, end / end_s * _WIDTH
        for i in range(int(first), min(int(last) + 1, _WIDTH)):
            cells[i] += max(min(last, i + 1) - max(first, i), 0.0)
    return "".join("█" if cell > 0.5 else "▒" if cell > 0.02 else "·" for cell in cells)
