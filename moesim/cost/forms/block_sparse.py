"""Attention over picked blocks of keys, as a whole block (MiniMax-M3): projections, indexer, attention, output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.cost.forms.arithmetic import maximum, minimum, real, where
from moesim.cost.forms.form import Form, Parameter, Timing, joined, smooth_max
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, chooses, families
from moesim.ops.attention import BlockSparseModule

PARAMETERS = (
    Parameter("t_floor", "s", 2.5e-5, 1e-6, 4e-4, "about ten kernels, start to end"),
    Parameter("e_weights", "1", 0.8, 0.1, 1.0, "share of HBM bandwidth when streaming weights"),
    Parameter("e_gemm", "1", 0.7, 0.05, 1.0, "share of bfloat16 peak in projections"),
    Parameter("e_gemm_fp8", "1", 0.5, 0.02, 1.0, "share of twice the bfloat16 peak in fp8 projections"),
    Parameter("c_act", "1", 2.0, 0.1, 50.0, "passes over activations beside the projections' own"),
    Parameter("e_attention", "1", 0.1, 0.005, 1.0, "share of bfloat16 peak over picked keys"),
    Parameter("c_fp8", "1", 1.2, 0.3, 4.0, "how much longer that takes over fp8 keys and values"),
    Parameter("e_kv", "1", 0.5, 0.02, 1.0, "share of HBM bandwidth when reading picked keys and values"),
    Parameter("t_key", "s", 2e-9, 1e-13, 1e-6, "a key after the one before, of the longest sequence"),
    Parameter("t_score", "s", 1e-13, 1e-16, 1e-10, "a score of one index head"),
    Parameter("e_keys", "1", 0.7, 0.02, 1.0, "share of HBM bandwidth when streaming index keys"),
    Parameter("p_join", "1", 3.0, 1.0, 12.0, "how sharply work and memory join"),
)
_TILE_ROWS = 16.0
"""A tile of queries has 16 rows: fewer heads to a KV head fill it no better."""


def block_sparse_seconds(p: Mapping[str, float], op: BlockSparseModule, gpu: GpuNumbers) -> Timing:
    """A step through one such block. [s]"""
    peak, hbm, tokens = gpu.bf16_flop_per_s, gpu.hbm_bytes_per_s, real(op.tokens)
    rate = where(real(op.fp8_gemm) > 0, 2 * peak * p["e_gemm_fp8"], peak * p["e_gemm"])
    products = 2.0 * maximum(tokens, 64.0) * op.weights / rate
    streamed = op.weights * op.bytes_per_weight / (hbm * p["e_weights"])
    gemms = smooth_max(real(products), real(streamed), p["p_join"])
    width = 2.0 * op.hidden + (2.0 * op.heads + 2.0 * op.kv_heads) * op.head_dim
    traffic = 2.0 * tokens * width * p["c_act"] / hbm
    rows = maximum(real(op.heads), _TILE_ROWS * real(op.kv_heads))
    computed = 4.0 * real(op.pairs) * rows * op.head_dim / (peak * p["e_attention"])
    computed = computed * where(real(op.kv_bytes) < 1.5, p["c_fp8"], 1.0)
    read = real(op.kv_read) / (hbm * p["e_kv"])
    longest: Any = 0.0
    for g in op.groups:
        longest = maximum(longest, minimum(real(g.past + g.query), real(op.top_k)) * (g.sequences > 0))
    attention = joined(p["p_join"], computed, read, longest * p["t_key"])
    scoring = real(op.scores) * op.index_heads * p["t_score"]
    index = joined(p["p_join"], scoring, real(op.index_bytes) / (hbm * p["e_keys"]))
    launch = p["t_floor"] + 0.0 * gemms
    return Timing(launch + gemms + traffic + attention + index, launch, streamed + traffic + read, gemms + computed)


FORM = Form(
    "block_sparse",
    "t_floor + smax(projections' FLOP/(P e), weights/(HBM e)) + activations + smax(picked FLOP, keys, chain) + indexer",
    PARAMETERS,
    block_sparse_seconds,
    ("sequences", "query", "past", "context", "heads"),
)

families({"block_sparse_prefill": FORM, "block_sparse_decode": FORM})


@chooses(BlockSparseModule)
def choose(machine: Any, name: str, op: BlockSparseModule) -> Choice:
    """Whole blocks as measured; weight-only formats are related."""
    related = op.bytes_per_weight != 2.0 and not op.fp8_gemm
    return Choice(f"block_sparse_{'decode' if op.generates else 'prefill'}", op, machine.gpu, related=related)
