"""Attention over a paged cache with the cache write before it: vLLM's FlashAttention 3, torch's fused attention where
vLLM is missing."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from moesim.bench.kernels import Kernel, vllm_ops
from moesim.bench.kernels.tensors import FP8, noise, ones
from moesim.bench.rotation import copies_of

_PAGE = 16
_SPLITS = 32
"""Most splits over keys that vLLM allows in a CUDA graph (flash_attn_max_num_splits_for_cuda_graph)."""


def _has_fa3(device: str) -> bool:
    """FlashAttention 3 runs on Hopper alone."""
    return device == "meta" or (device == "cuda" and torch.cuda.get_device_capability()[0] == 9)


def build(table: str, columns: dict[str, Any], device: str) -> Kernel:
    """``attention_decode``: one new token after ``step`` cached ones; ``attention_prefill``: ``isl`` after ``past``."""
    decode = table == "attention_decode"
    batch, heads, kv, dim = (
        int(columns[n]) for n in ("batch_size", "num_heads", "num_key_value_heads", "head_dim")
    )  # fmt: skip
    query = 1 if decode else int(columns["isl"])
    past = int(columns["step" if decode else "past"])
    window = int(columns.get("window_size", 0))
    fp8 = columns["kv_cache_dtype"] == "fp8"
    each = 2 * batch * (past + query) * kv * dim * (1 if fp8 else 2)
    ops = vllm_ops()
    if ops is None or not _has_fa3(device):
        if fp8 or window:
            raise RuntimeError("without vLLM's FlashAttention 3 only bfloat16 caches without a window can be measured")
        caches = [_plain(device, batch, query, past + query, heads, kv, dim) for _ in range(copies_of(each))]
        return Kernel([lambda c=c: _torch(*c) for c in caches], "torch_sdpa")
    flash = importlib.import_module("vllm.vllm_flash_attn.flash_attn_interface")
    paged = [_Paged(device, batch, query, past + query, heads, kv, dim, fp8) for _ in range(copies_of(each))]
    sides = [window - 1, 0] if window else [-1, -1]
    paged = [cache.prepare(flash, sides) for cache in paged]
    return Kernel([lambda c=c: c.run(ops, flash, sides) for c in paged], "vllm_flash_attn_fa3")


class _Paged:
    """One set of queries, new keys and values, and a shuffled paged cache."""

    def __init__(self, device: str, batch: int, query: int, context: int, heads: int, kv: int, dim: int, fp8: bool):
        pages = -(-context // _PAGE)
        kind = FP8 if fp8 else torch.bfloat16
        self.keys, self.values = (noise(device, batch * pages, _PAGE, kv, dim, dtype=kind) for _ in range(2))
        table = torch.arange(batch * pages, dtype=torch.int32)
        self.table = table[torch.randperm(len(table))].view(batch, pages)
        positions = torch.arange(context - query, context)
        slots = self.table[:, positions // _PAGE].long() * _PAGE + positions % _PAGE
        self.slots, self.table = slots.flatten().to(device), self.table.to(device)
        self.q = noise(device, batch * query, heads, dim)
        self.new = [noise(device, batch * query, kv, dim) for _ in range(2)]
        self.out = torch.empty_like(self.q)
        self.starts = torch.arange(0, batch + 1, dtype=torch.int32, device=device) * query
        self.used = torch.full((batch,), context, dtype=torch.int32, device=device)
        self.query, self.context, self.scale = query, context, dim**-0.5
        self.format, self.one = ("fp8" if fp8 else "auto"), ones(device, 1)
        self.descale = ones(device, batch, kv) if fp8 else None
        self.schedule, self.splits, self.heads, self.kv, self.dim = None, 0, heads, kv, dim

    def prepare(self, flash: Any, window: list[int]) -> _Paged:
        """What vLLM works out once a step, for all layers: which thread block does what."""
        self.splits = _SPLITS if self.query == 1 else 0
        self.schedule = flash.get_scheduler_metadata(
            batch_size=len(self.used), max_seqlen_q=self.query, max_seqlen_k=self.context, num_heads_q=self.heads,
            num_heads_kv=self.kv, headdim=self.dim, cache_seqlens=self.used, qkv_dtype=self.keys.dtype,
            cu_seqlens_q=self.starts, page_size=_PAGE, causal=True, window_size=tuple(window), num_splits=self.splits,
        )  # fmt: skip
        return self

    def run(self, ops: Any, flash: Any, window: list[int]) -> None:
        as_stored = [x.view(torch.uint8) if self.format == "fp8" else x for x in (self.keys, self.values)]
        ops.reshape_and_cache_flash(*self.new, *as_stored, self.slots, self.format, self.one, self.one)
        query = self.q.to(FP8) if self.format == "fp8" else self.q
        flash.flash_attn_varlen_func(
            q=query, k=self.keys, v=self.values, max_seqlen_q=self.query, cu_seqlens_q=self.starts,
            max_seqlen_k=self.context, seqused_k=self.used, softmax_scale=self.scale, causal=True, window_size=window,
            block_table=self.table, out=self.out, fa_version=3, q_descale=self.descale, k_descale=self.descale,
            v_descale=self.descale, scheduler_metadata=self.schedule, num_splits=self.splits,
        )  # fmt: skip


def _plain(device: str, batch: int, query: int, context: int, heads: int, kv: int, dim: int) -> tuple[Any, ...]:
    return (noise(device, batch, heads, query, dim), *(noise(device, batch, kv, context, dim) for _ in range(2)))


def _torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    whole = q.shape[2] == k.shape[2] and q.shape[2] > 1
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=whole, enable_gqa=True)
