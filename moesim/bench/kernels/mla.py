"""A whole multi-head latent attention block: projections, absorbed attention over the latent cache (decode) or expanded
attention (prefill), output. Needs vLLM's FlashAttention 3."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from moesim.bench.kernels import Kernel
from moesim.bench.kernels.tensors import copies_of, noise

_PAGE = 64
linear = torch.nn.functional.linear


def build(table: str, columns: dict[str, Any], device: str) -> Kernel:
    flash = importlib.import_module("vllm.vllm_flash_attn.flash_attn_interface")
    decode = table == "mla_decode"
    batch, query = int(columns["batch_size"]), 1 if decode else int(columns["isl"])
    past = int(columns["step" if decode else "past"])
    block = _Block(columns, device, batch, query, past + query)
    run = block.decode if decode else block.prefill
    calls = [lambda c=c: run(flash, c) for c in block.caches]
    return Kernel(calls, "FLASH_ATTN_MLA" if decode else "FLASH_ATTN")


class _Block:
    """Weights of one layer on one rank, in bfloat16, and caches to rotate through."""

    def __init__(self, columns: dict[str, Any], device: str, batch: int, query: int, context: int):
        names = (
            "hidden_size", "num_heads", "q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim",
            "v_head_dim",
        )  # fmt: skip
        hidden, heads, q_rank, rank, rope, nope, value = (int(columns[n]) for n in names)
        self.heads, self.rank, self.rope, self.nope, self.value = heads, rank, rope, nope, value
        self.batch, self.query, self.context, self.device = batch, query, context, device
        self.x = noise(device, batch * query, hidden)
        self.down = noise(device, q_rank + rank + rope, hidden)
        self.q_up = noise(device, heads * (nope + rope), q_rank or hidden)
        self.q_rank = q_rank
        self.k_up, self.v_up = noise(device, heads, nope, rank), noise(device, heads, rank, value)
        self.kv_up = noise(device, heads * (nope + value), rank)
        self.out = noise(device, hidden, heads * value)
        pages = -(-context // _PAGE)
        size = batch * pages * _PAGE * (rank + rope) * 2
        self.caches = [noise(device, batch * pages, _PAGE, rank + rope) for _ in range(copies_of(size))]
        self.table = torch.arange(batch * pages, dtype=torch.int32, device=device).view(batch, pages)
        self.starts = torch.arange(0, batch + 1, dtype=torch.int32, device=device) * query
        self.key_starts = torch.arange(0, batch + 1, dtype=torch.int32, device=device) * context
        self.used = torch.full((batch,), context, dtype=torch.int32, device=device)
        self.scale = (nope + rope) ** -0.5

    def _queries(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(without position, with position) of the queries, and the latent of new tokens."""
        low = linear(self.x, self.down)
        q = linear(low[:, : self.q_rank] if self.q_rank else self.x, self.q_up)
        q = q.view(-1, self.heads, self.nope + self.rope)
        return q[..., : self.nope], q[..., self.nope :].contiguous(), low[:, self.q_rank :]

    def decode(self, flash: Any, cache: torch.Tensor) -> torch.Tensor:
        plain, rotary, _ = self._queries()
        absorbed = torch.bmm(plain.transpose(0, 1), self.k_up).transpose(0, 1).contiguous()
        latent = flash.flash_attn_varlen_func(
            q=rotary, k=cache[..., self.rank :].unsqueeze(-2), v=cache[..., : self.rank].unsqueeze(-2), q_v=absorbed,
            max_seqlen_q=1, cu_seqlens_q=self.starts, max_seqlen_k=self.context, seqused_k=self.used,
            block_table=self.table, softmax_scale=self.scale, causal=True, fa_version=3,
        )  # fmt: skip
        values = torch.bmm(latent.transpose(0, 1), self.v_up).transpose(0, 1)
        return linear(values.reshape(self.batch, -1), self.out)

    def prefill(self, flash: Any, cache: torch.Tensor) -> torch.Tensor:
        plain, rotary, _ = self._queries()
        rows = cache.view(-1, self.rank + self.rope)[: self.batch * self.context]
        both = linear(rows[:, : self.rank], self.kv_up).view(-1, self.heads, self.nope + self.value)
        shared = rows[:, None, self.rank :].expand(-1, self.heads, -1)
        keys = torch.cat([both[..., : self.nope], shared], -1)
        # The kernel takes equal widths: values are padded, as vLLM pads them.
        values = torch.nn.functional.pad(both[..., self.nope :], (0, self.nope + self.rope - self.value))
        found = flash.flash_attn_varlen_func(
            q=torch.cat([plain, rotary], -1), k=keys, v=values, max_seqlen_q=self.query, cu_seqlens_q=self.starts,
            max_seqlen_k=self.context, cu_seqlens_k=self.key_starts, softmax_scale=self.scale, causal=True,
            fa_version=3,
        )  # fmt: skip
        return linear(found[..., : self.value].reshape(self.batch * self.query, -1), self.out)
