"""Deployments in line, by the best that each can conceivably be; what leaves it unpriced is counted by its reason."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from moesim.explore.constraints import value_text
from moesim.explore.recommend import bounds
from moesim.explore.recommend.measures import higher, unit_of
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.space import Deployment, Engine, deployments, engines
from moesim.inputs.model_of import model_of
from moesim.models.model import Model
from moesim.units import bytes_text

_WAVE = 96
"""Engines priced before the bound is drawn again, whatever the number of processes: the answer does not hang on it."""


class Place(NamedTuple):
    """The best that the objective can be, smaller being better, then a deployment's latency."""

    best: float
    latency: float
    deployment: Deployment


class Line:
    """What a question leaves to be priced."""

    def __init__(self, question: Question):
        self._question = question
        self._sign = -1.0 if question.higher else 1.0
        self._models: dict[tuple[str, str | None], Model] = {}
        self.why: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.places = self._places()
        self.considered = len(self.places) + sum(self.why.values())

    def exclude(self, reason: str, count: int, example: str) -> None:
        """Count deployments that cannot be, by a kind of reason."""
        if count:
            self.why[reason] += count
            self.examples.setdefault(reason, example)

    def next(self, bound: float) -> dict[Engine, list[Deployment]]:
        """The next engines whose deployments may be as good as ``bound``, with all of those; they leave the line."""
        end = next((i for i, place in enumerate(self.places) if place.best > bound), len(self.places))
        found: dict[Engine, list[Deployment]] = {}
        for place in self.places[:end]:
            engine = place.deployment.engine
            if engine in found or len(found) < _WAVE:
                found.setdefault(engine, []).append(place.deployment)
        self.places = [p for i, p in enumerate(self.places) if i >= end or p.deployment.engine not in found]
        return found

    def close(self, bound: float, finalists: int) -> None:
        """Count those that are left: none can be among the best."""
        if not self.places:
            return
        place, unit = self.places[0], unit_of(self._question.objective)
        best, last = (value_text(self._sign * value, unit) for value in (place.best, bound))
        example = f"{best} at best on {where(place.deployment)}, the last of the best has {last}"
        reason = f"{self._question.objective} cannot be among the best {finalists}"
        self.exclude(reason, len(self.places), example)

    def _places(self) -> list[Place]:
        found = []
        for engine in engines(self._question.space, self._question.scenario):
            model, many = self._model(engine), list(deployments(self._question.space, engine))
            if not bounds.fits(engine, model):
                held = bytes_text(bounds.weights(model).held)
                need = f"{engine.model} {engine.quantization or 'as published'} needs {held} at least"
                self.exclude("weights exceed the memory of all GPUs", len(many), f"{need}, {where(many[0])} has less")
                continue
            for deployment in many:
                if not self._refused(deployment, model):
                    best = self._optimistic(self._question.objective, deployment, model)
                    latency = self._optimistic("mean_e2el", deployment, model)
                    found.append(Place(self._sign * (best or 0.0), latency or 0.0, deployment))
        return sorted(found, key=lambda place: (place.best, place.latency, repr(place.deployment)))

    def _model(self, engine: Engine) -> Model:
        key = engine.model, engine.quantization
        if key not in self._models:
            scenario = self._question.scenario.model_copy(update={"model": engine.model})
            self._models[key] = model_of(scenario).under(engine.quantization)
        return self._models[key]

    def _optimistic(self, measure: str, deployment: Deployment, model: Model) -> float | None:
        """The best that a measure can be; None where nothing says."""
        question = self._question
        if measure in question.quality_metrics:
            return question.quality_values(deployment.engine)[measure]
        price = question.usd_per_hour(deployment)
        if measure.startswith("usd") and price is None:
            return None
        return bounds.optimistic(measure, deployment, model, question.scenario.workload, price)

    def _refused(self, deployment: Deployment, model: Model) -> bool:
        """Whether a floor, or a figure that is known without pricing, breaks a limit."""
        objective = self._question.objective
        if self._optimistic(objective, deployment, model) is None:
            self.exclude(f"{objective} is not known", 1, where(deployment))
            return True
        for limit in self._question.limits:
            best = self._optimistic(limit.metric, deployment, model)
            # A limit on the other side of a figure is no matter of a bound, unless the figure is known.
            bounding = limit.upper != higher(limit.metric) or limit.metric in self._question.quality_metrics
            if best is None or (bounding and not limit.keeps(best)):
                shown = "is not known" if best is None else f"is {value_text(best, unit_of(limit.metric))} at best"
                self.exclude(f"cannot keep {limit}", 1, f"{limit.metric} {shown} on {where(deployment)}")
                return True
        return False


def where(deployment: Deployment) -> str:
    """GPUs, plan, format and drafts, as counts name their examples."""
    engine = deployment.engine
    stored = f" {engine.quantization}" if engine.quantization else ""
    return f"{deployment.gpus} x {engine.gpu} ({deployment.describe()}{stored}{engine.extras})"
