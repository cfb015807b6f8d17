"""Which tile a fused-experts kernel picks: vLLM's tuned tables where they exist, its default rules elsewhere.

Rules as in vLLM 0.24 (fused_moe.py ``get_default_config``; Marlin's ``block_size_m`` choice; the block size of
OpenAI's triton_kernels for gpt-oss). Tuned tables are extracted by ``moesim import-tiles``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from moesim import paths


class Tile(NamedTuple):
    """Block sizes of a grouped GEMM: rows, columns, depth; row blocks sharing a weight tile; warps; stages."""

    block_m: Any
    block_n: Any
    block_k: Any
    group_m: Any
    warps: Any
    stages: Any


@dataclass(frozen=True)
class TunedTiles:
    """Tuned choices of one GPU: (weights, experts, width) -> rows of (tokens, tile)."""

    table: dict[tuple[str, int, int], np.ndarray[Any, Any]]

    def tile(self, weights: str, experts: int, width: int, tokens: Any) -> Tile | None:
        """The tuned tile nearest in tokens, or None where this shape was never tuned."""
        rows = self.table.get((weights, experts, width))
        if rows is None:
            return None
        nearest = np.abs(np.asarray(tokens)[..., None] - rows[:, 0]).argmin(-1)
        return Tile(*np.moveaxis(rows[nearest, 1:], -1, 0).astype(float))


@lru_cache(maxsize=32)
def tuned_tiles(gpu: str) -> TunedTiles:
    """Tuned tiles of a GPU by moesim's name; empty where vLLM ships none."""
    path = paths.FITS / gpu / "tiles.json"
    if not path.is_file():
        return TunedTiles({})
    shapes = json.loads(path.read_text(encoding="utf-8"))["shapes"]
    return TunedTiles({(s["weights"], s["experts"], s["width"]): np.array(s["tiles"]) for s in shapes})


def _steps(x: Any, *pairs: tuple[float, float], above: float) -> Any:
    """The value of the first pair whose limit x does not exceed."""
    return np.select([x <= limit for limit, _ in pairs], [value for _, value in pairs], above)


def triton_bfloat16(tokens: Any, experts: Any) -> Tile:
    return Tile(
        _steps(tokens, (32, 16), (96, 32), (512, 64), above=128),
        _steps(tokens, (64, 64), above=128),
        _steps(tokens, (64, 128), above=64),
        np.where(tokens // experts > 128, 16, 1),
        _steps(tokens, (128, 4), above=8),
        _steps(tokens, (32, 4), above=3),
    )


def triton_fp8_block(tokens: Any, experts: Any) -> Tile:
    one = np.ones_like(tokens)
    return Tile(
        _steps(tokens, (64, 16), above=64),
        128 * one,
        128 * one,
        _steps(tokens, (16, 1), above=32),
        4 * one,
        3 * one,
    )


def _grouped(block_m: Any) -> Tile:
    """Persistent kernels: one wide column tile, every row block of an expert next to the other."""
    one = np.ones_like(block_m)
    return Tile(block_m, 128 * one, 128 * one, 64 * one, np.where(block_m >= 64, 8, 4), 4 * one)


def marlin(rows: Any, experts: Any) -> Tile:
    """The smallest of 8, 16, 32, 48, 64 that holds the mean rows of an expert with 10 % to spare."""
    mean = rows / experts
    return _grouped(_steps(mean, *((0.9 * b * (1 - 1e-12), b) for b in (8, 16, 32, 48)), above=64))


def power_of_two(rows: Any, experts: Any, least: int = 16) -> Tile:
    """The power of two at or above the mean rows of an expert, from ``least`` to 128."""
    mean = np.maximum(rows / experts, 1.0)
    return _grouped(np.clip(2.0 ** np.ceil(np.log2(mean)), least, 128))


def tile_for(kernel: str, weights: str, op: Any, tuned: TunedTiles) -> Tile:
    """The tile ``kernel`` uses for a scalar-shaped ``op`` (its tokens may be an array)."""
    tokens = np.asarray(op.tokens)
    if kernel == "marlin":
        return marlin(tokens * op.top_k, op.num_experts)
    if kernel == "flashinfer_cutlass":
        return _grouped(np.full(np.shape(tokens), 128.0))
    if kernel == "triton_kernels":
        return power_of_two(tokens * op.top_k, op.num_experts)
    if kernel == "flashinfer_trtllm":
        return power_of_two(tokens * op.top_k, op.num_experts, 8)
    found = tuned.tile(weights, op.num_experts, op.width, tokens)
    if found is not None:
        return found
    rule = triton_fp8_block if weights == "fp8_block" else triton_bfloat16
    return rule(tokens, op.num_experts)
