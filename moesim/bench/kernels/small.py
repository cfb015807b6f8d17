"""Small kernels around the large ones: norms, rope, activation, router and top-k, alignment, permutation, weighted sum,
quantisation, embedding, sampling, cache write.

One set of operands, not many: what such a kernel reads was written by the kernel before it and is still in L2.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from moesim.bench.kernels import Kernel, vllm_ops
from moesim.bench.kernels.routes import routes
from moesim.bench.kernels.tensors import FP8, noise, ones
from moesim.bench.timing import Call

Made = tuple[list[Call], str]


def build(table: str, columns: dict[str, Any], device: str) -> Kernel:
    if table == "elementwise":
        calls, source = _quantise(columns, device)
    else:
        calls, source = _OPERATIONS[str(columns["op"])](columns, device)
    return Kernel(calls, source)


def _sizes(columns: dict[str, Any], *names: str) -> list[int]:
    return [int(columns[name]) for name in names]


def _norm(columns: dict[str, Any], device: str) -> Made:
    """Residual add and norm, in one kernel where vLLM has it."""
    rows, width = _sizes(columns, "rows", "width")
    weight, x, residual, ops = noise(device, width), noise(device, rows, width), noise(device, rows, width), vllm_ops()
    if ops is not None:
        return [lambda: ops.fused_add_rms_norm(x, residual, weight, 1e-6)], "fused_add_rms_norm"
    return [lambda: torch.nn.functional.rms_norm(x.add_(residual), (width,), weight)], "torch rms_norm"


def _rope(columns: dict[str, Any], device: str) -> Made:
    rows, heads, kv, dim = _sizes(columns, "rows", "heads", "kv_heads", "head_dim")
    ops, position = vllm_ops(), torch.arange(rows, device=device) % 4096
    angles, q, k = noise(device, 4096, dim), noise(device, rows, heads * dim), noise(device, rows, kv * dim)
    if ops is not None:
        return [lambda: ops.rotary_embedding(position, q, k, dim, angles, True)], "rope"
    cos, sin = (a[position].repeat(1, 2)[:, None] for a in angles.chunk(2, -1))

    def turn(x: torch.Tensor) -> torch.Tensor:
        x = x.view(rows, -1, dim)
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    return [lambda: (turn(q), turn(k))], "torch rope"


def _activation(columns: dict[str, Any], device: str) -> Made:
    rows, width = _sizes(columns, "rows", "width")
    x = noise(device, rows, 2 * width)
    if vllm_ops() is not None:
        out = torch.empty(rows, width, device=device, dtype=torch.bfloat16)
        return [lambda: torch.ops._C.silu_and_mul(out, x)], "silu_and_mul"
    return [lambda: torch.nn.functional.silu(x[:, :width]) * x[:, width:]], "torch silu"


def _top_k(columns: dict[str, Any], device: str) -> Made:
    rows, experts, k = _sizes(columns, "rows", "num_experts", "topk")
    scores, ops = noise(device, rows, experts, dtype=torch.float32), vllm_ops()
    if ops is not None:
        weights, ids = torch.empty(rows, k, device=device), torch.empty(rows, k, dtype=torch.int32, device=device)
        places = torch.empty_like(ids)
        return [lambda: ops.topk_softmax(weights, ids, places, scores, True)], "topk_softmax"
    return [lambda: torch.topk(torch.softmax(scores, -1), k)], "torch topk"


def _align(columns: dict[str, Any], device: str) -> Made:
    rows, experts, k, block = _sizes(columns, "rows", "num_experts", "topk", "block_m")
    if vllm_ops() is None:
        raise RuntimeError("aligning tokens to blocks is vLLM's kernel, which does not import")
    library = importlib.import_module("vllm.model_executor.layers.fused_moe.moe_align_block_size")
    chosen = routes(device, rows, experts, k, "uniform", 2)
    return [lambda i=i: library.moe_align_block_size(i, block, experts) for _, i in chosen], "moe_align_block_size"


def _permute(columns: dict[str, Any], device: str) -> Made:
    """Rows of tokens to their experts' order, as grouped kernels take them."""
    rows, width, experts, k = _sizes(columns, "rows", "width", "num_experts", "topk")
    x = noise(device, rows, width)
    _, ids = routes(device, rows, experts, k, "uniform", 1)[0]

    def permuted() -> torch.Tensor:
        order = torch.argsort(ids.flatten().long())
        return x[torch.div(order, k, rounding_mode="floor")]

    return [permuted], "torch argsort and gather"


def _sum(columns: dict[str, Any], device: str) -> Made:
    rows, width, k = _sizes(columns, "rows", "width", "topk")
    x, ops = noise(device, rows, k, width), vllm_ops()
    if ops is not None:
        out = noise(device, rows, width)
        return [lambda: ops.moe_sum(x, out)], "moe_sum"
    return [lambda: x.sum(1)], "torch sum"


def _embedding(columns: dict[str, Any], device: str) -> Made:
    rows, width, vocabulary = _sizes(columns, "rows", "width", "vocab_size")
    weights = noise(device, vocabulary, width)
    ids = torch.zeros(rows, dtype=torch.long, device=device)
    if device != "meta":
        ids = torch.randint(0, vocabulary, (rows,), device=device)
    return [lambda: torch.nn.functional.embedding(ids, weights)], "torch embedding"


def _sampling(columns: dict[str, Any], device: str) -> Made:
    """Temperature 1: softmax, exponential noise, argmax, as vLLM samples without top-k or top-p."""
    rows, vocabulary = _sizes(columns, "rows", "vocab_size")
    x = noise(device, rows, vocabulary, dtype=torch.float32)
    race = torch.empty_like(x)
    return [lambda: torch.softmax(x, -1).div_(race.exponential_()).argmax(-1)], "torch sampling"


def _cache_write(columns: dict[str, Any], device: str) -> Made:
    rows, kv, dim = _sizes(columns, "rows", "kv_heads", "head_dim")
    keys, values = noise(device, rows, kv, dim), noise(device, rows, kv, dim)
    pages, slots = -(-rows // 16) + 1, torch.arange(rows, device=device)
    stored = [noise(device, pages, 16, kv, dim) for _ in range(2)]
    ops, one = vllm_ops(), ones(device, 1)
    if ops is not None:
        return [lambda: ops.reshape_and_cache_flash(keys, values, *stored, slots, "auto", one, one)], "cache write"
    flat = [s.view(-1, kv, dim) for s in stored]
    return [lambda: (flat[0].index_copy_(0, slots, keys), flat[1].index_copy_(0, slots, values))], "torch index_copy"


def _quantise(columns: dict[str, Any], device: str) -> Made:
    m, k = _sizes(columns, "m", "k")
    x, scale, ops = noise(device, m, k), ones(device, 1), vllm_ops()
    if ops is not None:
        return [lambda: ops.scaled_fp8_quant(x, scale)], "static_scaled_fp8_quant"
    return [lambda: (x * scale).to(FP8)], "torch fp8 cast"


_OPERATIONS: dict[str, Callable[[dict[str, Any], str], Made]] = {
    "norm": _norm,
    "rope": _rope,
    "activation": _activation,
    "top_k": _top_k,
    "align": _align,
    "permute": _permute,
    "sum": _sum,
    "embedding": _embedding,
    "sampling": _sampling,
    "cache_write": _cache_write,
}
