"""Dense layers: cuBLAS in bfloat16, vLLM's CUTLASS in per-tensor fp8, Triton in block-scaled fp8, input quantised
first."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from moesim.bench.kernels import Kernel, vllm_ops
from moesim.bench.kernels.tensors import BF16, FP8, copies_of, noise, ones

_BLOCK = 128


def build(table: str, columns: dict[str, Any], device: str) -> Kernel:
    m, n, k = (int(columns[name]) for name in ("m", "n", "k"))
    dtype = columns["gemm_dtype"]
    if dtype == "bfloat16":
        x = noise(device, m, k)
        weights = [noise(device, n, k) for _ in range(copies_of(2 * n * k))]
        return Kernel([lambda w=w: torch.nn.functional.linear(x, w) for w in weights], "torch.nn.functional.linear")
    if dtype == "fp8":
        return _fp8(m, n, k, device)
    if dtype == "fp8_block":
        return _fp8_block(m, n, k, device)
    raise ValueError(f"no GEMM of '{dtype}'")


def _fp8(m: int, n: int, k: int, device: str) -> Kernel:
    """Per-tensor scales, the input's static: quantised by a scale that is known."""
    weights = [noise(device, n, k, dtype=FP8) for _ in range(copies_of(n * k))]
    ops, scale = vllm_ops(), ones(device, 1)
    if ops is not None:
        x = noise(device, m, k)

        def scaled(w: torch.Tensor) -> Any:
            quantised, s = ops.scaled_fp8_quant(x, scale)
            return ops.cutlass_scaled_mm(quantised, w.t(), s, scale, BF16)

        return Kernel([lambda w=w: scaled(w) for w in weights], "CutlassFP8ScaledMMLinearKernel")
    # torch asks for at least 16 rows, and is given them quantised.
    x, one, product = noise(device, max(m, 16), k, dtype=FP8), ones(device), vars(torch)["_scaled_mm"]
    return Kernel(
        [lambda w=w: product(x, w.t(), one, one, out_dtype=BF16, use_fast_accum=True) for w in weights],
        "torch._scaled_mm",
    )


def _fp8_block(m: int, n: int, k: int, device: str) -> Kernel:
    """vLLM's CUTLASS kernel where the GPU has it (Hopper), else its Triton kernel. DeepGEMM, which vLLM prefers where
    it is installed, is not measured."""
    library = importlib.import_module("vllm.model_executor.layers.quantization.utils.fp8_utils")
    ops: Any = vllm_ops()
    x = noise(device, m, k)
    scales = ones(device, -(-n // _BLOCK), -(-k // _BLOCK), value=0.01)
    weights = [noise(device, n, k, dtype=FP8) for _ in range(copies_of(n * k))]
    cutlass = bool(ops) and ops.cutlass_scaled_mm_supports_block_fp8(_capability(device))

    def scaled(w: torch.Tensor) -> Any:
        quantised, s = library.per_token_group_quant_fp8(x, _BLOCK, column_major_scales=cutlass)
        if cutlass:
            return ops.cutlass_scaled_mm(quantised, w.t(), s, scales.t(), BF16)
        return library.w8a8_triton_block_scaled_mm(quantised, w, s, scales, [_BLOCK, _BLOCK], BF16)

    name = "CutlassFp8BlockScaledMMKernel" if cutlass else "TritonFp8BlockScaledMMKernel"
    return Kernel([lambda w=w: scaled(w) for w in weights], name)


def _capability(device: str) -> int:
    if device != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor
