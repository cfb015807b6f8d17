"""What a prediction is: one of four kinds, each whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.cost.cost import Cost, leaf_seconds
from moesim.inputs.scenario import Scenario
from moesim.memory import Room
from moesim.metrics import Metric
from moesim.presented import Predicted
from moesim.serving.report import LoadReport
from moesim.serving.steady import SteadyState

if TYPE_CHECKING:
    from moesim.offload.report import OffloadReport
    from moesim.offload.tiers import Tiers

_STRICT_SHARE = 0.01


@dataclass(frozen=True)
class Knowledge:
    """How well a prediction's time is known."""

    tags: dict[str, float]
    """Share of the time priced by each kind of knowledge: fitted, extrapolated or assumed."""
    notes: tuple[str, ...]
    outside: tuple[str, ...]
    """What takes a hundredth of the time or more and lies outside what was fitted: --strict refuses it."""

    @classmethod
    def of(cls, cost: Cost, remarks: tuple[str, ...] = ()) -> Knowledge:
        leaves = leaf_seconds(cost)
        # What overlap hides is no work of its own.
        total = sum(seconds for _, seconds in leaves if seconds > 0)
        tags: dict[str, float] = {}
        notes: set[str] = set()
        outside: set[str] = set()
        for leaf, seconds in leaves:
            tags[leaf.tag] = tags.get(leaf.tag, 0.0) + max(seconds, 0.0) / total
            notes.update(f"{leaf.name}: {note}" for note in leaf.notes)
            if seconds < _STRICT_SHARE * total:
                continue
            outside.update(f"{leaf.name}: {reason.text}" for reason in leaf.reasons if reason.why.strict)
            if leaf.tag != "fitted" and any(family.startswith("offload/") for family in leaf.spread):
                outside.add(f"{leaf.name}: {leaf.tag}, not fitted ({leaf.source})")
        shares = {tag: share for tag, share in tags.items() if share > 0}
        return cls(shares, (*sorted(notes), *remarks), tuple(sorted(outside)))


@dataclass(frozen=True, repr=False)
class Prediction(Predicted, ABC):
    """What a scenario gives. ``metrics`` carry vLLM's names; milliseconds and tokens per second.

    ``print`` shows the summary, a notebook the same with bars.
    """

    scenario: Scenario
    metrics: dict[str, Metric | None]
    cost: Cost
    knowledge: Knowledge

    @property
    @abstractmethod
    def memory(self) -> Room | Tiers:
        """Where memory goes."""

    @property
    def bounds(self) -> dict[str, str]:
        """What bounds prefill and decode."""
        return {part.name: _dominant_bound(part) for part in self.cost.children}

    def __repr__(self) -> str:
        """Its kind, what it is of, and every metric with its interval."""
        found = {name: f"{m.value:.6g} ({m.low:.6g} .. {m.high:.6g})" for name, m in self.metrics.items() if m}
        shown = "".join(f"\n    {name} = {text}" for name, text in found.items())
        return f"{type(self).__name__} prediction of {self.scenario.model} on {self.scenario.hardware}{shown}"

    def __getitem__(self, name: str) -> float:
        """The central value of a metric; NaN where it needs a second output token."""
        if name not in self.metrics:
            raise KeyError(f"'{name}' is not a metric; there are {', '.join(self.metrics)}")
        metric = self.metrics[name]
        return float("nan") if metric is None else metric.value


@dataclass(frozen=True, repr=False)
class OnGpu(Prediction):
    room: Room
    """The memory of a GPU, which holds all weights of its rank."""

    @property
    def memory(self) -> Room:
        return self.room


@dataclass(frozen=True, repr=False)
class Static(OnGpu):
    """A static batch."""


@dataclass(frozen=True, repr=False)
class Served(OnGpu):
    """A simulated run under load."""

    report: LoadReport
    """How it went."""


@dataclass(frozen=True, repr=False)
class Steady(OnGpu):
    """The steady state under load, in closed form."""

    state: SteadyState


@dataclass(frozen=True, repr=False)
class Offloaded(Prediction):
    """A static batch of a model whose weights are not all on the GPU."""

    tiers: Tiers
    offload: OffloadReport
    """What is where, and which lane does what."""

    @property
    def memory(self) -> Tiers:
        return self.tiers


def _dominant_bound(cost: Cost) -> str:
    shares: dict[str, float] = {}
    for leaf, seconds in leaf_seconds(cost):
        key = f"{leaf.name} ({leaf.bound})"
        shares[key] = shares.get(key, 0.0) + seconds
    return max(shares, key=lambda k: shares[k])
