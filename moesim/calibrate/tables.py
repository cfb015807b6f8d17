"""Tidy extracts of public kernel tables, from the wheels of aiconfigurator-core or its successor aisimulate.

A wheel is read as a zip file and never imported. Tables of kernels that moesim has no form for are left where they
are. Latencies become seconds, element counts become bytes, and every dropped row is counted with its reason in
``meta.yaml`` beside the tables.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim import paths
from moesim.calibrate.dataset import META, Dataset, content_sha256, units_of, write_sheet, write_table
from moesim.errors import CalibrationError, Problem, SpecError
from moesim.files import yaml
from moesim.files.archive import Archive
from moesim.files.names import squeezed
from moesim.hardware.hardware import Hardware

if TYPE_CHECKING:
    import pandas as pd

_DATA = re.compile(r"((?:aiconfigurator_core|aisimulate_core)/systems/data)/([^/]+)/")
_HOST_BOUND = 2.0
"""A table whose smallest all-reduce takes this many times an older one's timed its host, not its kernels."""

SOURCES: dict[str, dict[str, str]] = {
    "vllm": {
        "fused_moe": "moe/vllm/{version}/moe_perf.parquet",
        "gemm": "gemm/vllm/{version}/gemm_perf.parquet",
        "attention_prefill": "attention/vllm/{version}/context_attention_perf.parquet",
        "attention_decode": "attention/vllm/{version}/generation_attention_perf.parquet",
        "mla_prefill": "mla/vllm/{version}/mla_context_module_perf.parquet",
        "mla_decode": "mla/vllm/{version}/mla_generation_module_perf.parquet",
        "mla_sparse_prefill": "sparse_attention/vllm/{version}/dsa_context_module_perf.parquet",
        "mla_sparse_decode": "sparse_attention/vllm/{version}/dsa_generation_module_perf.parquet",
        "gdn": "linear_attention/vllm/{version}/gdn_perf.parquet",
        "kda": "kda/vllm/{version}/kda_perf.parquet",
        "mhc": "mhc/vllm/{version}/mhc_module_perf.parquet",
        "block_sparse_prefill": "msa/vllm/{version}/msa_context_module_perf.parquet",
        "block_sparse_decode": "msa/vllm/{version}/msa_generation_module_perf.parquet",
        "elementwise": "quantize/vllm/{version}/scale_matrix_perf.parquet",
        "custom_all_reduce": "comm/vllm/{version}/custom_allreduce_perf.parquet",
        "nccl": "comm/nccl/{nccl}/nccl_perf.parquet",
        "deepep_low_latency": "comm/vllm/{version}/moe_a2a_perf.parquet",
        "deepep_high_throughput": "comm/vllm/{version}/moe_a2a_perf.parquet",
    },
    "sglang": {
        "deepep_low_latency": "comm/sglang/{version}/wideep_deepep_ll_perf.parquet",
        "deepep_high_throughput": "comm/sglang/{version}/wideep_deepep_normal_perf.parquet",
    },
}
"""Engine -> table -> where the wheel keeps it."""

_DROPPED_COLUMNS = [
    "framework", "version", "device", "op_name", "latency", "beam_width", "model", "tp_size",
    "comm_dtype", "comm_backend", "transmit_us", "notify_us", "wire_dtype", "sample_count", "architecture",
]  # fmt: skip
_MEASURED_COLUMNS = {"latency", "seconds", "transmit_us", "notify_us", "notify_seconds"}


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


_SPARSE_SIZES = {
    "deepseek-ai/DeepSeek-V3.2": (7168, 1536, 128, 128, 64),
    **dict.fromkeys(("zai-org/GLM-5", "zai-org/GLM-5.2"), (6144, 2048, 192, 256, 32)),
}
"""Model of a row -> hidden size, rank of queries, sizes of keys without rope and of values, index heads, as its
config.json has them. Alike in both: latents of 512 + 64, an index key of 128, 2,048 picked tokens."""


def _sparse(table: pd.DataFrame) -> pd.DataFrame:
    """Modules with their indexer, and without it where a layer shares another's picks."""
    import pandas as pd

    unknown = sorted(set(table["model"]) - set(_SPARSE_SIZES))
    if unknown:
        raise CalibrationError(f"sparse attention of {', '.join(unknown)}: its sizes are not known here")
    names = ["hidden_size", "q_lora_rank", "qk_nope_head_dim", "v_head_dim", "index_n_heads"]
    sizes = pd.DataFrame([_SPARSE_SIZES[model] for model in table["model"]], columns=names, index=table.index)
    sizes.loc[table["op_name"].str.endswith("skip_indexer"), "index_n_heads"] = 0
    return table.assign(**{name: sizes[name] for name in names})


def _sparse_context(table: pd.DataFrame) -> pd.DataFrame:
    return _context(_sparse(table))


def _of_states(table: pd.DataFrame) -> pd.DataFrame:
    """One row a shape: models of equal heads ran the same kernels."""
    return table.drop(columns=["d_model", "model_name", "num_tokens"])


_BLOCK_SPARSE_HIDDEN, _HEADS_A_KV_HEAD = 6144, 16
"""MiniMax-M3's, whose modules these are: 64 query heads over 4 KV heads, shared among ranks alike."""


def _block_sparse(table: pd.DataFrame) -> pd.DataFrame:
    kv = (table["num_heads"] // _HEADS_A_KV_HEAD).clip(lower=1)
    return table.assign(hidden_size=_BLOCK_SPARSE_HIDDEN, num_key_value_heads=kv)


def _block_sparse_context(table: pd.DataFrame) -> pd.DataFrame:
    return _context(_block_sparse(table))


def _mix(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds of one place: a row times ``num_sites`` of them."""
    return table.assign(phase=table["op_name"], seconds=table["seconds"] / table["num_sites"]).drop(
        columns=["num_sites", "sinkhorn_iters"]
    )


_DIRECTIONS = ("dispatch", "combine")
_DEEPEP_MODES = {"deepep_low_latency": "ll", "deepep_high_throughput": "ht"}


def _deepep(mode: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """One mode of DeepEP, a row a direction, microseconds in the source."""

    def tidy(table: pd.DataFrame) -> pd.DataFrame:
        if "comm_backend" in table:
            return _deepep_of_vllm(table[table["comm_backend"] == f"deepep_{_DEEPEP_MODES[mode]}"])
        return _deepep_of_sglang(table)

    return tidy


def _deepep_of_vllm(table: pd.DataFrame) -> pd.DataFrame:
    """Dispatch in bfloat16: it takes as long as combine, and twice SGLang's fp8."""
    return table.rename(columns={"node_num": "nodes"}).assign(seconds=table["latency"] * 1e-6, bytes_per_element=2.0)


def _deepep_of_sglang(table: pd.DataFrame) -> pd.DataFrame:
    """Both directions of a row become rows of their own. Eight GPUs a node; dispatch in fp8.

    High throughput runs a notify kernel before it transmits, timed apart: ``notify_seconds``.
    """
    import pandas as pd

    rows, sms = [], "dispatch_sms" in table
    for phase in _DIRECTIONS:
        one = table[["num_experts", "hidden_size"]].assign(
            topk=table["num_topk"],
            num_tokens=table["num_token"],
            nodes=table["node_num"],
            ep_size=8 * table["node_num"],
            phase=phase,
            bytes_per_element=1.0 if phase == "dispatch" else 2.0,
            seconds=table[f"{phase}_transmit_us" if sms else f"{phase}_avg_t_us"] * 1e-6,
            sms=table[f"{phase}_sms"] if sms else 0,
        )
        if sms:
            one["notify_seconds"] = table[f"{phase}_notify_us"] * 1e-6
        rows.append(one)
    return pd.concat(rows, ignore_index=True)


TIDY: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "nccl": _nccl,
    "custom_all_reduce": _custom_all_reduce,
    "attention_prefill": _context,
    "mla_prefill": _context,
    "mla_sparse_prefill": _sparse_context,
    "mla_sparse_decode": _sparse,
    "gdn": _of_states,
    "kda": _of_states,
    "mhc": _mix,
    "block_sparse_prefill": _block_sparse_context,
    "block_sparse_decode": _block_sparse,
    **{mode: _deepep(mode) for mode in _DEEPEP_MODES},
}


def import_from_wheel(wheel: Path, folder: Path, hardware: Hardware, stack: str) -> Dataset:
    """The wheel's tables of a GPU, which it names as one of the aliases of its hardware file, into ``folder``.

    Raises
    ------
    CalibrationError
        The file is no such wheel, or holds nothing for this GPU and stack.
    """
    names = {squeezed(alias): alias for alias in (hardware.name, *hardware.aliases)}
    with Archive(wheel) as archive:
        theirs = sorted({m[2] for name in archive.names if (m := _DATA.match(name))})
    source_gpu = next((name for name in theirs if squeezed(name) in names), None)
    if source_gpu is None:
        raise CalibrationError(f"'{wheel.name}' holds no GPU called {hardware.name}; it has {', '.join(theirs)}")
    import_tables(wheel, hardware.name, source_gpu, stack, folder)
    return Dataset(folder, hardware.name, stack)


def import_tables(
    wheel: Path, gpu: str, source_gpu: str, stack: str, folder: Path | None = None, only: Sequence[str] = ()
) -> list[Path]:
    """Write tidy extracts of one GPU and stack into ``folder``, by default the project's own for them.

    Parameters
    ----------
    wheel : Path
        The wheel file of aiconfigurator-core or aisimulate.
    gpu : str
        moesim's name of the GPU, for example ``nvidia-h100-sxm5-80gb``.
    source_gpu : str
        The wheel's name of it, for example ``h100_sxm``.
    stack : str
        Engine and version, for example ``vllm-0.24.0``.
    only : sequence of str
        The tables to take; all that there are, where it is empty.

    Raises
    ------
    CalibrationError
        The file is no such wheel, or holds nothing for this GPU and stack.
    """

    engine, _, version = stack.partition("-")
    if engine not in SOURCES:
        raise CalibrationError(f"the stack '{stack}' is of no known engine; known: {', '.join(SOURCES)}")
    unknown = [name for name in only if name not in SOURCES[engine]]
    if unknown:
        raise CalibrationError(f"'{unknown[0]}' is no table of {engine}; {', '.join(SOURCES[engine])} are")
    with Archive(wheel) as archive:
        names = set(archive.names)
        root = next((m[1] for name in names if (m := _DATA.match(name)) and m[2] == source_gpu), "")
        about: dict[str, Any] = {}
        tables: dict[str, pd.DataFrame] = {}
        doubts: list[str] = []
        for family, pattern in SOURCES[engine].items():
            if only and family not in only:
                continue
            nccl = _nccl_version(archive, f"{root}/{source_gpu}/comm/nccl/", doubts) if family == "nccl" else ""
            member = f"{root}/{source_gpu}/{pattern.format(version=version, nccl=nccl)}"
            if member not in names:
                continue
            raw, table = archive.read(member), archive.parquet(member)
            try:
                tables[family], dropped = tidied(family, table)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                message = f"is no table of {family} that is known here: {type(error).__name__} at {error}"
                raise SpecError([Problem(message, f"{wheel}: {member}")]) from None
            about[family] = {
                "file": member,
                "sha256_of_source": hashlib.sha256(raw).hexdigest(),
                "device": str(table["device"].iloc[0]) if "device" in table else "not recorded",
                "rows_read": len(table),
                "rows_kept": len(tables[family]),
                "rows_dropped": dropped,
                "sha256": content_sha256(tables[family]),
                "provenance": _provenance(archive, names, member),
            }
        if not tables:
            raise CalibrationError(f"'{wheel.name}' holds no table of {stack} on '{source_gpu}'")
        left = _left_alone(names, f"{root}/{source_gpu}/", engine, version)
        if left and not only:
            doubts.append(f"kernels without a form here were left out: {', '.join(left)}")
    folder = folder or paths.KERNELS / gpu / stack
    written = [write_table(folder, family, table) for family, table in tables.items()]
    sheet = _sheet(wheel, gpu, stack, tables, about, doubts)
    write_sheet(folder, "moesim import-tables", _added(sheet, folder) if only else sheet)
    return written


def _added(sheet: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The sheet of a few tables on top of the folder's own, whose other tables stay; a table says its other source."""
    if not (folder / META).is_file():
        return sheet
    own = dict(yaml.read(folder / META).data)
    if sheet["source"] != own["source"]:
        for entry in sheet["tables"].values():
            entry["source"] = sheet["source"]
    return own | {
        "units": own["units"] | sheet["units"],
        "tables": own["tables"] | sheet["tables"],
        "doubts": list(dict.fromkeys([*own["doubts"], *sheet["doubts"]])),
    }


def _provenance(archive: Archive, names: set[str], member: str) -> dict[str, str]:
    """What the source says of a table's making: image and date, or that it does not."""
    folder, _, file = member.rpartition("/")
    beside = f"{folder}/collection_meta.yaml"
    if beside not in names:
        return {"kind": "not recorded"}
    said = yaml.parse(archive.text(beside), beside).data
    runtime, table = said.get("runtime", {}), said.get("tables", {}).get(file.removesuffix(".parquet"), {})
    dates = sorted({str(part["collected_at"]) for part in table.get("collections", []) if "collected_at" in part})
    found = {
        "kind": said.get("provenance"),
        "image": runtime.get("image"),
        "image_digest": runtime.get("image_digest"),
        "collected_at": ", ".join(dates),
        "status": table.get("status"),
    }
    return {key: str(value) for key, value in found.items() if value}


def _left_alone(names: set[str], root: str, engine: str, version: str) -> list[str]:
    """Tables of a stack that no family reads."""
    read = {pattern.format(version=version, nccl="") for pattern in SOURCES[engine].values()}
    theirs = {name.removeprefix(root) for name in names if name.startswith(root) and name.endswith("_perf.parquet")}
    return sorted(
        name.rpartition("/")[2].removesuffix("_perf.parquet")
        for name in theirs - read
        if f"/{engine}/{version}/" in name
    )


def _sheet(
    wheel: Path, gpu: str, stack: str, tables: dict[str, pd.DataFrame], about: dict[str, Any], doubts: list[str]
) -> dict[str, Any]:
    devices = sorted({entry["device"] for entry in about.values()})
    name, version, *_ = [*wheel.name.removesuffix(".whl").split("-"), "of no version"]
    return {
        "title": f"kernels of {stack} on {gpu}, public tables",
        "gpu": gpu,
        "stack": stack,
        "source": f"{name.replace('_', '-')} {version}",
        "licence": "Apache-2.0 (NVIDIA)",
        "measured_at": "not recorded in the source",
        "units": units_of(tables),
        "repetitions": "one sample a row, no standard error in the source",
        "environment": {"devices": devices, "engine": stack, "driver, clocks, power cap, ECC": "not recorded"},
        "doubts": ["no standard errors, so unstable rows cannot be told from stable ones", *doubts],
        "tables": about,
    }


def tidied(family: str, table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Seconds and bytes instead of the source's units; unusable rows dropped and counted by reason."""
    if "latency" in table:
        table = table.assign(seconds=table["latency"] * 1e-3)
    table = TIDY.get(family, lambda t: t)(table)
    dropped: dict[str, int] = {}
    bad = ~(table["seconds"] > 0)
    if bad.any():
        dropped["latency missing or not positive"] = int(bad.sum())
    table = table[~bad]
    keys = [c for c in table.columns if c not in _MEASURED_COLUMNS]
    twins = int(table.duplicated(keys).sum())
    if twins:
        dropped["measured more than once: median kept"] = twins
        table = table.groupby(keys, sort=False, dropna=False)["seconds"].median().reset_index()
    tidy = table.drop(columns=[c for c in _DROPPED_COLUMNS if c in table.columns])
    return tidy.reset_index(drop=True), dropped


def _nccl_version(archive: Archive, prefix: str, doubts: list[str]) -> str:
    """The newest NCCL whose table times kernels: not one whose smallest all-reduce waits for the host."""

    found = {m[1]: name for name in archive.names
             if (m := re.match(re.escape(prefix) + r"([\d.]+)/nccl_perf\.parquet$", name))}  # fmt: skip
    floors: dict[str, float] = {}
    for version, name in found.items():
        table = archive.parquet(name)
        reduced = table[table["op_name"] == "all_reduce"] if "op_name" in table else table.iloc[:0]
        if len(reduced):
            floors[version] = float(reduced["latency"].min())
    least = min(floors.values(), default=0.0)
    sound = [version for version, floor in floors.items() if floor <= _HOST_BOUND * least]
    doubts += [
        f"nccl {version} is left out: its smallest all-reduce takes {floor / least:.1f} times the least, a host's time"
        for version, floor in floors.items()
        if version not in sound
    ]
    return max(sound, key=lambda v: [int(x) for x in v.split(".")], default="none")
