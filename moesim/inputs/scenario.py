"""A scenario: model, hardware, engine, workload, routing, calibration, in the field's own names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from moesim.engines.settings import EngineSettings
from moesim.engines.speculation import SpeculativeConfig
from moesim.files.quantities import Delay, Rate, Strict, Whole
from moesim.inputs.offload import Offload
from moesim.inputs.variant import Variant
from moesim.inputs.workload import Workload

ALIASES = {
    "tp": "engine.tensor_parallel_size",
    "pp": "engine.pipeline_parallel_size",
    "dp": "engine.data_parallel_size",
    "ep": "engine.enable_expert_parallel",
    "isl": "workload.input_len",
    "osl": "workload.output_len",
    "conc": "workload.max_concurrency",
    "engine_version": "engine.version",
}
"""Short names people type, accepted on input."""


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
    corpus_skew: Annotated[float, Field(ge=0, le=10)] = 0.15
    """Zipf exponent of popularity that holds from text to text, which a set placed once can use. The default is what
    Fiddler publishes of Mixtral: the 125 most popular of 256 experts take 53 % (arXiv 2402.07033, appendix C)."""


class Histogram(Strict):
    """How often each expert was picked: one count per expert."""

    kind: Literal["histogram"]
    counts: tuple[Annotated[float, Field(ge=0, le=1e15)], ...] = Field(min_length=1)


class Trace(Strict):
    """A CSV file, one line a token: the numbers of its k experts."""

    kind: Literal["trace"]
    file: str


def _spelled(value: Any) -> Any:
    """A card that YAML reads as a number, like 4090, as it is written."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Routing = Annotated[
    Uniform | Balanced | Zipf | PowerLaw | Correlated | Identical | Locality | Histogram | Trace,
    Field(discriminator="kind"),
]


class Disaggregation(Strict):
    """Prefill and decode on engines of their own (xPyD); settings not named are the scenario's engine's."""

    prefill_replicas: Whole = 1
    decode_replicas: Whole = 1
    prefill: dict[str, Any] = {}
    """Engine settings of the prefill engines, like {tensor_parallel_size: 4}."""
    decode: dict[str, Any] = {}
    kv_transfer_bandwidth: Rate | None = None
    """From each GPU, like 50 GB/s; null is the hardware's NIC, or its GPU links where it names none."""
    kv_transfer_latency: Delay = 1e-3
    """Handshake and first byte, like 1 ms (assumed)."""


class Scenario(Strict):
    """Everything a prediction depends on."""

    model: str
    """A name of the catalogue, a folder, or a config.json file."""
    hardware: Annotated[str, BeforeValidator(_spelled)]
    """A GPU or a cluster: a name under hwspecs/, or a YAML file of that form."""
    workload: Workload
    engine: EngineSettings = EngineSettings()
    variant: Variant | None = None
    """A smaller model made of it; null is the model itself."""
    routing: Routing = Uniform(known=False)
    """Left out it is uniform, and not known."""
    disaggregation: Disaggregation | None = None
    """Null is one engine for both."""
    offload: Offload | None = None
    """How weights that do not fit on the GPU are kept elsewhere; null keeps all on it."""
    host: str | None = None
    """The machine around the GPU: a name under hwspecs/hosts/, or a file; null is the GPU file's usual host."""
    calibration: str = "auto"
    """``auto`` picks the fit for the GPU; else the name or the file of a fit."""
    description: str = ""

    def with_(self, **changes: Any) -> Scenario:
        """A copy with settings changed.

        Names are dotted paths with ``__`` for the dot (``workload__batch_size=8``), or the bare field name
        where only one section has it (``batch_size=8``), or an alias (``tp``, ``isl``, ``osl``).

        Raises
        ------
        SpecError
            An unknown name or a value that is not accepted.
        """
        from moesim.inputs.loading import changed

        return changed(self, {name.replace("__", "."): value for name, value in changes.items()})


def dotted_fields() -> dict[str, str]:
    """Every setting a user can override: bare name -> dotted path."""
    paths = {name: f"engine.speculative_config.{name}" for name in SpeculativeConfig.model_fields}
    paths |= {name: name for name in Scenario.model_fields}
    sections = (("variant", Variant), ("offload", Offload), ("engine", EngineSettings), ("workload", Workload))
    for section, kind in sections:
        paths |= {name: f"{section}.{name}" for name in kind.model_fields}
    return paths | ALIASES
