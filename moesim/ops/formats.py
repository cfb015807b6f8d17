"""Number formats of weights: bytes an element takes in memory, scales included."""

from __future__ import annotations

OTHER_ENGINES = ("hqq4", "hqq3", "hqq2", "gguf_q8_0", "gguf_q4_k", "gguf_q2_k")
"""Formats of engines other than vLLM: no kernel of theirs was fitted."""

BYTES_PER_WEIGHT = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4.0 / (128 * 128),
    "int8": 1.0,
    "int8_weight_only": 1.0 + 2.0 / 128,
    "int4": 0.5 + 2.0 / 128,
    "mxfp4": 0.5 + 1.0 / 32,
    "hqq4": 0.5 + 2.0 / 64 + 8.0 / (64 * 256),
    "hqq3": 0.4 + 4.0 / 64,
    "hqq2": 0.25 + 2.0 / 16 + 8.0 / (16 * 128),
    "gguf_q8_0": 1.0 + 2.0 / 32,
    "gguf_q4_k": 0.5 + 16.0 / 256,
    "gguf_q2_k": 0.25 + 20.0 / 256,
}
"""fp8_block: a float32 scale per 128x128 block; int4: a 16-bit scale per group of 128 (GPTQ, AWQ);
mxfp4: an 8-bit scale per 32 (OCP Microscaling). Per-tensor and per-channel scales are too few to count.
HQQ as Mixtral-offloading configures it: 8-bit scale and zero per group of 64 (4 bits) or 16 (2 bits), themselves scaled
per 256 or 128; 3 bits pack ten to an int32 with 16-bit scale and zero per 64. GGUF blocks as llama.cpp's
ggml-common.h lays them out: Q8_0 of 32 weights, Q4_K and Q2_K of 256."""

ARITHMETIC = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int8": "int8",
    "int8_weight_only": "bfloat16",
    "int4": "bfloat16",
    "mxfp4": "bfloat16",
    **dict.fromkeys(OTHER_ENGINES, "bfloat16"),
}
"""What operands are multiplied in: weight-only formats are widened first; tensor cores have no float32."""

ACTIVATION_BYTES = {"float32": 4.0, "bfloat16": 2.0, "fp8": 1.0, "int8": 1.0}

HQQ_GROUP = {"hqq4": 64, "hqq3": 64, "hqq2": 16}
"""Weights that share a scale and a zero."""
