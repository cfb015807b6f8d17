"""What an operator lets happen under load: fewer experts a token, a smaller model beside, engines that sleep."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from moesim import units
from moesim.files.quantities import NO_SWITCH, PathText, Strict, Whole

Span = Annotated[
    float, BeforeValidator(lambda text: units.parse(text, "s") if isinstance(text, str) else text),
    Field(ge=0, le=86_400), WithJsonSchema({"type": ["string", "number"]}),
]  # fmt: skip
"""Seconds a user writes, like 30 s."""


class FewerExperts(Strict):
    """While more requests wait than so many, tokens pass fewer experts."""

    above_waiting: Annotated[int, Field(ge=0), NO_SWITCH]
    num_experts_per_tok: Whole


class Fallback(Strict):
    """Requests that come while more are under way than so many go to another model, on GPUs of its own."""

    above_running: Annotated[int, Field(ge=0), NO_SWITCH]
    """Requests that the engine holds, running and waiting."""
    model: PathText
    hardware: PathText | None = None
    """null is the scenario's."""
    engine: dict[str, Any] = {}
    """Its engine's settings; null of a setting is its default, nothing is taken from the scenario's."""


class Parking(Strict):
    """An engine that has had nothing to do for a while gives its GPUs up, and loads its weights again when asked."""

    after: Span
    """Time without work, like 60 s."""
    start: Span = 10.0
    """Beside copying weights: processes, memory profiling, graphs; assumed. [s]"""


class Policies(Strict):
    """Each is off where it is left out."""

    top_k: tuple[FewerExperts, ...] = Field((), max_length=16)
    """By rising queue."""
    fallback: Fallback | None = None
    parking: Parking | None = None

    @model_validator(mode="after")
    def _rising(self) -> Policies:
        for earlier, later in pairwise(self.top_k):
            if later.above_waiting <= earlier.above_waiting or later.num_experts_per_tok >= earlier.num_experts_per_tok:
                raise ValueError("top_k goes by rising above_waiting and falling num_experts_per_tok")
        return self
