"""What an offloaded run does, for a reader: experts found and fetched, busy lanes, full tiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from moesim.errors import DoesNotFit
from moesim.inputs.workload import Workload
from moesim.offload.lanes import Timeline
from moesim.offload.plan import OffloadPlan
from moesim.units import bytes_text


@dataclass(frozen=True)
class OffloadReport:
    """One decode step in the middle of the output, and what was decided for it."""

    plan: OffloadPlan
    lanes: Callable[[], Timeline]
    """The lanes of that step, worked out when asked for."""
    asked: float
    """Experts that a step asks for, over all layers."""
    found: float
    """Of them on the GPU."""
    link_bytes_per_s: float
    link_source: str

    @property
    def hit_rate(self) -> float:
        """Share of the experts asked for that were on the GPU; 1 where none are asked for."""
        return self.found / self.asked if self.asked else 1.0


def offload_report(steps: Any, load: Workload) -> OffloadReport:
    """The lanes of one decode step of an ``OffloadedSteps``."""
    longest_in, longest_out = load.longest()
    past = 0 if steps.rank.model.has_encoder else longest_in
    group = steps.rank.decoding(load.size, past + longest_out // 2)
    source = longest_in if steps.rank.model.has_encoder else 0
    at = steps.load((group,), source)
    asked, found = steps.experts_per_step(int(at.tokens))
    link = steps.around.link
    return OffloadReport(steps.plan, cache(lambda: steps.timeline(at)), asked, found, link.bytes_per_s, link.source)


def require_tiers(plan: OffloadPlan, ways_out: tuple[str, ...]) -> None:
    """Raise DoesNotFit naming every tier that overflows, by how much."""
    over = plan.tiers.shortfalls
    where = " and ".join(f"{bytes_text(bytes_)} too much in {name}" for name, bytes_ in over.items())
    title = f"{plan.rank.model.name} under {plan.system.title}"
    message = f"{title} does not fit on {plan.hardware.title} with the host {plan.host.name}: {where}"
    raise DoesNotFit(message, max(over.values()), plan.tiers, ways_out)
