"""vLLM's names for ``--quantization``."""

from __future__ import annotations

from typing import NamedTuple

from moesim.models.quantization.checkpoint import BFLOAT16


class Scheme(NamedTuple):
    """Formats in which an engine is told to run a model."""

    experts: str
    linear: str
    methods: tuple[str, ...] = ()
    """Checkpoints it is the method of: their own formats stay."""


SCHEMES: dict[str, Scheme] = {
    "none": Scheme(BFLOAT16, BFLOAT16),
    "fp8": Scheme("fp8", "fp8", ("fp8", "fbgemm_fp8", "modelopt")),
    "fp8_per_tensor": Scheme("fp8", "fp8", ("fp8",)),
    "fp8_per_channel": Scheme("fp8", "fp8", ("fp8",)),
    "fp8_block": Scheme("fp8_block", "fp8_block", ("fp8",)),
    "fp8_per_block": Scheme("fp8_block", "fp8_block", ("fp8",)),
    "fbgemm_fp8": Scheme("fp8", "fp8", ("fbgemm_fp8",)),
    "ptpc_fp8": Scheme("fp8", "fp8"),
    "mxfp8": Scheme("mxfp8", "mxfp8", ("mxfp8",)),
    "int8": Scheme("int8", "int8"),
    "experts_int8": Scheme("int8_weight_only/-1", BFLOAT16, ("experts_int8",)),
    "int8_per_channel_weight_only": Scheme("int8_weight_only/-1", BFLOAT16),
    "int4": Scheme("int4", "int4"),
    "mxfp4": Scheme("mxfp4", BFLOAT16, ("mxfp4",)),
    "gpt_oss_mxfp4": Scheme("mxfp4", BFLOAT16, ("mxfp4",)),
    "nvfp4": Scheme("nvfp4", "nvfp4", ("modelopt_fp4",)),
    "nvfp4_per_token": Scheme("nvfp4", BFLOAT16),
    "deepseek_v4_fp8": Scheme("", "", ("fp8",)),
    "awq": Scheme("int4", "int4", ("awq", "awq_marlin")),
    "awq_marlin": Scheme("int4", "int4", ("awq", "awq_marlin")),
    "auto_awq": Scheme("int4", "int4", ("awq", "awq_marlin")),
    "gptq": Scheme("int4", "int4", ("gptq", "gptq_marlin")),
    "gptq_marlin": Scheme("int4", "int4", ("gptq", "gptq_marlin")),
    "auto_gptq": Scheme("int4", "int4", ("gptq", "gptq_marlin")),
    "moe_wna16": Scheme("int4", "int4", ("awq", "awq_marlin", "gptq", "gptq_marlin", "moe_wna16")),
    "auto-round": Scheme("int4", "int4", ("auto-round", "auto_round", "inc", "intel/auto-round")),
    "inc": Scheme("int4", "int4", ("auto-round", "auto_round", "inc", "intel/auto-round")),
    "bitsandbytes": Scheme("nf4", "nf4", ("bitsandbytes",)),
    "modelopt": Scheme("fp8", "fp8", ("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed")),
    "modelopt_fp4": Scheme("nvfp4", "nvfp4", ("modelopt_fp4", "modelopt")),
    "modelopt_mxfp8": Scheme("mxfp8", "mxfp8", ("modelopt", "modelopt_mxfp8")),
    "modelopt_mixed": Scheme("", "", ("modelopt", "modelopt_mixed")),
    "compressed-tensors": Scheme("", "", ("compressed-tensors",)),
    "quark": Scheme("", "", ("quark",)),
    "torchao": Scheme("", "", ("torchao",)),
}
"""vLLM's names for ``--quantization``, with formats of ours beside them. A checkpoint keeps its own formats under its
own method; elsewhere the name says what such a checkpoint, or quantisation while loading, would be. Names of
many formats say nothing elsewhere."""
