"""What a recommendation is: the best deployments simulated, what else was considered, and how sure the choice is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from moesim.explore.recommend.estimate import Estimate
from moesim.explore.recommend.measures import MEASURES
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.space import Deployment
from moesim.inputs.scenario import Scenario
from moesim.metrics import Metric
from moesim.outcome import Prediction
from moesim.presented import Presented

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Finalist:
    """A deployment that was simulated. SI units."""

    deployment: Deployment
    scenario: Scenario
    """Of one of its engines, with that engine's part of the load; of engines apart, of all."""
    engines_like_it: int
    prediction: Prediction
    values: dict[str, Metric]
    """Measure -> value and 90 % interval, of the whole deployment."""
    broken: tuple[str, ...]
    """Limits that it does not keep, in sentences."""
    chance: float
    """That it is the best: errors drawn, those that two share drawn once."""
    chance_kept: float
    """That it keeps every limit."""
    reason: str
    """Why it is not the first."""

    @property
    def keeps(self) -> bool:
        return not self.broken


@dataclass(frozen=True)
class Exclusions:
    """Deployments that a bound excludes."""

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class Recommendation(Presented):
    """The answer: finalists, those that keep every limit first, best first."""

    _text: ClassVar[str] = "recommend_text:recommendation_text"

    question: Question
    considered: int
    priced: int
    exclusions: tuple[Exclusions, ...]
    finalists: tuple[Finalist, ...]
    front: tuple[Estimate, ...]
    """Of all that were priced and keep the limits: none is both cheaper and faster. Corrected by what was simulated."""
    measure_next: tuple[tuple[str, float], ...]
    """(error term, chance of choosing right once it is measured), where that is higher than now."""
    advice: tuple[str, ...]
    """Where none keeps every limit: which to relax, by how much."""

    @property
    def best(self) -> Finalist | None:
        """The first that keeps every limit; None where none does."""
        return self.finalists[0] if self.finalists and self.finalists[0].keeps else None

    def to_frame(self) -> pd.DataFrame:
        """A row for each finalist; units in ``attrs["units"]``."""
        from moesim.explore.frames import frame

        units = {name: measure.unit for name, measure in MEASURES.items()}
        ends = {f"{name}{end}": unit for name, unit in units.items() for end in ("_low", "_high")}
        return frame(self.rows(), units | ends)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each finalist: what it is, every measure with its interval."""
        return [
            {
                **_about(one.deployment), "keeps": one.keeps, "chance": one.chance, "chance_kept": one.chance_kept,
                **{f"{name}{end}": value for name, metric in one.values.items()
                   for end, value in (("", metric.value), ("_low", metric.low), ("_high", metric.high))},
                "reason": one.reason,
            }
            for one in self.finalists
        ]  # fmt: skip


def _about(deployment: Deployment) -> dict[str, Any]:
    engine = deployment.engine
    return {
        "model": engine.model, "quantization": engine.quantization or "", "gpu": engine.gpu, "gpus": deployment.gpus,
        "plan": deployment.describe(), "drafts": engine.drafts, **dict(engine.own),
    }  # fmt: skip
