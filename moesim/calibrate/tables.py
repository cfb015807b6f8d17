"""Tidy extracts of public kernel tables: import from the aiconfigurator-core wheel, and read back.

The wheel is read as a zip file and never imported. Latencies become seconds, element counts become bytes,
and every dropped row is counted with its reason in ``meta.yaml`` beside the tables.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim import paths
from moesim.errors import CalibrationError
from moesim.paths import whole, write_whole

if TYPE_CHECKING:
    import pandas as pd

DATA = "aiconfigurator_core/systems/data"

SOURCES: dict[str, str] = {
    "fused_moe": "moe/vllm/{version}/moe_perf.parquet",
    "gemm": "gemm/vllm/{version}/gemm_perf.parquet",
    "attention_prefill": "attention/vllm/{version}/context_attention_perf.parquet",
    "attention_decode": "attention/vllm/{version}/generation_attention_perf.parquet",
    "mla_prefill": "mla/vllm/{version}/mla_context_module_perf.parquet",
    "mla_decode": "mla/vllm/{version}/mla_generation_module_perf.parquet",
    "elementwise": "quantize/vllm/{version}/scale_matrix_perf.parquet",
    "custom_all_reduce": "comm/vllm/{version}/custom_allreduce_perf.parquet",
    "nccl": "comm/nccl/{nccl}/nccl_perf.parquet",
}

_DROPPED_COLUMNS = [
    "framework", "version", "device", "op_name", "latency", "beam_width", "model", "architecture", "tp_size",
]  # fmt: skip


def _nccl(table: pd.DataFrame) -> pd.DataFrame:
    """message_size counts elements of nccl_dtype."""
    size = table["nccl_dtype"].map({"half": 2, "int8": 1})
    return table.assign(message_bytes=table["message_size"] * size, collective=table["op_name"]).drop(
        columns=["message_size"]
    )


def _custom_all_reduce(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(message_bytes=table["message_size"] * 2).drop(columns=["message_size"])


def _context(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"step": "past"})


TIDY: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "nccl": _nccl,
    "custom_all_reduce": _custom_all_reduce,
    "attention_prefill": _context,
    "mla_prefill": _context,
}


def import_tables(wheel: Path, gpu: str, source_gpu: str, stack: str) -> list[Path]:
    """Write tidy extracts of one GPU and stack under ``calibration/kernels/<gpu>/<stack>/``.

    Parameters
    ----------
    wheel : Path
        The aiconfigurator-core wheel file.
    gpu : str
        moesim's name of the GPU, for example ``nvidia-h100-sxm5-80gb``.
    source_gpu : str
        The wheel's name of it, for example ``h100_sxm``.
    stack : str
        Engine and version, for example ``vllm-0.24.0``.

    Raises
    ------
    CalibrationError
        The file is no such wheel, or holds nothing for this GPU and stack.
    """
    import pandas as pd

    version = stack.removeprefix("vllm-")
    try:
        archive = zipfile.ZipFile(wheel)
    except (OSError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"'{wheel}' is not a wheel file: {error}") from None
    with archive:
        names = set(archive.namelist())
        nccl = _newest(names, f"{DATA}/{source_gpu}/comm/nccl/")
        meta: dict[str, Any] = {}
        written: list[Path] = []
        folder = paths.KERNELS / gpu / stack
        for family, pattern in SOURCES.items():
            member = f"{DATA}/{source_gpu}/{pattern.format(version=version, nccl=nccl)}"
            if member not in names:
                continue
            raw = archive.read(member)
            table = pd.read_parquet(io.BytesIO(raw))
            tidy, dropped = tidied(family, table)
            target = folder / f"{family}.parquet"
            with whole(target) as half:
                tidy.to_parquet(half, index=False, compression="zstd")
            written.append(target)
            meta[family] = {
                "file": member,
                "sha256_of_source": hashlib.sha256(raw).hexdigest(),
                "device": str(table["device"].iloc[0]),
                "rows_read": len(table),
                "rows_kept": len(tidy),
                "rows_dropped": dropped,
            }
        if not written:
            raise CalibrationError(f"'{wheel.name}' holds no table of {stack} on '{source_gpu}'")
    write_whole(folder / "meta.yaml", _meta_text(wheel.name, gpu, stack, meta))
    return written


def tidied(family: str, table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Seconds and bytes instead of the source's units; unusable rows dropped and counted by reason."""
    dropped: dict[str, int] = {}
    bad = ~(table["latency"] > 0)
    if bad.any():
        dropped["latency missing or not positive"] = int(bad.sum())
    table = table[~bad]
    keys = [c for c in table.columns if c != "latency"]
    twins = int(table.duplicated(keys).sum())
    if twins:
        dropped["measured more than once: median kept"] = twins
        table = table.groupby(keys, sort=False, dropna=False)["latency"].median().reset_index()
    tidy = TIDY.get(family, lambda t: t)(table.assign(seconds=table["latency"] * 1e-3))
    tidy = tidy.drop(columns=[c for c in _DROPPED_COLUMNS if c in tidy.columns])
    return tidy.reset_index(drop=True), dropped


def _newest(names: set[str], prefix: str) -> str:
    versions = {m[1] for n in names if (m := re.match(re.escape(prefix) + r"([\d.]+)/nccl_perf\.parquet$", n))}
    return max(versions, key=lambda v: [int(x) for x in v.split(".")], default="none")


def _meta_text(wheel: str, gpu: str, stack: str, families: dict[str, Any]) -> str:
    name, version = wheel.split("-")[:2]
    lines = [
        "# Written by `moesim import-tables`; do not edit.",
        f"package: {name.replace('_', '-')}",
        f"package_version: {version}",
        "licence: Apache-2.0 (NVIDIA)",
        f"gpu: {gpu}",
        f"stack: {stack}",
        "units: {seconds: s, message_bytes: B}",
        "repetitions: one sample a row, no standard error in the source",
        "families:",
    ]
    for family, entry in families.items():
        lines.append(f"  {family}:")
        for key, value in entry.items():
            if key == "rows_dropped":
                inner = ", ".join(f'"{reason}": {count}' for reason, count in value.items())
                lines.append(f"    {key}: {{{inner}}}")
            else:
                lines.append(f'    {key}: "{value}"' if isinstance(value, str) else f"    {key}: {value}")
    return "\n".join(lines) + "\n"


def read_table(gpu: str, stack: str, family: str) -> pd.DataFrame:
    """A tidy extract. Raises CalibrationError where there is none."""
    import pandas as pd

    path = table_path(gpu, stack, family)
    if not path.is_file():
        raise CalibrationError(f"there is no table '{family}' for {gpu} under {stack}")
    return pd.read_parquet(path)


def table_path(gpu: str, stack: str, family: str) -> Path:
    return paths.KERNELS / gpu / stack / f"{family}.parquet"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
