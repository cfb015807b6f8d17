"""What others measured, into the same tidy tables: nccl-tests logs and nvbandwidth's JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.calibrate.dataset import Dataset, content_sha256, sha256, units_of, write_sheet, write_table
from moesim.errors import CalibrationError

if TYPE_CHECKING:
    import pandas as pd

_PERF = re.compile(r"(all_reduce|all_gather|reduce_scatter|alltoall|sendrecv)(?:_perf)?")
_COLLECTIVES = {"sendrecv": "send_recv"}
_RANK = re.compile(r"#\s+Rank\s+(\d+)\s.*?device\s+\d+\s+\[\S+\]\s+(.+?)\s*$")
_ROW = re.compile(r"^\s*(\d+)\s+\d+\s+(\w+)\s+\w+\s+(?:-?\d+\s+)?([\d.]+)\s+[\d.]+\s+[\d.]+")
_ELEMENT = {"half": "half", "bfloat16": "half", "float16": "half", "int8": "int8", "uint8": "int8"}
_NV_COPIES = {"host_to_device_memcpy_ce": "h2d", "device_to_host_memcpy_ce": "d2h"}
_NV_BUFFER_BYTES = 512 << 20
"""nvbandwidth's default buffer, which its output does not repeat."""


def kind_of(path: Path) -> str:
    """``aiconfigurator``, ``nccl-tests``, ``nvbandwidth`` or ``vllm-bench``. Raises CalibrationError for others."""
    if path.suffix == ".whl":
        return "aiconfigurator"
    text = _text(path)
    if "# nThread" in text and "busbw" in text:
        return "nccl-tests"
    data = _json(text)
    if isinstance(data, dict) and "nvbandwidth" in data:
        return "nvbandwidth"
    if isinstance(data, dict) and "total_output_tokens" in data:
        return "vllm-bench"
    raise CalibrationError(
        f"'{path}' is nothing known here; accepted are a log of nccl-tests, JSON of nvbandwidth (-j) or of vllm bench "
        "serve (--save-result), and an aiconfigurator-core wheel"
    )


def import_nccl_tests(path: Path, folder: Path, gpu: str) -> Dataset:
    """A log of nccl-tests, one or several collectives one after the other, out of place. Raises CalibrationError."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    devices: set[str] = set()
    collective, ranks, skipped = _named(path.name), 0, 0
    for line in _text(path).splitlines():
        if line.lstrip().startswith("# nThread"):
            ranks = 0
        elif found := _RANK.match(line.strip()):
            ranks = max(ranks, int(found[1]) + 1)
            devices.add(found[2])
        elif (line.startswith("#") or "_perf" in line) and _named(line):
            collective = _named(line)
        elif found := _ROW.match(line):
            size, element, microseconds = int(found[1]), found[2], float(found[3])
            if element not in _ELEMENT and collective in {"all_reduce", "reduce_scatter"}:
                # Sums of other widths run at another rate; what only moves bytes does not care.
                skipped += 1
                continue
            if size and microseconds:
                rows.append({
                    "collective": collective, "num_gpus": ranks, "message_bytes": size,
                    "nccl_dtype": _ELEMENT.get(element, "half"), "kernel_source": "NCCL",
                    "seconds": microseconds * 1e-6,
                })  # fmt: skip
    if not collective:
        raise CalibrationError(
            f"'{path}' does not say which collective it timed; name the file after it, like all_reduce_perf.log"
        )
    if not rows or not ranks:
        why = f"{skipped} rows of sums are in formats other than half and bfloat16" if skipped else "no row was found"
        raise CalibrationError(f"'{path}' holds nothing to import: {why}; run nccl-tests with -d half or -d bfloat16")
    table = pd.DataFrame(rows)
    keys = [column for column in table.columns if column != "seconds"]
    once = table.groupby(keys, sort=False)["seconds"].median().reset_index()
    dropped = {"sums in formats other than half and bfloat16": skipped} if skipped else {}
    if len(once) < len(table):
        dropped["measured more than once: median kept"] = len(table) - len(once)
    return _written(path, folder, gpu, "nccl-tests", "nccl", once, len(table) + skipped, dropped, sorted(devices),
                    ["out-of-place times; launch parameters are those of the log"])  # fmt: skip


def import_nvbandwidth(path: Path, folder: Path, gpu: str) -> Dataset:
    """Copies between host and GPU from ``nvbandwidth -j``. Raises CalibrationError."""
    import pandas as pd

    found = _json(_text(path))["nvbandwidth"]
    cases = [c for c in found.get("testcases", []) if isinstance(c, dict)]
    rows = [
        {"direction": _NV_COPIES[case["name"]], "memory": "pinned", "bytes": _NV_BUFFER_BYTES, "beside": "nothing",
         "kernel_source": "nvbandwidth copy engine", "seconds": _NV_BUFFER_BYTES / (1e9 * rate)}
        for case in cases
        if case.get("name") in _NV_COPIES and case.get("status") == "Passed"
        for rate in [_median(case.get("bandwidth_matrix", []))]
        if rate
    ]  # fmt: skip
    if not rows:
        raise CalibrationError(
            f"'{path}' holds no {' or '.join(_NV_COPIES)} that passed; run nvbandwidth -j without choosing tests"
        )
    version = f"nvbandwidth-{found.get('version', found.get('git_version', 'unknown'))}"
    others = len(cases) - len(rows)
    return _written(
        path, folder, gpu, version, "copy", pd.DataFrame(rows), len(cases),
        {"tests of other paths, or that did not pass": others} if others else {},
        [str(device) for device in found.get("GPU Device List", [])] or ["not recorded"],
        ["one buffer size: the start of a copy cannot be told from its rate",
         f"buffer assumed {_NV_BUFFER_BYTES >> 20} MiB"],
    )  # fmt: skip


def _median(matrix: Any) -> float:
    """Of a bandwidth matrix whose cells are text, as nvbandwidth writes them. [GB/s]"""
    cells = [float(cell) for row in matrix for cell in row if re.fullmatch(r"[\d.]+", str(cell))]
    return sorted(cells)[len(cells) // 2] if cells else 0.0


def _named(text: str) -> str:
    found = _PERF.search(text)
    return _COLLECTIVES.get(found[1], found[1]) if found else ""


def _written(
    path: Path, folder: Path, gpu: str, stack: str, name: str, table: pd.DataFrame, read: int, dropped: dict[str, int],
    devices: list[str], doubts: list[str],
) -> Dataset:  # fmt: skip
    write_table(folder, name, table)
    about = {
        "sha256": content_sha256(table), "rows_kept": len(table), "rows_read": read, "rows_dropped": dropped,
        "file": path.name, "sha256_of_source": sha256(path),
    }  # fmt: skip
    write_sheet(folder, "moesim calibrate --from", {
        "title": f"{stack} on {gpu}",
        "gpu": gpu,
        "stack": stack,
        "source": path.name,
        "licence": "whoever measured it says",
        "measured_at": "not recorded in the source",
        "units": units_of({name: table}),
        "repetitions": "the tool's own average over iterations, no spread",
        "environment": {"devices": devices, "tool": stack, "driver, clocks, power cap": "not recorded"},
        "doubts": doubts,
        "tables": {name: about},
    })  # fmt: skip
    return Dataset(folder, gpu, stack)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CalibrationError(f"'{path}' is not text, and no wheel either") from None
    except OSError as error:
        raise CalibrationError(f"'{path}' cannot be read: {error.strerror or error}") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
