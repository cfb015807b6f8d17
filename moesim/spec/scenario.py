"""A scenario: model, hardware, engine, workload, routing, calibration, in the field's own names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from moesim.spec.offload import Offload
from moesim.spec.quantities import Delay, Rate, Strict
from moesim.spec.workload import Whole, Workload

ALIASES = {
    "tp": "engine.tensor_parallel_size",
    "pp": "engine.pipeline_parallel_size",
    "dp": "engine.data_parallel_size",
    "ep": "engine.enable_expert_parallel",
    "isl": "workload.input_len",
    "osl": "workload.output_len",
    "conc": "workload.max_concurrency",
}
"""Short names people type, accepted on input."""


All2All = Literal[
    "allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency", "nccl_all_to_all", "two_level", "two_dh",
    "coordinated",
]  # fmt: skip
"""vLLM's first three; NCCL's plain all-to-all; within nodes, then between them; Tutel's 2DH; DeepSpeed-MoE's
parallelism-coordinated exchange."""


class Engine(Strict):
    """Engine settings under vLLM's names and meanings."""

    tensor_parallel_size: Whole = 1
    pipeline_parallel_size: Whole = 1
    data_parallel_size: Whole = 1
    """Attention replicas; the layers' experts are shared among TP x DP ranks."""
    enable_expert_parallel: bool = False
    """Whole experts on TP x DP ranks instead of slices of every expert."""
    expert_tensor_parallel_size: Whole = 1
    """Ranks that slice each expert under expert parallelism (Megatron's name; vLLM knows 1 only)."""
    expert_placement_strategy: Literal["linear", "round_robin", "load_sorted"] = "linear"
    """vLLM has the first two, and round_robin for models with expert groups alone."""
    enable_eplb: bool = False
    num_redundant_experts: Annotated[int, Field(ge=0, le=4096)] = 0
    """Replicas of hot experts, placed by load (vLLM's eplb_config)."""
    all2all_backend: All2All | None = None
    """How tokens reach their experts' ranks; null is vLLM's allgather_reducescatter."""
    enable_dbo: bool = False
    """Dual-batch overlap: two micro-batches, one computes while the other communicates."""
    nccl_algo: Literal["auto", "ring", "tree", "nvls"] = "auto"
    """Forces NCCL's all-reduce, as NCCL_ALGO does."""
    disable_custom_all_reduce: bool = False
    rank_order: tuple[Literal["tp", "pp", "dp"], ...] = ("tp", "pp", "dp")
    """Which ranks are neighbours: innermost axis first; vLLM's own order by default."""
    pipeline_micro_batches: Whole | None = None
    """Batches in flight in a pipeline; null is one a stage, as vLLM's scheduler keeps."""
    quantization: Literal["none", "fp8", "fp8_block", "int8", "int4", "mxfp4"] | None = None
    """Weight format; null takes what the model's config.json ships."""
    kv_cache_dtype: Literal["auto", "bfloat16", "fp8"] = "auto"
    max_num_batched_tokens: Whole | None = None
    """null is vLLM's own default: 8192 on GPUs with 70 GiB or more (not A100), else 2048; 256 under DeepEP's
    low-latency kernels."""
    max_num_seqs: Whole | None = None
    """null is vLLM's own default for the GPU: 1024 with 70 GiB or more (not A100), else 256."""
    max_model_len: Whole | None = None
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: Annotated[int, Field(ge=0)] = 0
    """Most prompt tokens of one request in a step; 0 is no such limit."""
    enable_prefix_caching: bool = True
    async_scheduling: bool = True
    """The next step is composed while the GPU works: vLLM's default from 0.14 on."""
    max_cudagraph_capture_size: Annotated[int, Field(ge=0)] = 512
    """Largest step, in tokens, that runs as a CUDA graph."""
    front_end: Literal["server", "dynamo", "none"] = "server"
    """Who takes requests: vLLM's own server, NVIDIA Dynamo's (fitted on runs it served), or none: prompts are
    handed to the engine in its own process."""
    moe_backend: Literal["auto", "triton", "marlin"] = "auto"
    """Kernel of the experts where a weight format has two (mxfp4); auto is what vLLM 0.24 picks."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.92
    block_size: Whole = 16
    enforce_eager: bool = False
    hf_overrides: dict[str, Any] = {}
    """Fields of config.json to replace, as vLLM's --hf-overrides."""


class Uniform(Strict):
    """Every token picks its k distinct experts evenly."""

    kind: Literal["uniform"] = "uniform"


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
    hardware: str
    """A GPU or a cluster: a name under hwspecs/, or a YAML file of that form."""
    workload: Workload
    engine: Engine = Engine()
    routing: Routing = Uniform()
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
        from moesim.spec.loading import changed

        return changed(self, {name.replace("__", "."): value for name, value in changes.items()})


def dotted_fields() -> dict[str, str]:
    """Every setting a user can override: bare name -> dotted path."""
    paths = {name: name for name in Scenario.model_fields}
    for section, kind in (("offload", Offload), ("engine", Engine), ("workload", Workload)):
        paths |= {name: f"{section}.{name}" for name in kind.model_fields}
    return paths | ALIASES
