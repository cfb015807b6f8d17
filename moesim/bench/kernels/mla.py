"""A whole multi-head latent attention block: projections, norms, rope, cache write, absorbed attention over the latent
cache (decode, short prompts) or expanded attention (long prompts), output. Needs vLLM's FlashAttention 3."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from moesim.bench.kernels import Kernel, vllm_ops
from moesim.bench.kernels.tensors import noise, ones
from moesim.bench.rotation import copies_of

_PAGE = 64
_ABSORBED_QUERY = 512
"""New tokens of a request up to which vLLM keeps to the absorbed form (FlashAttnMLA.reorder_batch_threshold)."""
linear = torch.nn.functional.linear


def build(table: str, columns: dict[str, Any], device: str) -> Kernel:
    flash, ops = importlib.import_module("vllm.vllm_flash_attn.flash_attn_interface"), vllm_ops()
    decode = table == "mla_decode"
    batch, query = int(columns["batch_size"]), 1 if decode else int(columns["isl"])
    past = int(columns["step" if decode else "past"])
    one = _Block(columns, device, batch, query, past + query)
    copies = copies_of(one.nbytes)
    blocks = [one, *(_Block(columns, device, batch, query, past + query) for _ in range(copies - 1))]
    absorbed = query <= _ABSORBED_QUERY
    calls = [lambda b=b: (b.absorbed if absorbed else b.expanded)(flash, ops) for b in blocks]
    return Kernel(calls, "FLASH_ATTN_MLA" if absorbed else "FLASH_ATTN")


class _Block:
    """Weights of one layer on one rank, in bfloat16, its cache and the tokens of a step."""

    def __init__(self, columns: dict[str, Any], device: str, batch: int, query: int, context: int):
        names = (
            "hidden_size", "num_heads", "q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim",
            "v_head_dim",
        )  # fmt: skip
        hidden, heads, q_rank, rank, rope, nope, value = (int(columns[n]) for n in names)
        self.heads, self.rank, self.rope, self.nope, self.value = heads, rank, rope, nope, value
        self.batch, self.query, self.context, self.q_rank = batch, query, context, q_rank
        self.x = noise(device, batch * query, hidden)
        self.down = noise(device, q_rank + rank + rope, hidden)
        self.q_up = noise(device, heads * (nope + rope), q_rank or hidden)
        self.k_up, self.v_up = noise(device, heads, nope, rank), noise(device, heads, rank, value)
        self.kv_up = noise(device, heads * (nope + value), rank)
        self.out = noise(device, hidden, heads * value)
        self.q_norm, self.kv_norm = noise(device, max(q_rank, 1)), noise(device, rank)
        pages = -(-context // _PAGE)
        self.cache = noise(device, batch * pages, _PAGE, rank + rope)
        self.table = torch.arange(batch * pages, dtype=torch.int32, device=device).view(batch, pages)
        new = torch.arange(context - query, context, device=device)
        first = torch.arange(batch, device=device)[:, None] * pages * _PAGE
        self.slots = (first + new).flatten()
        self.positions, self.angles = new.repeat(batch), noise(device, context, rope)
        self.starts = torch.arange(0, batch + 1, dtype=torch.int32, device=device) * query
        self.key_starts = torch.arange(0, batch + 1, dtype=torch.int32, device=device) * context
        self.used = torch.full((batch,), context, dtype=torch.int32, device=device)
        self.scale, self.one = (nope + rope) ** -0.5, ones(device, 1)

    @property
    def nbytes(self) -> int:
        held = (self.down, self.q_up, self.k_up, self.v_up, self.out, self.cache)
        return sum(t.numel() * t.element_size() for t in held)

    def _projected(self, ops: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries without and with position; new latents normed, turned and written to the cache."""
        low = linear(self.x, self.down)
        q = low[:, : self.q_rank]
        if self.q_rank:
            q = torch.nn.functional.rms_norm(q, (self.q_rank,), self.q_norm)
        q = linear(q if self.q_rank else self.x, self.q_up).view(-1, self.heads, self.nope + self.rope)
        latent = torch.nn.functional.rms_norm(low[:, self.q_rank : -self.rope], (self.rank,), self.kv_norm)
        rotary, key = q[..., self.nope :].contiguous(), low[:, -self.rope :].contiguous()
        ops.rotary_embedding(self.positions, rotary.view(len(rotary), -1), key, self.rope, self.angles, False)
        ops.concat_and_cache_mla(latent, key, self.cache, self.slots, "auto", self.one)
        return q[..., : self.nope], rotary

    def absorbed(self, flash: Any, ops: Any) -> torch.Tensor:
        """Attention in the latent space: decode, and short prompts as vLLM runs them."""
        plain, rotary = self._projected(ops)
        into = torch.bmm(plain.transpose(0, 1), self.k_up).transpose(0, 1).contiguous()
        latent = flash.flash_attn_varlen_func(
            q=rotary, k=self.cache[..., self.rank :].unsqueeze(-2), v=self.cache[..., : self.rank].unsqueeze(-2),
            q_v=into, max_seqlen_q=self.query, cu_seqlens_q=self.starts, max_seqlen_k=self.context,
            seqused_k=self.used, block_table=self.table, softmax_scale=self.scale, causal=True, fa_version=3,
        )  # fmt: skip
        values = torch.bmm(latent.transpose(0, 1), self.v_up).transpose(0, 1)
        return linear(values.reshape(self.batch * self.query, -1), self.out)

    def expanded(self, flash: Any, ops: Any) -> torch.Tensor:
        """Keys and values of every head made from the latent: long prompts. FlashAttention 3 takes values of their own
        width on Hopper."""
        plain, rotary = self._projected(ops)
        rows = self.cache.view(-1, self.rank + self.rope)[: self.batch * self.context]
        both = linear(rows[:, : self.rank], self.kv_up).view(-1, self.heads, self.nope + self.value)
        shared = rows[:, None, self.rank :].expand(-1, self.heads, -1)
        found = flash.flash_attn_varlen_func(
            q=torch.cat([plain, rotary], -1), k=torch.cat([both[..., : self.nope], shared], -1),
            v=both[..., self.nope :], max_seqlen_q=self.query, cu_seqlens_q=self.starts,
            max_seqlen_k=self.context, cu_seqlens_k=self.key_starts, softmax_scale=self.scale, causal=True,
            fa_version=3,
        )  # fmt: skip
        return linear(found.reshape(self.batch * self.query, -1), self.out)
