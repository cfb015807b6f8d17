"""What is asked: a load, what may vary, what is wanted at its best, and what must hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim.explore.constraints import Constraint
from moesim.explore.recommend.measures import OF_POWER
from moesim.explore.recommend.space import Deployment, Engine, Space
from moesim.inputs.prices_file import Price
from moesim.inputs.quality_file import Quality
from moesim.inputs.scenario import Disaggregation, Scenario
from moesim.models.catalogue import load_model
from moesim.ops.formats import kind
from moesim.serving.requests import shares


@dataclass(frozen=True)
class Question:
    """A checked question. Values in SI."""

    scenario: Scenario
    """Workload, routing and engine settings that stay the same."""
    space: Space
    objective: str
    """A measure."""
    higher: bool
    """Whether the objective is wanted at its highest."""
    limits: tuple[Constraint, ...]
    prices: dict[str, tuple[Price, ...]]
    """GPU -> what providers ask for it, or the user."""
    quality: dict[str, Quality]
    """Model -> what the table says of it."""

    @property
    def of_power(self) -> bool:
        """Whether watts decide anything."""
        return self.objective in OF_POWER or any(limit.metric in OF_POWER for limit in self.limits)

    def price(self, deployment: Deployment) -> Price | None:
        """The cheapest way to rent a deployment's GPUs; None where no table says."""
        known = self.prices.get(deployment.engine.gpu, ())
        return min(known, key=lambda price: price.hourly(deployment.gpus), default=None)

    def usd_per_hour(self, deployment: Deployment) -> float | None:
        """Rent of all of a deployment's GPUs. [$/h]"""
        price = self.price(deployment)
        return None if price is None else price.hourly(deployment.gpus)

    def engine_scenario(self, engine: Engine, hardware: str) -> Scenario:
        """A scenario of one engine with all of the load. Raises SpecError."""
        changes: dict[str, Any] = {**engine.settings, "hardware": hardware}
        config = self.scenario.engine.speculative_config
        if config is not None:
            drafting = {**config.model_dump(), "num_speculative_tokens": engine.drafts}
            changes["engine__speculative_config"] = drafting if engine.drafts else None
        return self.scenario.with_(**changes)

    def scenario_of(self, deployment: Deployment) -> tuple[Scenario, int]:
        """(a scenario of one of the deployment's engines with its part of the load, engines like it). Raises SpecError.

        Engines apart are one scenario with all of the load.
        """
        scenario = self.engine_scenario(deployment.engine, deployment.hardware)
        if deployment.prefill:
            apart = Disaggregation(prefill_replicas=deployment.prefill, decode_replicas=deployment.replicas)
            return scenario.with_(disaggregation=apart.model_dump()), 1
        if deployment.replicas == 1:
            return scenario, 1
        # The fullest one speaks for all.
        load = shares(scenario.workload, deployment.replicas)[0][0]
        names = ("max_concurrency", "request_rate", "num_prompts")
        changes = {f"workload__{name}": getattr(load, name) for name in names}
        return scenario.with_(**changes), deployment.replicas

    def quality_values(self, engine: Engine) -> dict[str, float | None]:
        """What the quality table says of a model in a format; None where it does not."""
        table = self.quality.get(engine.model, {})
        stored = load_model(engine.model).under(engine.quantization)
        linear = _plain(stored.quantization.usual)
        formats = (_plain(stored.moe.experts) if stored.moe else linear, linear)
        return {metric: table.get((*formats, metric)) for metric in self.quality_metrics}

    @property
    def quality_metrics(self) -> tuple[str, ...]:
        """What quality tables say of any of the models."""
        return tuple(dict.fromkeys(metric for rows in self.quality.values() for _, _, metric in rows))


def _plain(stored: str) -> str:
    """A format as tables of quality name it: block scales are a detail of fp8's."""
    return kind(stored).removesuffix("_block")
