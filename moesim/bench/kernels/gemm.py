"""Dense layers: cuBLAS in bfloat16, vLLM's CUTLASS in per-tensor fp8, several kernels in block-scaled fp8; narrow
inputs are quantised first."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from moesim.bench.kernels import Kernel, vllm_ops
from moesim.bench.kernels.tensors import BF16, FP8, noise, ones
from moesim.bench.rotation import copies_of

_BLOCK = 128
_FP8_UTILS = "vllm.model_executor.layers.quantization.utils.fp8_utils"


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
        return _fp8_block(m, n, k, device, str(columns["gemm_backend"]))
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


def _fp8_block(m: int, n: int, k: int, device: str, backend: str) -> Kernel:
    """DeepGEMM, which vLLM prefers where it is installed; vLLM's CUTLASS kernel, of Hopper alone; its Triton kernel."""
    make = {"deep_gemm": _deep_gemm, "cutlass": _cutlass, "triton": _triton}[backend]
    product, name = make(noise(device, m, k), n, device)
    weights = [noise(device, n, k, dtype=FP8) for _ in range(copies_of(n * k))]
    return Kernel([lambda w=w: product(w) for w in weights], name)


Product = Callable[[torch.Tensor], Any]


def _scales(n: int, k: int, device: str) -> torch.Tensor:
    return ones(device, -(-n // _BLOCK), -(-k // _BLOCK), value=0.01)


def _deep_gemm(x: torch.Tensor, n: int, device: str) -> tuple[Product, str]:
    library, utils = importlib.import_module(_FP8_UTILS), importlib.import_module("vllm.utils.deep_gemm")
    if not utils.is_deep_gemm_supported():
        raise RuntimeError("DeepGEMM is not installed, or does not run on this GPU")
    (m, k), narrow = x.shape, utils.is_deep_gemm_e8m0_used()
    # The layout of a weight's scales hangs on its shape alone.
    _, scales = library.deepgemm_post_process_fp8_weight_block(
        wq=noise(device, n, k, dtype=FP8), ws=_scales(n, k, device), quant_block_shape=(_BLOCK, _BLOCK),
        use_e8m0=narrow,
    )  # fmt: skip

    def product(w: torch.Tensor) -> Any:
        quantised = library.per_token_group_quant_fp8(
            x, _BLOCK, column_major_scales=True, tma_aligned_scales=True, use_ue8m0=narrow
        )
        out = torch.empty(m, n, device=device, dtype=BF16)
        utils.fp8_gemm_nt(quantised, (w, scales), out, is_deep_gemm_e8m0_used=narrow)
        return out

    return product, "DeepGemmFp8BlockScaledMMKernel"


def _cutlass(x: torch.Tensor, n: int, device: str) -> tuple[Product, str]:
    library, ops, scales = importlib.import_module(_FP8_UTILS), vllm_ops(), _scales(n, x.shape[1], device)
    if device != "meta" and not (ops and ops.cutlass_scaled_mm_supports_block_fp8(_capability(device))):
        raise RuntimeError("vLLM's CUTLASS kernel of blocks does not run on this GPU")

    def product(w: torch.Tensor) -> Any:
        quantised, s = library.per_token_group_quant_fp8(x, _BLOCK, column_major_scales=True)
        return ops.cutlass_scaled_mm(quantised, w.t(), s, scales.t(), BF16)

    return product, "CutlassFp8BlockScaledMMKernel"


def _triton(x: torch.Tensor, n: int, device: str) -> tuple[Product, str]:
    library, scales = importlib.import_module(_FP8_UTILS), _scales(n, x.shape[1], device)

    def product(w: torch.Tensor) -> Any:
        quantised, s = library.per_token_group_quant_fp8(x, _BLOCK, column_major_scales=False)
        return library.w8a8_triton_block_scaled_mm(quantised, w, s, scales, [_BLOCK, _BLOCK], BF16)

    return product, "TritonFp8BlockScaledMMKernel"


def _capability(device: str) -> int:
    if device != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor
