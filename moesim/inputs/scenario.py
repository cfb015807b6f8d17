"""A scenario: model, hardware, engine, workload, routing, calibration, in the field's own names."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from moesim.engines.settings import EngineSettings
from moesim.engines.speculation import SpeculativeConfig
from moesim.files.quantities import Delay, PathText, Rate, Strict, Whole
from moesim.inputs.offload import Offload
from moesim.inputs.policies import Policies
from moesim.inputs.routing import Routing, Uniform
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
    "users": "workload.max_concurrency",
    "gpu": "hardware",
    "dtype": "engine.quantization",
    "engine_version": "engine.version",
}
"""Short names people type, accepted on input."""


def _spelled(value: Any) -> Any:
    """A card that YAML reads as a number, like 4090, as it is written."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


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


class _Said(type(Strict)):
    """What a program says is read as a file is: the same short names, the same sentences."""

    def __call__(cls, **data: Any) -> Any:
        from moesim.inputs.loading import from_data

        plain = {k: v.told(exclude_unset=True) if isinstance(v, Strict) else v for k, v in data.items()}
        return from_data(plain, "Scenario")


class Scenario(Strict, metaclass=_Said):
    """Everything a prediction depends on.

    Sections are their models, or plain maps as a file has them: ``Scenario(model="Mixtral-8x7B-v0.1",
    hardware="4xh100-sxm", workload={"users": 16, "isl": 1024, "osl": 256}, engine={"tp": 4})``.

    Raises
    ------
    SpecError
        Every problem, in the sentences that a file's has.
    """

    model: PathText
    """A name of the catalogue, a folder, or a config.json file."""
    hardware: Annotated[PathText, BeforeValidator(_spelled)]
    """A GPU or a cluster: a name under hwspecs/, or a YAML file of that form."""
    workload: Workload
    engine: EngineSettings = EngineSettings()
    variant: Variant | None = None
    """A smaller model made of it; null is the model itself."""
    routing: Routing = Uniform(known=False)
    """Left out it is uniform, and not known."""
    placement_routing: Routing | None = None
    """The load that experts were placed by (load_sorted, EPLB), yesterday's; null is the load itself."""
    policies: Policies | None = None
    """What is let happen under load; null is nothing."""
    disaggregation: Disaggregation | None = None
    """Null is one engine for both."""
    offload: Offload | None = None
    """How weights that do not fit on the GPU are kept elsewhere; null keeps all on it."""
    host: PathText | None = None
    """The machine around the GPU: a name under hwspecs/hosts/, or a file; null is the GPU file's usual host."""
    calibration: PathText = "auto"
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


def require_scenario(value: object) -> None:
    """Raise TypeError for anything else than a scenario."""
    if not isinstance(value, Scenario):
        raise TypeError(f"a Scenario is expected, not {type(value).__name__}; moesim.load reads one from a file")


def dotted_fields() -> dict[str, str]:
    """Every setting a user can override: bare name -> dotted path."""
    paths = {name: f"engine.speculative_config.{name}" for name in SpeculativeConfig.model_fields}
    paths |= {name: name for name in Scenario.model_fields}
    sections = (("variant", Variant), ("offload", Offload), ("engine", EngineSettings), ("workload", Workload))
    for section, kind in sections:
        paths |= {name: f"{section}.{name}" for name in kind.model_fields}
    return paths | ALIASES
