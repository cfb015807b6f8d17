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


_GGUF_BLOCKS = {
    "q8_0": (34, 32), "q6_k": (210, 256), "q5_k": (176, 256), "q5_0": (22, 32), "q4_k": (144, 256), "q4_0": (18, 32),
    "iq4_nl": (18, 32), "iq4_xs": (136, 256), "q3_k": (110, 256), "iq3_s": (110, 256), "iq3_xxs": (98, 256),
    "q2_k": (84, 256), "iq2_s": (82, 256), "iq2_xs": (74, 256), "iq2_xxs": (66, 256), "iq1_m": (56, 256),
    "iq1_s": (50, 256),
}  # fmt: skip
"""Bytes of a block, and its weights (ggml-common.h)."""
_GGUF_MIXES = {"q5_k_m": ("q5_k", "q6_k", 0.5), "q4_k_m": ("q4_k", "q6_k", 0.5), "q3_k_m": ("q3_k", "q4_k", 1.0)}
"""What a file's name means by _M: most matrices, the down projections, and the share of layers where those differ."""


def _mixed(most: str, down: str, share: float) -> float:
    """Bytes of a weight in the mean over gate, up and down projections."""
    usual, other = (bytes_ / weights for bytes_, weights in (_GGUF_BLOCKS[most], _GGUF_BLOCKS[down]))
    return usual + share * (other - usual) / 3


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
    **{f"gguf_{name}": _Format(bytes_ / weights, "bfloat16") for name, (bytes_, weights) in _GGUF_BLOCKS.items()},
    **{f"gguf_{name}": _Format(_mixed(*mix), "bfloat16") for name, mix in _GGUF_MIXES.items()},
    **{f"exl3_{bits}": _Format(bits / 8, "bfloat16") for bits in (2, 3, 4, 5, 6, 8)},
}
"""fp8_block: a float32 scale for each 128x128 block; int4, int8_weight_only: a 16-bit scale for 128 (GPTQ, AWQ,
compressed-tensors); nf4: a float32 scale for 64 (bitsandbytes); mxfp4, mxfp8: an 8-bit scale for 32 (OCP
Microscaling); nvfp4: an fp8 scale for 16. HQQ as Mixtral-offloading configures it: 8-bit scale and zero for 64 (4 bits)
or 16 (2 bits), themselves scaled for 256 or 128; 3 bits pack ten to an int32 with 16-bit scale and zero for 64. GGUF
blocks as llama.cpp's ggml-common.h lays them out; EXL3 by its bits a weight."""

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


def maker(weights: str) -> str:
    """The letters a format's name begins with: what other engines' formats go by that have no kernels of their own."""
    return kind(weights).partition("_")[0].rstrip("0123456789")


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
