"""What a step costs outside the GPU's kernels, summed over layers: copies, disk, CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.cost.cost import Cost, reduced
from moesim.cost.host import HostMachine
from moesim.offload import memory
from moesim.offload.plan import OffloadPlan
from moesim.offload.streamed import copies_of
from moesim.offload.works import Alike
from moesim.ops.host import Copy, CpuMatrices, DiskRead


def moved_costs(plan: OffloadPlan, around: HostMachine, alike: list[Alike]) -> list[Cost]:
    """One leaf for each kind of traffic or help there is."""
    return [*_experts(plan, around, alike), *_layers(plan, around, alike)]


def _experts(plan: OffloadPlan, around: HostMachine, alike: list[Alike]) -> list[Cost]:
    ffns, found = memory.moe_layers(plan.rank), []
    if not ffns:
        return []
    each = memory.expert_bytes(plan.rank, ffns[0])
    fetched, wasted, on_cpu, busy = (
        _total(alike, lambda w: w.fetched + w.guessed), _total(alike, lambda w: w.wasted),
        _total(alike, lambda w: w.on_cpu), _total(alike, lambda w: w.on_cpu * w.cpu_s),
    )  # fmt: skip
    if np.any(fetched > 0):
        found.append(around.copy("expert_copy", Copy(fetched, each)))
        if plan.policy.writeback:
            found.append(around.copy("expert_writeback", Copy(fetched, each, back=True)))
    if np.any(plan.disk_share) and np.any(fetched + wasted + on_cpu > 0):
        read = plan.disk_share * (fetched + wasted + on_cpu)
        found.append(around.disk("expert_from_disk", DiskRead(read, each)))
    if np.any(wasted > 0):
        found.append(around.copy("wrong_guesses", Copy(wasted, each)))
    if np.any(on_cpu > 0):
        found.append(
            _lasting(around.cpu("experts_on_cpu", CpuMatrices(on_cpu, plan.rank.plan.expert_tp * each, 0.0)), busy)
        )
    return found


def _layers(plan: OffloadPlan, around: HostMachine, alike: list[Alike]) -> list[Cost]:
    """Whole layers over the link, from disk, or on the CPU."""
    stream, disk, on_cpu = (
        _total(alike, lambda w: w.stream_s), _total(alike, lambda w: w.stream_disk_s),
        _total(alike, lambda w: w.whole_cpu_s),
    )  # fmt: skip
    found = []
    if np.any(stream > 0):
        copies = [
            (g.layers, copies_of(plan, g.kind, _called(g))) for g in alike if np.any(np.asarray(g.work.stream_s) > 0)
        ]
        count = sum(layers * op.count for layers, op in copies)
        moved = sum(layers * op.hbm_bytes for layers, op in copies)
        found.append(_lasting(around.copy("layer_copy", Copy(count, moved / count)), stream))
    if np.any(disk > 0):
        bytes_ = disk * around.host.disk.bandwidth.value
        found.append(_lasting(around.disk("layer_from_disk", DiskRead(1, bytes_)), disk))
    if np.any(on_cpu > 0):
        blocks = sum(g.layers for g in alike if np.any(np.asarray(g.work.whole_cpu_s) > 0))
        each = on_cpu / blocks * around.cpu_bytes_per_s
        found.append(_lasting(around.cpu("layers_on_cpu", CpuMatrices(blocks, each, 0.0)), on_cpu))
    attention = _total(alike, lambda w: w.cache_cpu_s)
    if np.any(attention > 0):
        blocks = sum(g.layers for g in alike if np.any(np.asarray(g.work.cache_cpu_s) > 0))
        each = attention / blocks * around.cpu_bytes_per_s
        found.append(_lasting(around.cpu("attention_on_cpu", CpuMatrices(blocks, each, 0.0)), attention))
    return found


def _called(group: Alike) -> Any:
    """Experts that each step calls of a layer, one entry a step."""
    return group.over_layers(group.work.hits) / group.layers


def _total(alike: list[Alike], what: Any) -> Any:
    return sum((group.over_layers(what(group.work)) for group in alike), 0.0)


def _lasting(cost: Cost, seconds: Any) -> Cost:
    """A cost of another duration, as uncertain in proportion."""
    factor = seconds / np.maximum(cost.seconds, 1e-30)
    return reduced(cost, lambda x: x * factor)
