"""Steps of a model whose weights are not all on the GPU.

Every operation is priced as without offloading (or as eager PyTorch runs it); copies, disk and CPU are priced beside
them; ``lanes`` says how long they take together, and what that hides is a negative cost in the tree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, reduced, summed
from moesim.cost.host import HostMachine
from moesim.cost.machine import Machine
from moesim.cost.reasons import OTHER_SYSTEM, Why
from moesim.models.ends import hop_operations
from moesim.models.frame import Frame
from moesim.models.rank import Rank
from moesim.offload.lanes import Rules, Timeline, schedule
from moesim.offload.misses import Requests
from moesim.offload.moved import moved_costs
from moesim.offload.plan import OffloadPlan
from moesim.offload.sections import Sections, eager_sections, fused_sections
from moesim.offload.together import lanes_seconds, with_spread
from moesim.offload.works import Alike, in_order, works
from moesim.ops import Host
from moesim.ops.load import Group, Load
from moesim.steps.step import StepModel, kernels_of, one_number


@dataclass(frozen=True)
class OffloadedSteps:
    """Prices steps of an offloaded model on one GPU and its host."""

    resident: StepModel
    """The same model with everything on the GPU."""
    plan: OffloadPlan
    requests: Requests | None
    """None in a dense model."""

    @property
    def rank(self) -> Rank:
        return self.resident.rank

    @property
    def machine(self) -> Machine:
        return self.resident.machine

    def stage_costs(self, load: Load, sampled: Any) -> list[Cost]:
        """One stage: an offloaded model runs on one GPU."""
        return [self.cost("stage 0", load, sampled)]

    def schedule_cost(self, stages: list[Cost], load: Load) -> Cost:
        return self.resident.schedule_cost(stages, load)

    @cached_property
    def around(self) -> HostMachine:
        plan = self.plan
        return HostMachine(plan.hardware, plan.host, plan.system, plan.policy, plan.rank.tp)

    @property
    def eager(self) -> bool:
        return self.plan.system.runtime.kernels == "eager"

    @property
    def rules(self) -> Rules:
        policy = self.plan.policy
        return Rules(policy.copies != "blocking", policy.prefetch == "next_layer", self.plan.host.full_duplex)

    def load(self, groups: tuple[Group, ...], source_len: Any = 0) -> Load:
        """As ``StepModel.load``; what pads vLLM's graphs no other engine runs."""
        found = self.resident.load(groups, source_len)
        return replace(found, padded_tokens=one_number(found.tokens)) if self.plan.system.runtime.related else found

    def cost(self, name: str, load: Load, sampled: Any, encoder: bool = False) -> Cost:
        """A whole step; see ``StepModel.cost``."""
        if self.plan.plain:
            return self.resident.cost(name, load, sampled, encoder)
        kinds = self.kinds(load, encoder)
        alike = works(self.plan, self.requests, self.around, kinds, load, encoder, name)
        parts = self._gpu_parts(kinds, alike)
        in_lanes = sum((part.total for part in parts), 0.0)
        parts += self.beside(load, sampled, encoder)
        if not self.eager:
            parts.append(self.resident.host_cost(parts, load))
        shape = load.shape
        moved = [reduced(cost, lambda x: _shaped(x, shape)) for cost in moved_costs(self.plan, self.around, alike)]
        in_lanes = in_lanes + sum((cost.seconds for cost in moved), 0.0)
        together, variance, spread = with_spread(alike, self.rules, moved)
        formula = "time of all lanes together - sum of their times"
        saved = Cost(
            "hidden by overlap", _shaped(together, shape) - in_lanes,
            {family: (_shaped(down, shape), _shaped(up, shape)) for family, (down, up) in spread.items()},
            bound="overlap", formula=formula, source="lanes", variance=_shaped(variance, shape),
        )  # fmt: skip
        found = summed(name, [*parts, *moved, saved])
        return _widened(found) if self.plan.system.runtime.related else found

    def seconds(self, name: str, load: Load, encoder: bool, kinds: dict[int, Sections], beside: list[Cost]) -> Any:
        """The central time alone of what ``cost`` prices in full, from parts priced before. [s]

        Under a plan of several points an axis of points comes first.
        """
        shape = (self.plan.points, *load.shape) if self.plan.points > 1 else load.shape
        alike = works(self.plan, self.requests, self.around, kinds, load, encoder, name)
        more_s = sum((part.total for part in beside), 0.0)
        together = _shaped(lanes_seconds(alike, self.rules)[0], shape) + more_s
        if self.eager:
            return together
        kernels, gpu_s = kernels_of(beside), more_s
        for i, kind in kinds.items():
            groups = _on_gpu(alike, i)
            count = sum(g.layers for g in groups)
            kernels += count * (len(kind.before) + len(kind.experts) + len(kind.after))
            gpu_s = gpu_s + count * (kind.seconds(0) + self._share(kind, groups) * kind.seconds(1) + kind.seconds(2))
        return together + self.machine.host_seconds(
            Host(load.sequences, kernels, load.graph, gpu_s, self.resident.ahead, ranks=self.rank.tp)
        )

    def beside(self, load: Load, sampled: Any, encoder: bool) -> list[Cost]:
        """What there is besides layers: embedding and head, or the caches of an encoder's output; a fixed time."""
        if encoder:
            return self.resident.source_caches(load)
        fixed = [] if self.plan.everything_resident else self.around.fixed()
        return [*self.resident.ends(Frame(self.rank, load), sampled), *self._hops(load), *fixed]

    def _hops(self, load: Load) -> list[Cost]:
        """From each GPU that holds some of the layers to the next."""
        split = self.plan.split
        if split is None:
            return []
        parts = [self.machine.price(name, op) for name, op in hop_operations(Frame(split, load))]
        return [summed("between GPUs", parts, split.plan.pp - 1)]

    def timeline(self, load: Load) -> Timeline:
        """The lanes of one decode step, with the mean numbers of misses."""
        alike = works(self.plan, self.requests, self.around, self.kinds(load, False), load, False, "decode")
        timeline = Timeline()
        mean = [work.mapped(lambda x: float(np.mean(x))) for work in in_order(alike)]
        timeline.end_s = float(np.mean(schedule(mean, self.rules, timeline)))
        return timeline

    def experts_per_step(self, tokens: int) -> tuple[float, float]:
        """(experts a decode step asks for, those of them on the GPU), over all layers."""
        if self.requests is None:
            return 0.0, 0.0
        slots, asked = self.plan.decoder_slots, float(self.requests.distinct(tokens))
        return asked * len(slots), asked * float(self.requests.hit_rate(tokens, np.array(slots)).sum())

    def kinds(self, load: Load, encoder: bool) -> dict[int, Sections]:
        """Each kind of layer on the GPU."""
        found, tokens, at = {}, one_number(load.tokens), Frame(self.rank, load)
        for i, layers in enumerate(self.rank.model.layers):
            if layers.encoder != encoder:
                continue
            costs, distinct, touched = self.resident.operation_costs(layers, at), 0.0, 1.0
            on_cpu: list[Cost] = []
            if self.plan.policy.kv_cache == "cpu":
                on_cpu = [cost for cost in costs if cost.op.of_context]
                costs = [cost for cost in costs if not cost.op.of_context]
            if layers.routed is not None and self.requests is not None:
                distinct = one_number(np.maximum(self.requests.distinct(tokens), 1e-9))
                touched = one_number(np.maximum(np.asarray(self.requests.loads.distinct(tokens), float), 1e-9))
            if self.eager:
                args = (self.machine, self.around, self.rank, layers, tokens, distinct)
                sections = eager_sections(costs, *args)
            else:
                sections = fused_sections(costs, layers, distinct, touched)
            found[i] = replace(sections, on_cpu=on_cpu)
        return found

    def _gpu_parts(self, kinds: dict[int, Sections], alike: list[Alike]) -> list[Cost]:
        """The GPU's own work, by kind of layer, without what runs on the CPU."""
        parts = []
        for i, kind in kinds.items():
            groups = _on_gpu(alike, i)
            count = sum(g.layers for g in groups)
            if not count:
                continue
            share = self._share(kind, groups)
            experts = [reduced(cost, lambda x, s=share: x * s) for cost in kind.experts]
            children = [*kind.before, *experts, *kind.after]
            if self.eager:
                waits = kind.waits[0] + share * kind.waits[1] + kind.waits[2]
                children.append(self.around.launches("waiting for launches", waits))
            parts.append(summed(self.rank.model.layers[i].title, children, count))
        return parts

    def _share(self, kind: Sections, groups: list[Alike]) -> Any:
        """Of the experts that layers of a kind touch, those that run on the GPU."""
        if not kind.experts:
            return 1.0
        on_gpu = sum(g.over_layers(g.work.hits + g.work.guessed + g.work.fetched) for g in groups)
        distinct, layers, points = np.asarray(kind.distinct), sum(g.layers for g in groups), self.plan.points
        shape = (points, -1) if points > 1 else distinct.shape if distinct.size > 1 else (-1,)
        return _shaped(on_gpu, shape) / np.maximum(layers * distinct, 1e-9)


def _on_gpu(alike: list[Alike], kind: int) -> list[Alike]:
    """Layers of a kind that the GPU runs."""
    return [g for g in alike if g.kind == kind and np.all(np.asarray(g.work.whole_cpu_s) == 0)]


def _shaped(x: Any, shape: tuple[int, ...]) -> Any:
    """One entry a step, in the shape steps have; what is equal for all of them as a number."""
    x = np.asarray(x)
    return x.reshape(shape) if x.size > 1 else x.reshape(())


def _widened(cost: Cost) -> Cost:
    """Intervals of another engine's kernels: twice as wide where they are not already another kernel's."""
    if cost.children:
        return summed(cost.name, [_widened(child) for child in cost.children], cost.count)
    if cost.bound == "overlap" or any(family.startswith("offload/") for family in cost.spread):
        return cost
    related = any(reason.why is Why.RELATED_KERNEL for reason in cost.reasons)
    factor = 1.0 if related else OTHER_SYSTEM.why.factor
    spread = {family: (factor * down, factor * up) for family, (down, up) in cost.spread.items()}
    return replace(cost, spread=spread, reasons=(*cost.reasons, OTHER_SYSTEM), tag="extrapolated")
