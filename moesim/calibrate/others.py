"""What others measured, into the same tidy tables: nccl-tests logs and nvbandwidth's JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.calibrate.dataset import Dataset, content_sha256, sha256, units_of, write_sheet, write_table
from moesim.calibrate.machine_file import known_hardware
from moesim.errors import CalibrationError, SpecError
from moesim.files.json import parse as parse_json
from moesim.files.reading import MIB, text_of
from moesim.hardware.hardware import Hardware
from moesim.inputs.bench_file import is_bench_result

if TYPE_CHECKING:
    import pandas as pd

_PERF = re.compile(r"(all_reduce|all_gather|reduce_scatter|alltoall|sendrecv)(?:_perf)?")
_COLLECTIVES = {"sendrecv": "send_recv"}
_RANK = re.compile(r"#\s+Rank\s+(\d+)\s.*?device\s+\d+\s+\[\S+\]\s+(.+?)\s*$")
_SIZES = re.compile(r"^\s*\d+\s+\d+\s+\w+\s+\w+\s")
_TAG = re.compile(r"^\[\d+(?:,\d+)?\](?:<\w+>)?:?\s?")
"""What mpirun --tag-output puts before a line."""
_MOST_BYTES = 32 * MIB
_MOST_MESSAGE_BYTES = 1 << 50
_CELLS_WITH_ROOT = 13
_ELEMENT = {"half": "half", "bfloat16": "half", "float16": "half", "int8": "int8", "uint8": "int8"}
_NV_COPIES = {"host_to_device_memcpy_ce": "h2d", "device_to_host_memcpy_ce": "d2h"}
_FASTEST_LINK_BYTES_PER_S = 2e12
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
    if is_bench_result(path):
        return "vllm-bench"
    raise CalibrationError(
        f"'{path}' is nothing known here; accepted are a log of nccl-tests, JSON of nvbandwidth (-j), a result "
        "of a serving benchmark (vLLM, SGLang, GuideLLM, AIPerf, InferenceX), and an aiconfigurator-core wheel"
    )


def import_nccl_tests(files: Sequence[Path], folder: Path, hardware: Hardware) -> Dataset:
    """Logs of nccl-tests, out of place, a collective or several in each.

    Raises
    ------
    CalibrationError
        A log does not say what it timed, is of another GPU, or holds nothing to use.
    """
    import pandas as pd

    read = [_NcclLog(path, hardware) for path in files]
    table = pd.DataFrame([row for log in read for row in log.rows])
    keys = [column for column in table.columns if column != "seconds"]
    once = table.groupby(keys, sort=False)["seconds"].median().reset_index()
    dropped = Counter(reason for log in read for reason in log.dropped)
    if len(once) < len(table):
        dropped["measured more than once: median kept"] = len(table) - len(once)
    devices = sorted({device for log in read for device in log.devices})
    doubts = ["out-of-place times; launch parameters are those of the logs"]
    seen = len(table) + sum(len(log.dropped) for log in read)
    about = {"devices": devices}
    return _written(files, folder, hardware.name, "nccl-tests", "nccl", once, seen, dict(dropped), about, doubts)


class _NcclLog:
    """One log: its rows, why others were not taken, the devices it names."""

    def __init__(self, path: Path, hardware: Hardware):
        self.rows: list[dict[str, Any]] = []
        self.dropped: list[str] = []
        self.devices: set[str] = set()
        self._collective, self._ranks = _named(path.name), 0
        for line in _text(path).splitlines():
            self._read(_TAG.sub("", line))
        if not self._collective:
            raise CalibrationError(
                f"'{path}' does not say which collective it timed; name the file after it, like all_reduce_perf.log"
            )
        if not self.rows or not self._ranks:
            reasons = ", ".join(f"{reason} ({many})" for reason, many in Counter(self.dropped).items())
            raise CalibrationError(
                f"'{path}' holds nothing to import: {reasons or 'no row was found'}; run nccl-tests with -d half or "
                "-d bfloat16"
            )
        for device in self.devices:
            other = known_hardware(device)
            if other is not None and other.name != hardware.name:
                raise CalibrationError(f"'{path}' is of '{device}', which is {other.name}, not {hardware.name}")

    def _read(self, line: str) -> None:
        if line.lstrip().startswith("# nThread"):
            self._ranks = 0
        elif found := _RANK.match(line.strip()):
            self._ranks = max(self._ranks, int(found[1]) + 1)
            self.devices.add(found[2])
        elif (line.startswith("#") or "_perf" in line) and _named(line):
            self._collective = _named(line)
        elif _SIZES.match(line):
            self._row(line.split())

    def _row(self, cells: list[str]) -> None:
        """size, count, type, redop, root (newer versions), then time, algbw, busbw, wrong of the out-of-place call."""
        size, element = int(cells[0]), cells[2]
        numbers = cells[5:] if len(cells) >= _CELLS_WITH_ROOT else cells[4:]
        if element not in _ELEMENT and self._collective in {"all_reduce", "reduce_scatter"}:
            # Sums of other widths run at another rate; what only moves bytes does not care.
            self.dropped.append("sums in formats other than half and bfloat16")
        elif not _positive(numbers[:1]) or not 0 < size <= _MOST_MESSAGE_BYTES:
            self.dropped.append("no positive time or size")
        elif len(numbers) > 3 and numbers[3] not in {"0", "N/A", "0e+00"}:
            self.dropped.append("wrong results")
        else:
            self.rows.append({
                "collective": self._collective, "num_gpus": self._ranks, "message_bytes": size,
                "nccl_dtype": _ELEMENT.get(element, "half"), "kernel_source": "NCCL",
                "seconds": float(numbers[0]) * 1e-6,
            })  # fmt: skip


def _positive(cells: Sequence[str]) -> bool:
    try:
        return 0 < float(cells[0]) < float("inf")
    except (ValueError, IndexError):
        return False


def import_nvbandwidth(path: Path, folder: Path, hardware: Hardware) -> Dataset:
    """Copies between host and GPU from ``nvbandwidth -j``. Raises CalibrationError."""
    import pandas as pd

    found = _json(_text(path))["nvbandwidth"]
    cases = found.get("testcases") if isinstance(found, dict) else None
    cases = [case for case in cases if isinstance(case, dict)] if isinstance(cases, list) else []
    rows = [
        {"direction": _NV_COPIES[case["name"]], "memory": "pinned", "bytes": _NV_BUFFER_BYTES, "beside": "nothing",
         "kernel_source": "nvbandwidth copy engine", "seconds": _NV_BUFFER_BYTES / (1e9 * rate)}
        for case in cases
        if str(case.get("name")) in _NV_COPIES and case.get("status") == "Passed"
        for rate in [_median(case.get("bandwidth_matrix"))]
        if 0 < 1e9 * rate < _FASTEST_LINK_BYTES_PER_S
    ]  # fmt: skip
    if not rows:
        raise CalibrationError(
            f"'{path}' holds no {' or '.join(_NV_COPIES)} that passed; run nvbandwidth -j without choosing tests"
        )
    version = f"nvbandwidth-{found.get('version', found.get('git_version', 'unknown'))}"
    others = len(cases) - len(rows)
    said = found.get("GPU Device List")
    environment = {
        "devices": [str(device) for device in said] if isinstance(said, list) and said else ["not recorded"],
        "driver": str(found.get("Driver Version", "not recorded")),
    }
    doubts = [
        "one buffer size: the start of a copy cannot be told from its rate, so nothing is fitted to it",
        f"buffer assumed {_NV_BUFFER_BYTES >> 20} MiB",
    ]
    dropped = {"tests of other paths, or that did not pass": others} if others else {}
    return _written(
        [path], folder, hardware.name, version, "copy", pd.DataFrame(rows), len(cases), dropped, environment, doubts
    )


def _median(matrix: Any) -> float:
    """Of a bandwidth matrix whose cells are text, as nvbandwidth writes them. [GB/s]"""
    rows = [row for row in matrix if isinstance(row, list)] if isinstance(matrix, list) else []
    cells = [float(cell) for row in rows for cell in row if _positive([str(cell)])]
    return sorted(cells)[len(cells) // 2] if cells else 0.0


def _named(text: str) -> str:
    found = _PERF.search(text)
    return _COLLECTIVES.get(found[1], found[1]) if found else ""


def _written(
    files: Sequence[Path], folder: Path, gpu: str, stack: str, name: str, table: pd.DataFrame, read: int,
    dropped: dict[str, int], environment: dict[str, Any], doubts: list[str],
) -> Dataset:  # fmt: skip
    write_table(folder, name, table)
    about = {
        "sha256": content_sha256(table), "rows_kept": len(table), "rows_read": read, "rows_dropped": dropped,
        "file": ", ".join(path.name for path in files), "sha256_of_source": ", ".join(sha256(path) for path in files),
    }  # fmt: skip
    write_sheet(folder, "moesim calibrate --from", {
        "title": f"{stack} on {gpu}",
        "gpu": gpu,
        "stack": stack,
        "source": about["file"],
        "licence": "whoever measured it says",
        "measured_at": "not recorded in the source",
        "units": units_of({name: table}),
        "repetitions": "the tool's own average over iterations, no spread",
        "environment": {**environment, "tool": stack, "clocks, power cap": "not recorded"},
        "doubts": doubts,
        "tables": {name: about},
    })  # fmt: skip
    return Dataset(folder, gpu, stack)


def _text(path: Path) -> str:
    return text_of(path, "a log, JSON or a wheel", _MOST_BYTES)


def _json(text: str) -> Any:
    try:
        return parse_json(text, "")
    except SpecError:
        return None
