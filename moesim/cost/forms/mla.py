"""Whole MLA blocks: about ten kernels, four of them GEMMs, and attention over the latent cache.

Decode runs the absorbed form (one latent KV head, all query heads packed in rows of 64). Prefill runs the
absorbed form up to 512 queries per sequence (bfloat16 cache) or 128 (fp8 cache), as vLLM's backends switch, and
the expanded form beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.cost.forms.arithmetic import ceil, log2, maximum, minimum, real, where
from moesim.cost.forms.form import Form, Parameter, Timing, joined, smooth_max
from moesim.cost.gpu import GpuNumbers
from moesim.cost.registry import Choice, chooses, families
from moesim.ops.attention import IndexScores, MlaModule, attended_pairs

_ROWS = 64
_MAX_SPLITS = 32

_LINEAR = (
    Parameter("t_floor", "s", 6.5e-5, 5e-6, 3e-4, "all kernels of the block at one token"),
    Parameter("t_floor_fp8_gemm", "s", 4e-6, 1e-9, 1e-4, "extra with block-scaled fp8 GEMMs (quantise kernels)"),
    Parameter("t_floor_fp8_kv", "s", 1e-5, 1e-9, 1e-4, "extra with an fp8 cache"),
    Parameter("t_doubling", "s", 3e-6, 1e-9, 1e-5, "per doubling of tokens up to 128 (skinny GEMM tiles)"),
    Parameter("e_gemm", "1", 0.65, 0.1, 1.0, "bfloat16 GEMM share of peak"),
    Parameter("e_gemm_fp8", "1", 0.4, 0.05, 1.0, "fp8 GEMM share of twice the bfloat16 peak"),
    Parameter("e_weights", "1", 0.8, 0.2, 1.0, "share of HBM bandwidth when streaming weights"),
    Parameter("p_join", "1", 2.0, 1.0, 10.0, "overlap of arithmetic and weight streaming"),
    Parameter("c_head", "1", 0.8, 0.01, 10.0, "HBM passes over per-head activations"),
)
PREFILL_PARAMETERS = (
    *_LINEAR,
    Parameter("c_act", "1", 2.0, 0.1, 10.0, "HBM passes over hidden-size activations"),
    Parameter("e_absorbed", "1", 0.9, 0.1, 1.3, "absorbed attention, share of peak"),
    Parameter("e_expanded", "1", 0.9, 0.1, 1.3, "expanded attention, share of peak"),
    Parameter("t_query_fp8", "s", 6e-9, 1e-11, 1e-7, "fp8 cache: query copy per token and head, up to 8 heads"),
)
DECODE_PARAMETERS = (
    *_LINEAR,
    Parameter("e_cache", "1", 0.92, 0.2, 1.0, "share of HBM bandwidth when streaming the latent cache"),
    Parameter("e_absorbed", "1", 0.8, 0.1, 1.3, "absorbed attention, share of peak"),
    Parameter("t_key", "s", 2e-8, 1e-10, 1e-7, "one SM, one latent key"),
    Parameter("t_tile", "s", 6e-6, 1e-8, 5e-5, "one tile of 64 query rows"),
    Parameter("t_query_fp8", "s", 6e-9, 1e-11, 1e-7, "fp8 cache: query copy per token and head, below 64 heads"),
)


def _linear(
    p: Mapping[str, float], op: MlaModule, gpu: GpuNumbers, absorbed_tokens: Any, expanded_tokens: Any, c_act: float
) -> tuple[Any, Any]:
    """(GEMM seconds, activation traffic seconds).

    ``absorbed_tokens`` are new tokens that attend in latent space, ``expanded_tokens`` tokens (new and cached)
    whose latents are expanded to keys and values.
    """
    fp8 = op.fp8_gemm > 0
    peak, tokens, hbm = gpu.bf16_flop_per_s, op.tokens, gpu.hbm_bytes_per_s * p["e_weights"]
    rate, width = where(fp8, 2 * peak * p["e_gemm_fp8"], peak * p["e_gemm"]), op.bytes_per_weight
    m = maximum(tokens, 64.0)
    nope, rope, value = op.qk_nope_head_dim, op.qk_rope_head_dim, op.v_head_dim
    latent = op.kv_lora_rank + rope

    def gemm(weights: Any, rows: Any, flop_per_s: Any, bytes_each: Any) -> Any:
        return smooth_max(2.0 * rows * weights / flop_per_s, weights * bytes_each / hbm, p["p_join"])

    up = op.kv_lora_rank * (nope + value) * op.heads
    absorb = gemm(up, maximum(absorbed_tokens, 64.0), peak * p["e_gemm"], 2.0)
    expand = gemm(up, maximum(expanded_tokens, 64.0), rate, width)
    gemms = (
        gemm(op.hidden * (op.q_lora_rank + latent), m, rate, width)
        + gemm(op.q_in * (nope + rope) * op.heads, m, rate, width)
        + gemm(value * op.hidden * op.heads, m, rate, width)
        + where(absorbed_tokens > 0, absorb, 0.0)
        + where(expanded_tokens > 0, expand, 0.0)
    )
    hidden_bytes = 4.0 * (op.hidden + op.q_lora_rank + latent)
    hidden_bytes = hidden_bytes + where(fp8, 3.0 * (op.hidden + op.q_lora_rank), 0.0)
    head_bytes = op.heads * (4.0 * (nope + rope + value) + where(fp8, 3.0 * value, 0.0))
    inner = absorbed_tokens * (4.0 * op.kv_lora_rank + rope) + (tokens - absorbed_tokens) * (nope + value)
    per_head = tokens * head_bytes + 2.0 * op.heads * inner
    return gemms, (tokens * c_act * hidden_bytes + p["c_head"] * per_head) / gpu.hbm_bytes_per_s


def _floor(p: Mapping[str, float], op: MlaModule) -> Any:
    fp8_kv = op.kv_bytes < 1.5
    floor = p["t_floor"] + where(op.fp8_gemm > 0, p["t_floor_fp8_gemm"], 0.0)
    return floor + where(fp8_kv, p["t_floor_fp8_kv"], 0.0) + p["t_doubling"] * log2(minimum(op.tokens, 128) + 1)


def prefill_seconds(p: Mapping[str, float], op: MlaModule, gpu: GpuNumbers) -> Timing:
    """A prefill step through one MLA block. [s]"""
    fp8_kv = op.kv_bytes < 1.5
    peak, heads = gpu.bf16_flop_per_s, op.heads
    absorbed_flop, expanded_flop, copied = 0.0, 0.0, 0.0
    absorbed_tokens: Any = 0.0
    expanded_tokens: Any = 0.0
    few = where(heads <= 8, 1.0, 1 / 7)
    for g in op.groups:
        absorbed = g.query <= where(fp8_kv, 128, 512)
        tokens = g.sequences * g.query
        pairs = g.sequences * attended_pairs(g.query, g.past)
        latent = 2.0 * op.kv_lora_rank + op.qk_rope_head_dim
        full = op.qk_nope_head_dim + op.qk_rope_head_dim + op.v_head_dim
        rows = g.sequences * ceil(g.query * heads / _ROWS) * _ROWS * 32
        absorbed_flop = absorbed_flop + where(absorbed, 2.0 * latent * (pairs * heads + rows), 0.0)
        edge = g.sequences * heads * ceil(g.query / 128) * 128 * 64
        expanded_flop = expanded_flop + where(absorbed, 0.0, 2.0 * full * (pairs * heads + edge))
        copied = copied + where(fp8_kv & absorbed, few, 0.0) * p["t_query_fp8"] * tokens * heads
        absorbed_tokens = absorbed_tokens + where(absorbed, tokens, 0.0)
        expanded_tokens = expanded_tokens + where(absorbed, 0.0, g.sequences * (g.query + g.past))
    gemms, traffic = _linear(p, op, gpu, absorbed_tokens, expanded_tokens, p["c_act"])
    attention = (absorbed_flop / p["e_absorbed"] + expanded_flop / p["e_expanded"]) / peak
    launch = _floor(p, op)
    return Timing(launch + gemms + traffic + attention + copied, launch, traffic + copied, gemms + attention)


def decode_seconds(p: Mapping[str, float], op: MlaModule, gpu: GpuNumbers) -> Timing:
    """A decode step through one MLA block. [s]"""
    (g,) = op.groups
    batch, tokens = g.sequences, g.tokens
    keys = g.past + g.query
    fp8_kv = op.kv_bytes < 1.5
    rows = ceil(op.heads * g.query / _ROWS) * _ROWS
    latent = op.kv_lora_rank + op.qk_rope_head_dim
    products = 2.0 * (latent + op.kv_lora_rank) * batch * keys * rows / (gpu.bf16_flop_per_s * p["e_absorbed"])
    stream = batch * keys * latent * op.kv_bytes / (gpu.hbm_bytes_per_s * p["e_cache"])
    rate = batch * keys * p["t_key"] / minimum(gpu.sm_count, batch * _MAX_SPLITS)
    attention = smooth_max(smooth_max(products, stream, 6), rate, 6)
    gemms, traffic = _linear(p, op, gpu, tokens, 0.0, 1.0)
    tiles = ceil(batch * rows / _ROWS / gpu.sm_count) * p["t_tile"]
    few = where(op.heads < 64, 1.0, 1 / 7)
    copied = where(fp8_kv, few, 0.0) * p["t_query_fp8"] * tokens * op.heads
    launch = _floor(p, op)
    total = launch + gemms + traffic + tiles + attention + copied
    weights = op.weights * op.bytes_per_weight / (gpu.hbm_bytes_per_s * p["e_weights"])
    return Timing(total, launch, weights + stream + traffic, products + rate + tiles)


SPARSE_PARAMETERS = (
    *_LINEAR,
    Parameter("c_act", "1", 2.0, 0.1, 10.0, "HBM passes over hidden-size activations"),
    Parameter("e_absorbed", "1", 0.6, 0.05, 1.3, "attention over visible keys, share of peak"),
    Parameter("e_slots", "1", 0.3, 0.02, 1.3, "attention over all slots of an fp8 cache, share of peak"),
    Parameter("t_key", "s", 2.5e-8, 1e-10, 2e-7, "visible keys are read one after the other: one key of a query"),
    Parameter("t_index", "s", 3e-5, 1e-7, 2e-4, "kernels of the indexer at one token"),
    Parameter("t_index_token", "s", 5e-8, 1e-11, 1e-6, "indexer, per token: rope, norm, quantise"),
    Parameter("t_score", "s", 1e-11, 1e-13, 1e-9, "one score: product over the index heads, written and ranked"),
    Parameter("e_keys", "1", 0.7, 0.05, 1.0, "share of HBM bandwidth when streaming index keys"),
)
_FEW_HEADS = 16
"""Heads of a rank up to which prompts read an fp8 cache as decodes do: as it is, every slot of the picked tokens. With
more it is widened first and empty slots are skipped (vLLM: MIN_HEADS_FOR_BF16_PREFILL, Hopper)."""


def _index_seconds(p: Mapping[str, float], op: IndexScores, gpu: GpuNumbers) -> Timing:
    """An indexer's scores and ranking alone: as many heads as the block has whose constants these are. [s]"""
    memory = real(op.hbm_bytes) / (gpu.hbm_bytes_per_s * p["e_keys"])
    scoring = real(op.scores) * p["t_score"]
    launch = p["t_index"] + 0.0 * memory
    return Timing(launch + memory + scoring, launch, memory, scoring)


def sparse_seconds(p: Mapping[str, float], op: MlaModule | IndexScores, gpu: GpuNumbers) -> Timing:
    """A step through one block of sparse latent attention: absorbed over the picked tokens, its indexer inside. [s]"""
    if isinstance(op, IndexScores):
        return _index_seconds(p, op, gpu)
    peak, hbm, fp8_kv = gpu.bf16_flop_per_s, gpu.hbm_bytes_per_s, op.kv_bytes < 1.5
    tokens, rows = op.tokens, ceil(op.heads / _ROWS) * _ROWS
    pair = 2.0 * (2.0 * op.kv_lora_rank + op.qk_rope_head_dim) * rows / peak
    slots: Any = 0.0
    seen: Any = 0.0
    longest: Any = 0.0
    for g in op.groups:
        whole = fp8_kv & ((op.heads <= _FEW_HEADS) | g.generates)
        slots = slots + where(whole, g.tokens * op.top_k, 0.0)
        seen = seen + where(whole, 0.0, g.sequences * attended_pairs(g.query, g.past, op.top_k))
        keys = minimum(g.past + g.query, op.top_k) * (g.sequences > 0)
        longest = maximum(longest, where(whole, 0.0, keys))
    visible = joined(6, pair * seen / p["e_absorbed"], longest * p["t_key"])
    attention = pair * slots / p["e_slots"] + where(seen > 0, visible, 0.0)
    gemms, traffic = _linear(p, op, gpu, tokens, 0.0, p["c_act"])
    indexes = where(op.index_heads > 0, 1.0, 0.0)
    index_rate = where(op.fp8_gemm > 0, 2 * peak * p["e_gemm_fp8"], peak * p["e_gemm"])
    products = 2.0 * maximum(tokens, 64.0) * op.index_weights / index_rate
    streamed = op.index_weights * op.bytes_per_weight / (hbm * p["e_weights"])
    index = indexes * joined(p["p_join"], products, streamed)
    index = index + indexes * tokens * p["t_index_token"] + op.index_bytes / (hbm * p["e_keys"])
    scoring = op.scores * p["t_score"]
    launch = _floor(p, op) + indexes * p["t_index"]
    return Timing(launch + gemms + traffic + attention + index + scoring, launch, traffic + index, gemms + attention)


_RANGED = ("sequences", "query", "past", "context", "heads")
PREFILL = Form(
    "mla_prefill",
    "t_floor + four GEMMs smax(FLOP/(P e), weights/(HBM e)) + activation passes + absorbed or expanded attention",
    PREFILL_PARAMETERS,
    prefill_seconds,
    _RANGED,
)
DECODE = Form(
    "mla_decode",
    "t_floor + four GEMMs + smax(latent cache/(HBM e), absorbed FLOP/(P e), keys x t_key) + tiles",
    DECODE_PARAMETERS,
    decode_seconds,
    _RANGED,
)

SPARSE = Form(
    "mla_sparse",
    "t_floor + four GEMMs + absorbed attention over picked tokens + indexer: GEMMs + keys/(HBM e) + scores t_score",
    SPARSE_PARAMETERS,
    sparse_seconds,
    _RANGED,
)

families({"mla_prefill": PREFILL, "mla_decode": DECODE, "mla_sparse_prefill": SPARSE, "mla_sparse_decode": SPARSE})


@chooses(IndexScores)
def choose_scores(machine: Any, name: str, op: IndexScores) -> Choice:
    """An indexer outside the block its constants were fitted in."""
    return Choice(f"mla_sparse_{'decode' if op.generates else 'prefill'}", op, machine.gpu, related=True)


_FITTED_SHAPES = ((7168, 1536, 512),), ((7168, 1536, 512), (6144, 2048, 512))
"""Hidden size and ranks of queries and latents of the rows that tables hold: dense (DeepSeek-V3), and sparse
(DeepSeek-V3.2, GLM-5.2)."""


@chooses(MlaModule)
def choose(machine: Any, name: str, op: MlaModule) -> Choice:
    """Whole blocks as measured; other shapes and weight-only formats are related."""
    sparse = op.top_k is not None
    related = (op.hidden, op.q_lora_rank, op.kv_lora_rank) not in _FITTED_SHAPES[sparse]
    related = related or (op.bytes_per_weight != 2.0 and not op.fp8_gemm)
    phase = "decode" if op.generates else "prefill"
    return Choice(f"mla_sparse_{phase}" if sparse else f"mla_{phase}", op, machine.gpu, related=related)
