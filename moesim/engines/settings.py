"""Engine settings as a scenario writes them, under vLLM's names and meanings. Null is the engine version's default."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from moesim.engines.speculation import SpeculativeConfig
from moesim.files.quantities import MOST_WHOLE, NO_SWITCH, Strict, Whole

All2All = Literal[
    "allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency", "nccl_all_to_all", "two_level", "two_dh",
    "coordinated",
]  # fmt: skip
"""vLLM's first three; NCCL's plain all-to-all; within nodes, then between them; Tutel's 2DH; DeepSpeed-MoE's
parallelism-coordinated exchange."""

Ranks = Annotated[int, Field(ge=1, le=1 << 16), NO_SWITCH]

QuantizationName = Literal[
    "none", "fp8", "fp8_per_tensor", "fp8_per_channel", "fp8_block", "fp8_per_block", "fbgemm_fp8", "ptpc_fp8", "mxfp8",
    "int8", "experts_int8", "int8_per_channel_weight_only", "int4", "mxfp4", "gpt_oss_mxfp4", "nvfp4",
    "nvfp4_per_token", "awq", "awq_marlin", "auto_awq", "gptq", "gptq_marlin", "auto_gptq", "moe_wna16", "auto-round",
    "inc", "bitsandbytes", "modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "compressed-tensors",
    "quark", "torchao", "deepseek_v4_fp8",
]  # fmt: skip
"""vLLM's names for ``--quantization``, formats of ours beside them (``models/quantization/schemes.py``)."""


_TYPES = {
    "auto": None, "bf16": "none", "bfloat16": "none", "fp16": "none", "float16": "none", "half": "none",
}  # fmt: skip
"""What people call the type of weights that are not quantised."""


class EngineSettings(Strict):
    """Engine settings under vLLM's names and meanings."""

    name: str = "vllm"
    """An engine under calibration/engines/."""
    version: str | None = None
    """Its version, like "0.24"; null is the one whose kernel tables are whole; latest is the newest described."""
    tensor_parallel_size: Ranks = 1
    pipeline_parallel_size: Ranks = 1
    data_parallel_size: Ranks = 1
    """Attention replicas; the layers' experts are shared among TP x DP ranks."""
    enable_expert_parallel: bool = False
    """Whole experts on TP x DP ranks instead of slices of every expert."""
    expert_tensor_parallel_size: Ranks = 1
    """Ranks that slice each expert under expert parallelism (Megatron's name; vLLM knows 1 only)."""
    expert_placement_strategy: Literal["linear", "round_robin", "load_sorted"] = "linear"
    """vLLM has the first two, and round_robin for models with expert groups alone."""
    enable_eplb: bool = False
    num_redundant_experts: Annotated[int, Field(ge=0, le=4096), NO_SWITCH] = 0
    """Replicas of hot experts, placed by load (vLLM's eplb_config)."""
    all2all_backend: All2All | None = None
    """How tokens reach their experts' ranks; null is vLLM's allgather_reducescatter."""
    enable_dbo: bool = False
    """Dual-batch overlap: two micro-batches, one computes while the other communicates."""
    nccl_algo: Literal["auto", "ring", "tree", "nvls"] = "auto"
    """Forces NCCL's all-reduce, as NCCL_ALGO does."""
    disable_custom_all_reduce: bool = False
    fuse_allreduce_rms: bool | None = None
    """The norm after an all-reduce is part of it (vLLM's pass_config); null is the engine's default: from 0.17 on."""
    rank_order: tuple[Literal["tp", "pp", "dp"], ...] = ("tp", "pp", "dp")
    """Which ranks are neighbours: innermost axis first; vLLM's own order by default."""
    pipeline_micro_batches: Whole | None = None
    """Batches in flight in a pipeline; null is one a stage, as vLLM's scheduler keeps."""
    quantization: QuantizationName | None = None
    """Weight format, or vLLM's name of a method; null takes what the model's config.json ships."""
    kv_cache_dtype: Literal["auto", "bfloat16", "fp8"] = "auto"
    max_num_batched_tokens: Whole | None = None
    """null is the engine's own default: vLLM 0.24 takes 8192 on GPUs with 70 GiB or more (not A100), else 2048; 256
    under DeepEP's low-latency kernels."""
    max_num_seqs: Whole | None = None
    """null is the engine's own default for the GPU: vLLM 0.24 takes 1024 with 70 GiB or more (not A100), else 256."""
    max_model_len: Whole | None = None
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=MOST_WHOLE), NO_SWITCH] = 0
    """Most prompt tokens of one request in a step; 0 is no such limit."""
    enable_prefix_caching: bool = True
    async_scheduling: bool | None = None
    """The next step is composed while the GPU works; null is the engine's default: vLLM does from 0.14 on."""
    max_cudagraph_capture_size: Annotated[int, Field(ge=0, le=1 << 16), NO_SWITCH] | None = None
    """Largest step, in tokens, that runs as a CUDA graph; null is the engine's default, 512 in vLLM 0.24."""
    cudagraph_mode: Literal["full_and_piecewise", "full_decode_only", "none"] | None = None
    """Which steps up to that size run as CUDA graphs: all, those without a prompt among them alone, or none (vLLM's
    compilation_config); null is the engine's default, all."""
    disable_shared_experts_stream: bool = False
    """The shared expert runs before the routed ones, not beside them (VLLM_DISABLE_SHARED_EXPERTS_STREAM)."""
    front_end: Literal["server", "dynamo", "none"] = "server"
    """Who takes requests: the engine's own server, NVIDIA Dynamo's (fitted on runs it served), or none: prompts are
    handed to the engine in its own process."""
    moe_backend: Literal[
        "auto", "triton", "marlin", "deepgemm", "flashinfer_cutlass", "flashinfer_trtllm", "flashinfer_trtllm_mxfp8"
    ] = "auto"  # fmt: skip
    """Kernel of the experts; auto is what the engine's version picks for the GPU, the weight format and the plan."""
    moe_dispatch: Literal["fused", "looped", "static_capacity", "dropping", "block_sparse"] = "fused"
    """How tokens meet experts: kernels over all of them at once, a loop over experts, a fixed number of slots an expert
    that are all computed (GShard), the same with empty ones left out (Switch), or blocks of 128 rows (MegaBlocks)."""
    moe_capacity_factor: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Slots of an expert over the mean number of its tokens; what finds none is dropped."""
    moe_capacity_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """The same as a share of all tokens (Fairseq)."""
    moe_dispatch_kernel: Literal["sort", "one_hot"] = "sort"
    """How slots are filled: by sorting, or by products with one-hot masks of tokens x experts x slots."""
    moe_loop_rows: Literal["all", "own"] = "all"
    """What an expert of a loop computes: all rows, the others' masked out (vLLM to 0.2.7: whole experts on ranks), or
    its own alone, gathered first (Hugging Face), launched one by one."""
    moe_pipeline_degree: Literal[1, 2, 4, 8, "auto"] = 1
    """Parts that an exchange and its experts are cut into so that they overlap (Tutel); auto is the fastest."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """null is the engine's default, 0.92 in vLLM 0.24."""
    block_size: Whole | None = None
    """Tokens of a KV cache block; null is the engine's default, 16 in vLLM."""
    enforce_eager: bool = False
    speculative_config: SpeculativeConfig | None = None
    """Tokens drafted and checked at once; null is none."""
    hf_overrides: dict[str, Any] = {}
    """Fields of config.json to replace, as vLLM's --hf-overrides."""

    @property
    def drafts(self) -> SpeculativeConfig | None:
        """How tokens are drafted; None where none are."""
        config = self.speculative_config
        return config if config is not None and config.num_speculative_tokens else None

    @field_validator("moe_pipeline_degree", mode="before")
    @classmethod
    def _no_switch(cls, value: Any) -> Any:
        return str(value) if isinstance(value, bool) else value

    @field_validator("quantization", mode="before")
    @classmethod
    def _as_types_are_called(cls, value: Any) -> Any:
        return _TYPES.get(value.lower(), value) if isinstance(value, str) else value

    @field_validator("moe_backend", mode="before")
    @classmethod
    def _as_vllm_spells_it(cls, value: Any) -> Any:
        return "deepgemm" if value == "deep_gemm" else value

    @field_validator("cudagraph_mode", mode="before")
    @classmethod
    def _in_any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("version", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if isinstance(value, (int, float)):
            raise ValueError(f'a version is text: write it in quotes, like "{value}"')
        return value


SWITCHES = tuple(
    name
    for name, field in EngineSettings.model_fields.items()
    if bool in (field.annotation, *get_args(field.annotation))
)
"""Settings that are true or false: named without a value they are true, as in vLLM."""
