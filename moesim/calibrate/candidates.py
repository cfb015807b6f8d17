"""Every point that a calibration may measure: the shapes of models, the loads of the grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from moesim.bench.point import Point
from moesim.calibrate.grid_file import Grid
from moesim.engines.engine import load_engine
from moesim.inputs.routing import Uniform
from moesim.models.blocks.moe import Moe
from moesim.models.frame import Frame
from moesim.models.model import Model
from moesim.models.plan import Plan
from moesim.models.rank import Rank
from moesim.ops import Attention, Gemm, Group, Load, MlaModule, Operation

T = TypeVar("T")
_ALIGNED = 16
_BLOCK = 128
HOST_TABLES = ("host_stream", "host_matmul", "host_expert", "host_call")


def host_points(models: Sequence[Model], grid: Grid, cores: int) -> list[Point]:
    """Points of the processor: powers of two of its threads, and all of them."""
    threads = sorted({*(1 << i for i in range(cores.bit_length()) if 1 << i <= cores), cores})
    found = [Point("host_call", {"threads": 1})]
    for t in threads:
        for size in grid.host.stream:
            found += [Point("host_stream", {"op": op, "bytes": size, "threads": t}) for op in ("read", "copy")]
        for dtype in grid.host.products:
            for m, n, k in grid.host.matmul:
                found.append(Point("host_matmul", {"m": m, "n": n, "k": k, "dtype": dtype, "threads": t}))
        for dtype in grid.host.types:
            for hidden, ffn in _experts(models):
                shape = {"hidden_size": hidden, "inter_size": ffn.width, "dtype": dtype, "threads": t}
                found += [Point("host_expert", {"num_tokens": n, **shape}) for n in grid.host.tokens]
    return _unique(found)


def gpu_points(models: Sequence[Model], grid: Grid, fp8: bool, gpus: int) -> list[Point]:
    """Points of one GPU, and of collectives where there are two or more. ``fp8``: it has fp8 arithmetic."""
    found = [
        *_gemms(models, grid, fp8), *_fused(models, grid, fp8), *_attention(models, grid, fp8), *_mla(models, grid),
        *_small(models, grid), *_memory(models, grid), *_collectives(grid, gpus),
    ]  # fmt: skip
    return _unique(found)


def _unique(points: Iterable[Point]) -> list[Point]:
    return list({point.key: point for point in points}.values())


def _experts(models: Sequence[Model]) -> Iterator[tuple[int, Moe]]:
    for model in models:
        if model.moe is not None:
            yield model.hidden_size, model.moe


def _gemms(models: Sequence[Model], grid: Grid, fp8: bool) -> Iterator[Point]:
    kinds = ["bfloat16", "fp8", "fp8_block"] if fp8 else ["bfloat16"]
    for model in models:
        for tp in grid.tensor_parallel:
            for n, k, dense_only in _linear_shapes(model, tp):
                for kind in kinds[: 1 if dense_only else None]:
                    if n % (_BLOCK if kind == "fp8_block" else _ALIGNED) or k % _ALIGNED:
                        continue
                    backends = [{"gemm_backend": b} for b in grid.block_kernels] if kind == "fp8_block" else [{}]
                    for backend in backends:
                        for m in grid.tokens:
                            yield Point("gemm", {"gemm_dtype": kind, **backend, "m": m, "n": n, "k": k})


def _linear_shapes(model: Model, tp: int) -> Iterator[tuple[int, int, bool]]:
    """(n, k, kept in bfloat16) of a rank's dense products: what its blocks and its head run."""
    for operation in _operations(model, tp, linear="fp8"):
        if isinstance(operation, Gemm):
            yield int(operation.n), int(operation.k), operation.weights in ("bfloat16", "float32")
    if model.vocab_size % tp == 0:
        yield model.vocab_size // tp, model.hidden_size, True


def _operations(model: Model, tp: int, linear: str = "bfloat16") -> Iterator[Operation]:
    """Everything that a token passes on one of ``tp`` ranks, by the blocks that such ranks can share."""
    plan = Plan(tp=tp, expert_tp=tp)
    model = model.formatted(lambda _: linear, lambda _: "bfloat16")
    rank = Rank(model, plan, 2.0, Uniform(), load_engine())
    at = Frame(rank, Load((Group.decode(1, 1),), 1, True))
    for layers in model.layers:
        for block in layers.blocks:
            if not any(block.refusals(plan, model.name)):
                yield from (operation for _, operation in at.operations(block))


def _fused(models: Sequence[Model], grid: Grid, fp8: bool) -> Iterator[Point]:
    for hidden, ffn in _experts(models):
        shape = {"hidden_size": hidden, "inter_size": ffn.width, "topk": ffn.num_experts_per_tok,
                 "num_experts": ffn.num_experts}  # fmt: skip
        for tp in grid.tensor_parallel:
            if ffn.width % (tp * _ALIGNED):
                continue
            blocks = fp8 and hidden % _BLOCK == 0 and (ffn.width // tp) % _BLOCK == 0
            for kind in ["bfloat16", *(["fp8_block"] if blocks else [])]:
                rank = {**shape, "moe_tp_size": tp, "moe_ep_size": 1, "moe_dtype": kind}
                for routing in grid.routing if tp == 1 else grid.routing[:1]:
                    for tokens in grid.tokens:
                        yield Point("fused_moe", {"num_tokens": tokens, **rank, "distribution": routing})
        whole = {**shape, "moe_tp_size": 1, "moe_ep_size": 1, "moe_dtype": "bfloat16"}
        for tokens in grid.loop_tokens:
            yield Point("expert_loop", {"num_tokens": tokens, **whole, "distribution": grid.routing[0]})


def _of_kind(models: Sequence[Model], grid: Grid, kind: type[T]) -> Iterator[T]:
    """Attention operations of every model on every number of ranks."""
    for model in models:
        for tp in grid.tensor_parallel:
            yield from (op for op in _operations(model, tp) if isinstance(op, kind))


def _attention(models: Sequence[Model], grid: Grid, fp8: bool) -> Iterator[Point]:
    for op in _of_kind(models, grid, Attention):
        for cache in ["bfloat16", *(["fp8"] if fp8 else [])]:
            shape = {"num_heads": op.heads, "num_key_value_heads": op.kv_heads, "head_dim": op.head_dim,
                     "attn_dtype": "bfloat16", "kv_cache_dtype": cache, "window_size": op.window or 0}  # fmt: skip
            for batch, context in _loads(grid.batch, grid.context, grid):
                yield Point("attention_decode", {"batch_size": batch, "isl": 1, "step": context - 1, **shape})
            for batch, prompt in _loads(grid.prompt_batch, grid.prompt, grid):
                yield Point("attention_prefill", {"batch_size": batch, "isl": prompt, "past": 0, **shape})


def _loads(batches: Sequence[int], lengths: Sequence[int], grid: Grid) -> Iterator[tuple[int, int]]:
    return ((b, n) for b in batches for n in lengths if b * n <= grid.most_cached_tokens)


def _mla(models: Sequence[Model], grid: Grid) -> Iterator[Point]:
    for op in _of_kind(models, grid, MlaModule):
        if op.top_k is not None:
            # Nothing here measures the sparse kernels.
            continue
        shape = {
            "num_heads": op.heads, "hidden_size": op.hidden, "q_lora_rank": op.q_lora_rank,
            "kv_lora_rank": op.kv_lora_rank, "qk_rope_head_dim": op.qk_rope_head_dim,
            "qk_nope_head_dim": op.qk_nope_head_dim, "v_head_dim": op.v_head_dim, "mla_dtype": "bfloat16",
            "kv_cache_dtype": "bfloat16", "gemm_type": "bfloat16",
        }  # fmt: skip
        for batch, context in _loads(grid.batch, grid.context, grid):
            yield Point("mla_decode", {"batch_size": batch, "isl": 1, "step": context - 1, **shape})
        for batch, prompt in _loads(grid.prompt_batch, grid.prompt, grid):
            yield Point("mla_prefill", {"batch_size": batch, "isl": prompt, "past": 0, **shape})


def _small(models: Sequence[Model], grid: Grid) -> Iterator[Point]:
    for model in models:
        for rows in grid.tokens:
            for op, sizes in _small_shapes(model):
                if op != "sampling" or rows <= grid.batch[-1]:
                    yield Point("small", {"op": op, "rows": rows, **sizes})
            yield Point("elementwise", {"m": rows, "k": model.hidden_size, "quant_dtype": "fp8"})


def _small_shapes(model: Model) -> Iterator[tuple[str, dict[str, Any]]]:
    hidden = model.hidden_size
    yield "norm", {"width": hidden}
    yield "embedding", {"width": hidden, "vocab_size": model.vocab_size}
    yield "sampling", {"vocab_size": model.vocab_size}
    for layers in model.layers:
        for block in layers.blocks:
            yield from block.small_kernels(hidden)


def _memory(models: Sequence[Model], grid: Grid) -> Iterator[Point]:
    for op in ("copy", "read", "write"):
        yield from (Point("stream", {"op": op, "bytes": size}) for size in grid.stream)
    for op in ("graph", "kernel", "wait"):
        yield from (Point("launch", {"op": op, "kernels": many}) for many in grid.kernels)
    experts = {6 * hidden * ffn.width for hidden, ffn in _experts(models)}
    for direction in ("h2d", "d2h"):
        for memory in ("pinned", "pageable"):
            for size in sorted({*grid.copy_, *experts}):
                if memory == "pageable" and size > grid.most_pageable:
                    continue
                one = {"direction": direction, "memory": memory, "bytes": size}
                yield Point("copy", {**one, "beside": "nothing"})
        for beside in ("gemm", "stream"):
            for size in sorted(experts):
                yield Point("copy", {"direction": direction, "memory": "pinned", "bytes": size, "beside": beside})


def _collectives(grid: Grid, gpus: int) -> Iterator[Point]:
    for ranks in (2, 4, 8, 16):
        for kind in grid.collectives if ranks <= gpus else ():
            for size in grid.message:
                columns = {"collective": kind, "num_gpus": ranks, "message_bytes": size, "nccl_dtype": "half"}
                yield Point("nccl", columns)
