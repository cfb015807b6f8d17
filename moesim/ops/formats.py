"""Number formats of weights: what they are called, bytes an element takes in memory, what operands are multiplied in.

A format is a name, and after a slash the weights that share a scale where that is not its usual number: ``int4/32``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

WIDE_GROUP = 128


@dataclass(frozen=True)
class _Format:
    element: float
    """Bytes of one weight without its scale."""
    arithmetic: str
    """What operands are multiplied in: weight-only formats are widened first; tensor cores have no float32."""
    scale: float = 0.0
    """Bytes of a scale, zero point included; per-tensor and per-channel scales are too few to count."""
    group: int = 1
    """Weights that share one, usually: of a row, or the side of a square block."""
    square: bool = False


_FORMATS = {
    "float32": _Format(4.0, "float32"),
    "bfloat16": _Format(2.0, "bfloat16"),
    "fp8": _Format(1.0, "fp8"),
    "fp8_block": _Format(1.0, "fp8", 4.0, 128, square=True),
    "fp8_weight_only": _Format(1.0, "bfloat16"),
    "fp8_block_weight_only": _Format(1.0, "bfloat16", 4.0, 128, square=True),
    "mxfp8": _Format(1.0, "fp8", 1.0, 32),
    "mxfp8_weight_only": _Format(1.0, "bfloat16", 1.0, 32),
    "int8": _Format(1.0, "int8"),
    "int8_weight_only": _Format(1.0, "bfloat16", 2.0, WIDE_GROUP),
    "int4": _Format(0.5, "bfloat16", 2.0, WIDE_GROUP),
    "nf4": _Format(0.5, "bfloat16", 4.0, 64),
    "mxfp4": _Format(0.5, "bfloat16", 1.0, 32),
    "nvfp4": _Format(0.5, "nvfp4", 1.0, 16),
    "nvfp4_weight_only": _Format(0.5, "bfloat16", 1.0, 16),
    "hqq4": _Format(0.5, "bfloat16", 2.0 + 8.0 / 256, 64),
    "hqq3": _Format(0.4, "bfloat16", 4.0, 64),
    "hqq2": _Format(0.25, "bfloat16", 2.0 + 8.0 / 128, 16),
    "gguf_q8_0": _Format(1.0, "bfloat16", 2.0, 32),
    "gguf_q4_k": _Format(0.5, "bfloat16", 16.0, 256),
    "gguf_q2_k": _Format(0.25, "bfloat16", 20.0, 256),
}
"""fp8_block: a float32 scale for each 128x128 block; int4, int8_weight_only: a 16-bit scale for 128 (GPTQ, AWQ,
compressed-tensors); nf4: a float32 scale for 64 (bitsandbytes); mxfp4, mxfp8: an 8-bit scale for 32 (OCP
Microscaling); nvfp4: an fp8 scale for 16. HQQ as Mixtral-offloading configures it: 8-bit scale and zero for 64 (4 bits)
or 16 (2 bits), themselves scaled for 256 or 128; 3 bits pack ten to an int32 with 16-bit scale and zero for 64. GGUF
blocks as llama.cpp's ggml-common.h lays them out: Q8_0 of 32 weights, Q4_K and Q2_K of 256."""

ACTIVATION_BYTES = {"float32": 4.0, "bfloat16": 2.0, "fp8": 1.0, "int8": 1.0, "nvfp4": 0.5 + 1.0 / 16}
"""Of an operand, by what is multiplied."""

_WEIGHT_ONLY = {
    "fp8": "fp8_weight_only",
    "fp8_block": "fp8_block_weight_only",
    "mxfp8": "mxfp8_weight_only",
    "nvfp4": "nvfp4_weight_only",
}
"""Where narrow operands are not multiplied: Marlin widens the weights."""

FORMATS = tuple(_FORMATS)
"""Names of all formats."""


def kind(weights: str) -> str:
    """A format's name without its group: what kernels and fits go by."""
    return weights.partition("/")[0]


def group_of(weights: str) -> int:
    """Weights that share a scale: in a row, or the side of a square block."""
    name, _, group = weights.partition("/")
    return int(group) if group else _FORMATS[name].group


def weight_only(weights: str) -> str:
    """The same weights beside 16-bit inputs."""
    name, slash, group = weights.partition("/")
    return _WEIGHT_ONLY.get(name, name) + slash + group


def with_group(name: str, group: int | None) -> str:
    """A format under a number of weights for each scale; -1 is a whole row."""
    usual = _FORMATS[name].group
    return name if group is None or group == usual else f"{name}/{group}"


def arithmetic(weights: str) -> str:
    """What operands are multiplied in."""
    return _FORMATS[kind(weights)].arithmetic


@lru_cache(maxsize=256)
def bytes_per_weight(weights: str) -> float:
    """Bytes an element takes, its share of a scale included. [B]"""
    form, group = _FORMATS[kind(weights)], group_of(weights)
    if group < 0:
        return form.element
    return form.element + form.scale / (group * group if form.square else group)
