"""How a model's weights are stored, as ``quantization_config`` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim.errors import Problem
from moesim.models.config_fields import Fields


@dataclass(frozen=True)
class Quantization:
    """One scheme for routed experts, one for the other linear layers."""

    experts: str = "bfloat16"
    linear: str = "bfloat16"

    def under(self, chosen: str | None) -> Quantization:
        """The same where an engine is told a scheme (``none`` is bfloat16); null is the model's own."""
        if chosen is None:
            return self
        if chosen == "none":
            return Quantization()
        return Quantization(chosen, "bfloat16" if chosen == "mxfp4" else chosen)


def quantization(f: Fields) -> Quantization:
    config = f.section("quantization_config")
    if not config:
        return Quantization()
    method = config.get("quant_method", "")
    if method == "mxfp4":
        return Quantization(experts="mxfp4", linear="bfloat16")
    if method == "fp8":
        scheme = "fp8_block" if config.get("weight_block_size") else "fp8"
        return Quantization(experts=scheme, linear=scheme)
    bits = config.get("bits") or config.get("w_bit")
    if method in {"awq", "gptq", "gptq_marlin", "awq_marlin"} and bits in (4, 8):
        scheme = "int4" if bits == 4 else "int8_weight_only"
        return Quantization(experts=scheme, linear=scheme)
    if method == "compressed-tensors" and _int4_weights(config):
        everywhere = not any("self_attn" in str(name) for name in config.get("ignore") or [])
        return Quantization(experts="int4", linear="int4" if everywhere else "bfloat16")
    f.problems.append(
        Problem(
            f"quant_method '{method}' is not known; fp8, mxfp4, awq, gptq, int4 compressed-tensors are",
            f.source,
        )
    )
    return Quantization()


def _int4_weights(config: dict[str, Any]) -> bool:
    """compressed-tensors with 4-bit integer weights in every group."""
    groups = config.get("config_groups")
    weights = [g.get("weights") or {} for g in groups.values()] if isinstance(groups, dict) else []
    return bool(weights) and all(w.get("num_bits") == 4 and w.get("type") == "int" for w in weights)
