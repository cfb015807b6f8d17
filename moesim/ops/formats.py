"""Number formats of weights: bytes an element takes in memory, scales included."""

from __future__ import annotations

BYTES_PER_WEIGHT = {
    "bfloat16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4.0 / (128 * 128),
    "int8": 1.0,
    "int8_weight_only": 1.0 + 2.0 / 128,
    "int4": 0.5 + 2.0 / 128,
    "mxfp4": 0.5 + 1.0 / 32,
}
"""fp8_block: a float32 scale per 128x128 block; int4: a 16-bit scale per group of 128 (GPTQ, AWQ);
mxfp4: an 8-bit scale per 32 (OCP Microscaling). Per-tensor and per-channel scales are too few to count."""

ARITHMETIC = {
    "bfloat16": "bfloat16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int8": "int8",
    "int8_weight_only": "bfloat16",
    "int4": "bfloat16",
    "mxfp4": "bfloat16",
}
"""What the tensor cores multiply in: weight-only formats are widened first."""

ACTIVATION_BYTES = {"bfloat16": 2.0, "fp8": 1.0, "int8": 1.0}
