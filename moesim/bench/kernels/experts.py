"""Routed experts: vLLM's fused Triton kernel (bfloat16, block-scaled fp8), torch's grouped GEMM where vLLM is missing,
and the loop over experts that unfused models run."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from moesim.bench.kernels import Kernel, vllm_ops
from moesim.bench.kernels.routes import routes
from moesim.bench.kernels.tensors import BF16, FP8, noise, ones
from moesim.bench.rotation import COLD_BYTES, copies_of

_BLOCK = 128
_ELEMENTS = {"bfloat16": BF16, "fp8_block": FP8}
_LEAST_DRAWS, _MOST_DRAWS = 4, 64


def build(table: str, columns: dict[str, Any], device: str) -> Kernel:
    tokens, hidden, k = (int(columns[name]) for name in ("num_tokens", "hidden_size", "topk"))
    experts, ranks = int(columns["num_experts"]), int(columns.get("moe_ep_size", 1))
    width = int(columns["inter_size"]) // int(columns.get("moe_tp_size", 1))
    dtype = str(columns["moe_dtype"])
    if dtype not in _ELEMENTS:
        raise ValueError(f"no experts of '{dtype}'; {', '.join(_ELEMENTS)} are measured")
    x, element, mine = noise(device, tokens, hidden), _ELEMENTS[dtype], experts // ranks
    each = 3 * hidden * width * (2 if element == BF16 else 1)
    rotated = copies_of(mine * each)
    weights = [_weights(device, mine, hidden, width, element) for _ in range(rotated)]
    # Few tokens touch few experts: every draw must touch others, until what was touched first has left L2.
    touched = min(mine, tokens * k) * each
    draws = int(min(max(_LEAST_DRAWS, COLD_BYTES / touched), _MOST_DRAWS))
    chosen = routes(device, tokens, experts, k, str(columns["distribution"]), draws)
    many = max(len(chosen), rotated)
    calls = [(weights[i % rotated], chosen[i % len(chosen)]) for i in range(many)]
    if table == "expert_loop":
        looped = [lambda w=w, r=r: _loop(x, *w, *r) for w, r in calls]
        return Kernel(looped, "torch loop over experts", graph=False, copies=rotated)
    if vllm_ops() is None:
        if dtype != "bfloat16" or ranks > 1:
            raise RuntimeError("without vLLM only bfloat16 experts on one rank can be measured")
        grouped = [lambda w=w, r=r: _grouped(x, *w, *r) for w, r in calls]
        return Kernel(grouped, "torch._grouped_mm", graph=False, copies=rotated)
    library = importlib.import_module("vllm.model_executor.layers.fused_moe.fused_moe")
    more: dict[str, Any] = {"quant_config": _block_scaled(device, mine, hidden, width) if element == FP8 else None}
    if ranks > 1:
        places = torch.full((experts,), -1, dtype=torch.int32)
        places[:mine] = torch.arange(mine, dtype=torch.int32)
        more |= {"global_num_experts": experts, "expert_map": places.to(device)}
    return Kernel(
        [lambda w=w, r=r: library.fused_experts(x, *w, *r, **more) for w, r in calls],
        "vllm_fused_moe" if element == BF16 else "vllm_fp8moe_triton",
        copies=rotated,
    )


def _weights(
    device: str, experts: int, hidden: int, width: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gate and up in one tensor, down in the other, an expert at a time so that memory holds little twice."""
    if device == "meta":
        return noise(device, experts, 2 * width, hidden, dtype=dtype), noise(
            device, experts, hidden, width, dtype=dtype
        )
    up = torch.empty(experts, 2 * width, hidden, device=device, dtype=dtype)
    down = torch.empty(experts, hidden, width, device=device, dtype=dtype)
    for e in range(experts):
        up[e], down[e] = noise(device, 2 * width, hidden, dtype=dtype), noise(device, hidden, width, dtype=dtype)
    return up, down


def _block_scaled(device: str, experts: int, hidden: int, width: int) -> Any:
    config = importlib.import_module("vllm.model_executor.layers.fused_moe.config")
    columns, depth = -(-width // _BLOCK), -(-hidden // _BLOCK)
    return config.fp8_w8a8_moe_quant_config(
        w1_scale=ones(device, experts, -(-2 * width // _BLOCK), depth, value=0.01),
        w2_scale=ones(device, experts, depth, columns, value=0.01),
        block_shape=[_BLOCK, _BLOCK],
    )


def _loop(x: Any, up: Any, down: Any, weights: Any, ids: Any) -> torch.Tensor:
    """One expert after the other, each over its tokens, as models without fused kernels do."""
    out = torch.zeros_like(x)
    for expert in torch.unique(ids).tolist():
        token, place = torch.where(ids == expert)
        gate, linear = torch.nn.functional.linear(x[token], up[expert]).chunk(2, -1)
        y = torch.nn.functional.linear(torch.nn.functional.silu(gate) * linear, down[expert])
        out.index_add_(0, token, y * weights[token, place, None].to(y.dtype))
    return out


def _grouped(x: Any, up: Any, down: Any, weights: Any, ids: Any) -> torch.Tensor:
    """Rows sorted by expert, two grouped GEMMs, rows back."""
    grouped: Any = vars(torch)["_grouped_mm"]
    flat = ids.flatten().long()
    order = torch.argsort(flat)
    ends = torch.bincount(flat, minlength=len(up)).cumsum(0).to(torch.int32)
    rows = torch.div(order, ids.shape[1], rounding_mode="floor")
    gate, linear = grouped(x[rows], up.transpose(1, 2), offs=ends).chunk(2, -1)
    y = grouped(torch.nn.functional.silu(gate) * linear, down.transpose(1, 2), offs=ends)
    y = y * weights.flatten()[order, None].to(y.dtype)
    return torch.zeros_like(x).index_add_(0, rows, y)
