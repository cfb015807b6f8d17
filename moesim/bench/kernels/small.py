"""Small kernels around the large ones: norms, rope, activation, router and top-k, alignment, permutation, weighted sum,
quantisation, embedding, sampling, cache write."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from moesim.bench.kernels import Kernel, vllm_ops
from moesim.bench.kernels.routes import routes
from moesim.bench.kernels.tensors import FP8, copies_of, noise, ones
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
    weight, ops = noise(device, width), vllm_ops()
    pairs = [(noise(device, rows, width), noise(device, rows, width)) for _ in range(copies_of(8 * rows * width))]
    if ops is not None:
        return [lambda x=x, r=r: ops.fused_add_rms_norm(x, r, weight, 1e-6) for x, r in pairs], "fused_add_rms_norm"
    norm = torch.nn.functional.rms_norm
    return [lambda x=x, r=r: norm(x.add_(r), (width,), weight) for x, r in pairs], "torch rms_norm"


def _rope(columns: dict[str, Any], device: str) -> Made:
    rows, heads, kv, dim = _sizes(columns, "rows", "heads", "kv_heads", "head_dim")
    ops, position = vllm_ops(), torch.arange(rows, device=device) % 4096
    angles = noise(device, 4096, dim)
    pairs = [
        (noise(device, rows, heads * dim), noise(device, rows, kv * dim))
        for _ in range(copies_of(4 * rows * (heads + kv) * dim))
    ]
    if ops is not None:
        return [lambda q=q, k=k: ops.rotary_embedding(position, q, k, dim, angles, True) for q, k in pairs], "rope"
    cos, sin = (a[position].repeat(1, 2)[:, None] for a in angles.chunk(2, -1))

    def turn(x: torch.Tensor) -> torch.Tensor:
        x = x.view(rows, -1, dim)
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    return [lambda q=q, k=k: (turn(q), turn(k)) for q, k in pairs], "torch rope"


def _activation(columns: dict[str, Any], device: str) -> Made:
    rows, width = _sizes(columns, "rows", "width")
    inputs = [noise(device, rows, 2 * width) for _ in range(copies_of(6 * rows * width))]
    if vllm_ops() is not None:
        out = torch.empty(rows, width, device=device, dtype=torch.bfloat16)
        return [lambda x=x: torch.ops._C.silu_and_mul(out, x) for x in inputs], "silu_and_mul"
    silu = torch.nn.functional.silu
    return [lambda x=x: silu(x[:, :width]) * x[:, width:] for x in inputs], "torch silu"


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
    inputs = [noise(device, rows, width) for _ in range(copies_of(4 * rows * k * width))]
    _, ids = routes(device, rows, experts, k, "uniform", 1)[0]

    def permuted(x: torch.Tensor) -> torch.Tensor:
        order = torch.argsort(ids.flatten().long())
        return x[torch.div(order, k, rounding_mode="floor")]

    return [lambda x=x: permuted(x) for x in inputs], "torch argsort and gather"


def _sum(columns: dict[str, Any], device: str) -> Made:
    rows, width, k = _sizes(columns, "rows", "width", "topk")
    inputs, ops = [noise(device, rows, k, width) for _ in range(copies_of(2 * rows * (k + 1) * width))], vllm_ops()
    if ops is not None:
        out = noise(device, rows, width)
        return [lambda x=x: ops.moe_sum(x, out) for x in inputs], "moe_sum"
    return [lambda x=x: x.sum(1) for x in inputs], "torch sum"


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
    inputs = [noise(device, rows, vocabulary, dtype=torch.float32) for _ in range(copies_of(4 * rows * vocabulary))]
    race = torch.empty_like(inputs[0])
    return [lambda x=x: torch.softmax(x, -1).div_(race.exponential_()).argmax(-1) for x in inputs], "torch sampling"


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
    inputs, scale, ops = [noise(device, m, k) for _ in range(copies_of(3 * m * k))], ones(device, 1), vllm_ops()
    if ops is not None:
        return [lambda x=x: ops.scaled_fp8_quant(x, scale) for x in inputs], "static_scaled_fp8_quant"
    return [lambda x=x: (x * scale).to(FP8) for x in inputs], "torch fp8 cast"


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
