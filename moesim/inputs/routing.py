"""How tokens choose experts: one law for all layers, one each, a mixture of domains; gates that choose otherwise."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from moesim.files.quantities import NO_SWITCH, PathText, Strict, Whole

_USUAL_SKEW = 1.2
"""The skewed setting of public kernel tables."""


class Uniform(Strict):
    """Every token picks its k distinct experts evenly."""

    kind: Literal["uniform"] = "uniform"
    known: bool = True
    """False where nobody said how tokens are routed: the interval then reaches to a skewed routing."""

    @property
    def other(self) -> PowerLaw | None:
        """What cannot be excluded."""
        return None if self.known else PowerLaw(kind="power_law", alpha=_USUAL_SKEW)


class Balanced(Strict):
    """Round robin over experts, as public kernel tables measure it: the most even load there is."""

    kind: Literal["balanced"]


class Zipf(Strict):
    """Expert popularity falls as rank to the power -s."""

    kind: Literal["zipf"]
    s: Annotated[float, Field(ge=0, le=10)]


class PowerLaw(Strict):
    """Expert shares drawn from a power law of exponent alpha, as aiconfigurator's tables do."""

    kind: Literal["power_law"]
    alpha: Annotated[float, Field(gt=0, le=10)]
    known: bool = True
    """False where it is assumed: the interval then reaches to uniform routing."""

    @property
    def other(self) -> Uniform | None:
        """What cannot be excluded."""
        return None if self.known else Uniform()


class Correlated(Strict):
    """Tokens that resemble each other: correlation rho between 0 (uniform) and 1 (identical)."""

    kind: Literal["correlated"]
    rho: Annotated[float, Field(ge=0, le=1)]


class Identical(Strict):
    """Every token picks the same k experts."""

    kind: Literal["identical"]


class Locality(Strict):
    """Choices that repeat from token to token, with popular experts inside a text (docs/offload/caches.md)."""

    kind: Literal["locality"]
    persistence: Annotated[float, Field(ge=0, le=0.99)] | None = None
    """Chance that an expert's state carries over to the next token; null is what was measured of the model."""
    skew: Annotated[float, Field(ge=0, le=10)] | None = None
    """Zipf exponent of popularity inside a text; null is what was measured of the model."""
    drift: Annotated[float, Field(ge=0, le=0.99)] | None = None
    """Chance a token that an expert's popularity is another's from then on; null is what was measured of the model."""
    corpus_skew: Annotated[float, Field(ge=0, le=10)] = 0.15
    """Zipf exponent of popularity that holds from text to text, which a set placed once can use. The default is what
    Fiddler publishes of Mixtral: the 125 most popular of 256 experts take 53 % (arXiv 2402.07033, appendix C)."""


class Histogram(Strict):
    """How often each expert was picked: one count per expert."""

    kind: Literal["histogram"]
    counts: tuple[Annotated[float, Field(ge=0, le=1e15)], ...] = Field(min_length=1)


class Base(Strict):
    """Every expert gets equally many tokens, by solving an assignment (BASE layers, arXiv 2103.16716)."""

    kind: Literal["base"]
    assignment_passes: Annotated[int, Field(ge=0, le=10_000), NO_SWITCH] = 20
    """Passes over the scores of tokens x experts that the auction takes; assumed."""


class Hash(Strict):
    """A token's expert is a function of its text alone: no router (arXiv 2106.04426)."""

    kind: Literal["hash"]
    s: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Zipf exponent of what falls on each expert; 0 is even."""


class ExpertChoice(Strict):
    """Each expert takes its k N / E best tokens (arXiv 2202.09368): loads are even, a token gets none to all."""

    kind: Literal["expert_choice"]


class Task(Strict):
    """All tokens of a task, a sequence or a session have the same experts (arXiv 2110.03742); tasks choose evenly."""

    kind: Literal["task"]
    tasks: Whole = 1
    """Different ones among the requests that are served."""


class Trace(Strict):
    """A CSV file, one line a token: the numbers of its k experts."""

    kind: Literal["trace"]
    file: PathText


OneLayer = Annotated[
    Uniform
    | Balanced
    | Zipf
    | PowerLaw
    | Correlated
    | Identical
    | Histogram
    | Base
    | Hash
    | ExpertChoice
    | Task
    | Trace,
    Field(discriminator="kind"),
]


def routing_named(text: str) -> Uniform | Balanced | Identical | Zipf | PowerLaw:
    """A routing as kernel tables and measurements name it: ``uniform``, ``zipf_1.2``. Raises ValueError."""
    name, _, number = text.rpartition("_")
    plain = {"uniform": Uniform(), "balanced": Balanced(kind="balanced"), "identical": Identical(kind="identical")}
    try:
        if text in plain:
            return plain[text]
        if name == "zipf":
            return Zipf(kind="zipf", s=float(number))
        if name == "power_law":
            return PowerLaw(kind="power_law", alpha=float(number))
    except ValueError:
        pass
    raise ValueError(f"'{text}' is no routing; uniform, balanced, identical, zipf_1.2, power_law_1.01 are")


class Domain(Strict):
    """Texts of a kind."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Of the tokens."""
    routing: Annotated[Uniform | Balanced | Zipf | Histogram | Identical, Field(discriminator="kind")]


class Domains(Strict):
    """Tokens of several domains mixed in every step, each with experts of its own."""

    kind: Literal["domains"]
    domains: tuple[Domain, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _whole(self) -> Domains:
        total = sum(domain.share for domain in self.domains)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of domains sum to {total:.6g}; 1 is accepted")
        return self


class ByLayer(Strict):
    """A law of its own for each layer with routed experts, first to last."""

    kind: Literal["by_layer"]
    layers: tuple[OneLayer, ...] = Field((), max_length=4096)
    file: PathText | None = None
    """Instead of layers, a CSV of counts: layer,expert,count."""

    @model_validator(mode="after")
    def _one_source(self) -> ByLayer:
        if bool(self.layers) == (self.file is not None):
            raise ValueError("by_layer needs layers or a file, and not both")
        return self


Routing = Annotated[
    Uniform | Balanced | Zipf | PowerLaw | Correlated | Identical | Locality | Histogram | Base | Hash | ExpertChoice
    | Task | Trace | Domains | ByLayer,
    Field(discriminator="kind"),
]  # fmt: skip
