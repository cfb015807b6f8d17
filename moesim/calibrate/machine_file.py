"""Hardware files of machines nobody has described: what a calibration found, measured or marked as assumed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from moesim import paths
from moesim.bench.point import Point
from moesim.calibrate.dataset import Dataset
from moesim.errors import CalibrationError, SpecError
from moesim.files import yaml
from moesim.files.writing import write_whole
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.hardware import Hardware
from moesim.hardware.host import Host, load_host

_REACHED = 0.85
"""Share of its peak that a GPU's fastest large product is taken to reach, where no datasheet is at hand."""
_EDGE = 8192
_STREAMED, _COPIED = 1 << 30, 1 << 28
_PCIE_BYTES_PER_S_A_LANE = {3: 1e9, 4: 2e9, 5: 4e9, 6: 8e9}
"""PCI Express generation -> nominal, per lane and direction."""
_LIKE = "desktop-ddr5"
"""The host whose file stands in for what is not measured."""
_MANY_ROWS = 128
_SHORT = {"bfloat16": "bf16", "float32": "f32"}
_MOST_DISK_BYTES = 1e15


def peak_points(fp8: bool) -> list[Point]:
    """What tells an unknown GPU's rates before anything else is measured."""
    edge = {"m": _EDGE, "n": _EDGE, "k": _EDGE}
    return [
        *(Point("gemm", {"gemm_dtype": kind, **edge}) for kind in ["bfloat16", *(["fp8"] if fp8 else [])]),
        Point("stream", {"op": "copy", "bytes": _STREAMED}),
        Point("stream", {"op": "read", "bytes": _STREAMED}),
        Point("copy", {"direction": "h2d", "memory": "pinned", "bytes": _COPIED, "beside": "nothing"}),
    ]


def slug(name: str) -> str:
    """A name for files: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def known_hardware(device_name: str) -> Hardware | None:
    """The file that describes a GPU by the name its driver gives it, or None."""
    try:
        return load_hardware(device_name)
    except SpecError:
        return None


def write_gpu_file(folder: Path, environment: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """A hardware file for the GPU of ``environment`` from measured peaks. Raises CalibrationError without them."""
    name = slug(environment["gpu"])

    def best(table: str, **wanted: Any) -> dict[str, Any] | None:
        found = [
            r for r in rows
            if "seconds" in r and r["point"]["table"] == table and wanted.items() <= r["point"].items()
        ]  # fmt: skip
        return min(found, key=lambda r: r["seconds"], default=None)

    edge = {"m": _EDGE, "n": _EDGE, "k": _EDGE}
    bf16, fp8 = best("gemm", gemm_dtype="bfloat16", **edge), best("gemm", gemm_dtype="fp8", **edge)
    streamed = [r for op in ("copy", "read") if (r := best("stream", op=op, bytes=_STREAMED))]
    if not bf16 or not streamed:
        raise CalibrationError(
            f"there is no hardware file for '{environment['gpu']}', and its peaks could not be measured to write one; "
            "describe it by hand, as the files in hwspecs/ do, and name the file with --hardware"
        )
    flop = 2.0 * _EDGE**3
    moved = _STREAMED / min(r["seconds"] for r in streamed)
    nominal = environment.get("memory_clock_most_hz", 0) * 2 * environment.get("memory_bus_bits", 0) / 8
    hbm = nominal if moved < nominal < 2 * moved else moved / 0.92
    gpu = {
        "sm_count": _said(environment["sm_count"], "driver"),
        "dense_bf16": _peak(flop / bf16["seconds"]),
        **({"dense_fp8": _peak(flop / fp8["seconds"])} if fp8 else {}),
        "hbm_bandwidth": _said(
            f"{hbm / 1e9:.5g} GB/s",
            "driver" if hbm == nominal else "assumed",
            "memory clock x bus width" if hbm == nominal else f"{moved / 1e9:.4g} GB/s measured, taken as 92 % of it",
        ),
        "l2_cache": _said(f"{environment['l2_bytes'] / 2**20:.5g} MiB", "driver"),
        "memory": _said(f"{environment['gpu_memory_bytes'] / 2**30:.5g} GiB", "driver"),
        "power": _said(f"{environment.get('power_limit_w', 300):.4g} W",
                       "driver" if "power_limit_w" in environment else "assumed"),
    }  # fmt: skip
    lanes = environment.get("pcie_lanes", 16)
    nominal_link = lanes * _PCIE_BYTES_PER_S_A_LANE.get(environment.get("pcie_generation", 4), 2e9)
    link = _said(f"{nominal_link / 1e9:.4g} GB/s", "driver" if "pcie_lanes" in environment else "assumed",
                 "PCI Express, per direction")  # fmt: skip
    data = {
        "name": name,
        "aliases": [],
        "vendor": "NVIDIA" if "nvidia" in name else name.split("-")[0],
        "compute_capability": environment["compute_capability"],
        "source": "moesim calibrate, on the card itself",
        "gpu": gpu,
        "links": {"kind": "none", "gpu_to_gpu": link, "host": link},
        "gpus_per_node": max(int(environment.get("gpus", 1)), 1),
        "measured": {
            "best_bf16_gemm": _said(f"{flop / bf16['seconds'] / 1e12:.4g} TFLOP/s", "measured"),
            **({"best_fp8_gemm": _said(f"{flop / fp8['seconds'] / 1e12:.4g} TFLOP/s", "measured")} if fp8 else {}),
        },
        "doubts": [
            f"peak arithmetic is the fastest product measured over {_REACHED:g}, no datasheet's",
            "links between GPUs were not looked at: PCI Express is assumed",
        ],
    }
    return _written(folder / f"{name}.yaml", data, Hardware)


def write_host_file(folder: Path, environment: dict[str, Any], dataset: Dataset) -> Path | None:
    """A host file from the host's tables; None where the dataset has none."""
    if not (dataset.has("host_stream") and dataset.has("host_matmul")):
        return None
    like, name = load_host(_LIKE), host_name(environment)
    streams, products = dataset.table("host_stream"), dataset.table("host_matmul")
    reads = streams[streams["op"] == "read"]
    bandwidth = float((reads["bytes"] / reads["seconds"]).groupby(reads["threads"]).median().max())
    many = products[products["m"] >= _MANY_ROWS]
    many = many.assign(rate=2.0 * many["m"] * many["n"] * many["k"] / many["seconds"])
    if many.empty or reads.empty:
        return None
    fastest = many.loc[many.groupby("dtype")["rate"].idxmax()].set_index("dtype")
    rates = {
        f"torch-{_SHORT.get(str(dtype), dtype)}": _said(
            f"{row['rate'] / 1e12:.4g} TFLOP/s", "measured",
            f"product of {row['m']} x {row['k']} x {row['n']}, {row['threads']} threads",
        )
        for dtype, row in fastest.iterrows()
    }  # fmt: skip
    usual = "bfloat16" if "bfloat16" in fastest.index else fastest["rate"].idxmax()
    as_like = f"not measured; as {_LIKE} assumes"
    operation = _said(f"{like.cpu.operation.value * 1e6:.4g} us", "assumed", as_like)
    if dataset.has("launch"):
        each = dataset.table("launch").query("op == 'kernel' and kernels >= 100")
        if len(each):
            seconds = float((each["seconds"] / each["kernels"]).median())
            operation = _said(f"{seconds * 1e6:.4g} us", "measured", "launch of one small kernel from PyTorch")
    # A cluster's file system is larger than any disk of experts need be.
    disk_bytes = min(environment.get("disk_bytes", like.disk.capacity.value), _MOST_DISK_BYTES)
    data = {
        "name": name,
        "aliases": [],
        "source": "moesim calibrate, on the machine itself",
        "dram": {
            "capacity": _said(f"{environment['memory_bytes'] / 2**30:.5g} GiB", "operating system"),
            "bandwidth": _said(f"{bandwidth / 1e9:.4g} GB/s", "measured", "median of reads at the best thread count"),
            "achieved": _said(1.0, "measured", "the bandwidth above is what reads reached"),
        },
        "cpu": {
            "cores": _said(int(environment["cores"]), "operating system"),
            "flop_rate": rates[f"torch-{_SHORT.get(str(usual), usual)}"],
            "rates": rates,
            "operation": operation,
        },
        "disk": {
            "capacity": _said(f"{disk_bytes / 1e9:.4g} GB", "operating system"),
            "bandwidth": _said(f"{like.disk.bandwidth.value / 1e9:.4g} GB/s", "assumed", as_like),
            "latency": _said(f"{like.disk.latency.value * 1e6:.4g} us", "assumed", as_like),
        },
        "copy_latency": _said(f"{like.copy_latency.value * 1e6:.4g} us", "assumed", as_like),
        "doubts": ["the disk and the start of copies were not measured",
                   "other work on the machine while it was measured makes it look slower"],
    }  # fmt: skip
    return _written(folder / f"{name}.yaml", data, Host)


def host_name(environment: dict[str, Any]) -> str:
    """What the host is called: its processor and how many cores of it there are."""
    return f"{slug(environment['cpu']) or 'host'}-{environment['cores']}-cores"


def _said(value: Any, source: str, note: str = "") -> dict[str, Any]:
    return {"value": value, "source": source} | ({"note": note} if note else {})


def _peak(reached: float) -> dict[str, Any]:
    note = f"{reached / 1e12:.4g} TFLOP/s measured, taken as {_REACHED:.0%} of it"
    return _said(f"{reached / _REACHED / 1e12:.4g} TFLOP/s", "assumed", note)


def _written(target: Path, data: dict[str, Any], kind: Any) -> Path:
    """Write a file that loads; one that is there already stays, for it may have been edited. Raises SpecError."""
    if target.is_file():
        return target
    from moesim.files.validation import validated

    text = f"# Written by `moesim calibrate`; edit it where you know better.\n{yaml.text(data)}"
    document = yaml.parse(text, str(target))
    _, problems = validated(kind, document.data, document)
    if problems:
        raise SpecError(problems)
    write_whole(target, text)
    return target


def shipped_or(folder: Path, name: str) -> str:
    """What to give ``--hardware``: the name of a file that ships, or the file in ``folder``."""
    return name if (paths.HWSPECS / f"{name}.yaml").is_file() else str(folder / f"{name}.yaml")
