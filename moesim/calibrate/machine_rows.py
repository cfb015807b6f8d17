"""Tables that `moesim calibrate` alone makes: memory, copies, launches, small kernels, the host; each row an
operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.calibrate.family import Family
from moesim.calibrate.groups import by
from moesim.cost.forms import elementwise, host, stream
from moesim.cost.gpu import GpuNumbers
from moesim.ops import Elementwise
from moesim.ops.host import Copy
from moesim.ops.measured import HostMatrices, HostStream, Launches, Stream

if TYPE_CHECKING:
    import pandas as pd

SMALL_BYTES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "norm": lambda t: 8.0 * t["rows"] * t["width"],
    "rope": lambda t: 4.0 * t["rows"] * (t["heads"] + t["kv_heads"]) * t["head_dim"],
    "activation": lambda t: 6.0 * t["rows"] * t["width"],
    "top_k": lambda t: t["rows"] * (2.0 * t["num_experts"] + 8.0 * t["topk"]),
    "align": lambda t: 12.0 * t["rows"] * t["topk"],
    "permute": lambda t: 4.0 * t["rows"] * t["topk"] * t["width"],
    "sum": lambda t: 2.0 * t["rows"] * (t["topk"] + 1.0) * t["width"],
    "embedding": lambda t: 4.0 * t["rows"] * t["width"],
    "sampling": lambda t: 16.0 * t["rows"] * t["vocab_size"],
    "cache_write": lambda t: 8.0 * t["rows"] * t["kv_heads"] * t["head_dim"],
}
"""Small kernel -> bytes it reads and writes, as blocks count them. [B]"""


def _small(op: str) -> Callable[[pd.DataFrame], Elementwise]:
    launches = 4 if op == "sampling" else 1
    return lambda t: Elementwise(
        t["rows"].to_numpy(float), np.asarray(SMALL_BYTES[op](t), float), launches
    )  # fmt: skip


def _where(**wanted: Any) -> Callable[[pd.DataFrame, GpuNumbers], pd.DataFrame]:
    def select(table: pd.DataFrame, gpu: GpuNumbers) -> pd.DataFrame:
        kept = np.ones(len(table), bool)
        for column, value in wanted.items():
            kept &= (table[column] == value).to_numpy()
        return table[kept]

    return select


def _size(column: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda t: t[column].astype(str)


_ELEMENT = {"bfloat16": 2.0, "float32": 4.0}


def _matmul(t: pd.DataFrame) -> HostMatrices:
    weights = t["n"].to_numpy(float) * t["k"].to_numpy(float)
    return HostMatrices(t["m"].to_numpy(float), weights, t["dtype"].map(_ELEMENT).to_numpy(float), 1.0, _threads(t))


def _expert(t: pd.DataFrame) -> HostMatrices:
    weights = 3.0 * t["hidden_size"].to_numpy(float) * t["inter_size"].to_numpy(float)
    rows = t["num_tokens"].to_numpy(float)
    return HostMatrices(rows, weights, t["dtype"].map(_ELEMENT).to_numpy(float), 2.0, _threads(t))


def _threads(t: pd.DataFrame) -> Any:
    return t["threads"].to_numpy(float)


def _family(name: str, form: Any, table: str, select: Any, operation: Any, group: Any, scheme: str) -> Family:
    return Family(name, form, table, select, operation, group, scheme, folds=5, weights_for_l2_rule=False)


GPU_FAMILIES: tuple[Family, ...] = (
    *(
        _family(f"small/{op}", elementwise.FORM, "small", _where(op=op), _small(op), _size("rows"),
                "row counts, 5 folds")
        for op in SMALL_BYTES
    ),
    *(
        _family(f"stream/{op}", stream.STREAM, "stream", _where(op=op),
                lambda t: Stream(t["bytes"].to_numpy(float)), _size("bytes"), "sizes, 5 folds")
        for op in ("copy", "read", "write")
    ),
    *(
        _family(f"copy/{way}_{memory}", stream.COPY, "copy", _where(direction=way, memory=memory, beside="nothing"),
                lambda t: Copy(1.0, t["bytes"].to_numpy(float)), _size("bytes"), "sizes, 5 folds")
        for way in ("h2d", "d2h") for memory in ("pinned", "pageable")
    ),
    *(
        _family(f"launch/{op}", stream.LAUNCH, "launch", _where(op=op),
                lambda t: Launches(t["kernels"].to_numpy(float)), _size("kernels"), "kernel counts, 5 folds")
        for op in ("graph", "kernel", "wait")
    ),
)  # fmt: skip

HOST_FAMILIES: tuple[Family, ...] = (
    *(
        _family(f"host_stream/{op}", host.STREAM, "host_stream", _where(op=op),
                lambda t: HostStream(t["bytes"].to_numpy(float), _threads(t)), by("bytes", "threads"),
                "(size, threads) pairs, 5 folds")
        for op in ("copy", "read")
    ),
    *(
        _family(f"host_matmul/{dtype}", host.MATRICES, "host_matmul", _where(dtype=dtype), _matmul,
                by("n", "k", "m"), "(m, n, k) triples, 5 folds")
        for dtype in _ELEMENT
    ),
    *(
        _family(f"host_expert/{dtype}", host.MATRICES, "host_expert", _where(dtype=dtype), _expert,
                by("hidden_size", "inter_size", "num_tokens"), "(shape, tokens) pairs, 5 folds")
        for dtype in _ELEMENT
    ),
)  # fmt: skip
