"""One layer's work on the GPU, cut where the router has chosen: before, experts, after."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, reduced
from moesim.cost.host import HostMachine
from moesim.cost.machine import Machine
from moesim.models.model import Layers
from moesim.models.rank import Rank
from moesim.offload import eager


@dataclass(frozen=True)
class Sections:
    """Costs of one layer; ``experts`` are all that a step touches."""

    before: list[Cost]
    experts: list[Cost]
    after: list[Cost]
    waits: tuple[Any, Any, Any]
    """Seconds the GPU waits for the host's launches in each; zero where a graph runs them."""
    distinct: Any
    """Experts that a step touches; 0 in a dense layer."""
    on_cpu: list[Cost] = field(default_factory=list)
    """Attention over the cache, where that lies in main memory: what it would take here tells what it does there."""

    def seconds(self, section: int) -> Any:
        """A section's time on the GPU, launches waited for."""
        parts = (self.before, self.experts, self.after)[section]
        return sum((part.total for part in parts), 0.0) + self.waits[section]


def fused_sections(costs: list[Cost], layers: Layers, distinct: Any, touched: Any) -> Sections:
    """As vLLM runs it; ``distinct`` are left of the ``touched`` experts that the tokens ask for."""
    nothing = (0.0, 0.0, 0.0)
    if layers.routed is None:
        return Sections(costs, [], [], nothing, 0.0)
    at = [cost.name for cost in costs].index("experts")
    experts = [reduced(costs[at], lambda x: x * distinct / touched)]
    return Sections(costs[:at], experts, costs[at + 1 :], nothing, distinct)


def eager_sections(
    costs: list[Cost], machine: Machine, around: HostMachine, rank: Rank, layers: Layers, tokens: Any, distinct: Any
) -> Sections:
    """As PyTorch runs it: one expert after the other, the host launching every operation."""
    runtime, ffn = around.system.runtime, layers.routed
    launch = around.host.cpu.operation.value
    before, experts, after, waited_for = costs, [], [], 0.0
    of_before, of_expert, of_after = eager.launches(runtime, layers)
    counts = [of_before, 0.0, of_after]
    if ffn is not None:
        at = [cost.name for cost in costs].index("experts")
        before, after = costs[:at], costs[at + 1 :]
        rows = np.maximum(np.asarray(tokens) * ffn.num_experts_per_tok / distinct, 1.0)
        one = eager.expert_cost(machine, around, rank, ffn, rows)
        experts = [reduced(part, lambda x: x * distinct) for part in one.children]
        assert runtime.expert_operations
        counts[1] = distinct * of_expert
        waited_for = distinct * runtime.expert_operations.value * launch
    before = [*before, *eager.unpacking(around, rank, layers)]
    gpu = [sum((part.total for part in parts), 0.0) for parts in (before, experts, after)]
    before_s, experts_s, after_s = (
        np.maximum(count * launch - busy, 0.0) for count, busy in zip(counts, gpu, strict=True)
    )
    return Sections(before, experts, after, (before_s, experts_s + waited_for, after_s), distinct)
