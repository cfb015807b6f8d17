"""Published runs of offloading systems as scenarios, each with what was measured and whether it may be fitted."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

from moesim import paths
from moesim.files import yaml
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.loading import from_data
from moesim.inputs.scenario import Scenario
from moesim.units import parse

_RUNS = "runs.yaml"


@dataclass(frozen=True)
class PublishedRun:
    """One measured figure. Seconds."""

    name: str
    file: str
    row: int
    """Of its table, from 1."""
    system: str
    gpu: str
    scenario: Scenario
    metric: str
    """Of a prediction: mean_tpot_ms, mean_ttft_ms or mean_e2el_ms."""
    measured_s: float
    fits: str
    """What is fitted on it: ``bandwidth``, ``unpacking``, ``cpu``; empty where nothing is."""
    judged: bool = False
    """It is kept to judge by."""
    ttft_s: float | None = None
    gpu_memory: float | None = None
    """Peak. [B]"""


def rows_of(name: str) -> list[dict[str, str]]:
    """A published table under calibration/offload/, one mapping a row."""
    with (paths.OFFLOAD / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def published() -> dict[str, Any]:
    """``calibration/offload/runs.yaml`` as it is written."""
    return yaml.read(paths.OFFLOAD / _RUNS).data


def runs() -> list[PublishedRun]:
    """Every published run that can be predicted."""
    data = published()
    return [_run(data, entry) for entry in data["runs"]] + [
        run for table in data["tables"] for run in _table(data, table)
    ]


def _run(data: dict[str, Any], entry: dict[str, Any]) -> PublishedRun:
    file = entry.get("file", "offload-calibration.csv")
    row = rows_of(file)[entry["row"] - 1]
    scenario = _scenario(data, entry, entry.get("workload", data["workload"]))
    metric, measured = _measured(row, scenario)
    memory = entry.get("gpu_memory")
    gpu, peak = load_hardware(entry["gpu"]).name, parse(memory, "B") if memory else None
    return PublishedRun(
        entry["name"], file, entry["row"], entry["set"]["system"], gpu, scenario, metric, measured,
        entry.get("fits", ""), entry.get("role") == "judged", entry.get("ttft_s"), peak,
    )  # fmt: skip


def _table(data: dict[str, Any], table: dict[str, Any]) -> list[PublishedRun]:
    """Rows that differ by lengths alone."""
    found = []
    for number, row in enumerate(rows_of(table["file"]), 1):
        if row["system"] != table["system"]:
            continue
        new, out = int(row["input_tokens"]), int(row["output_tokens"])
        scenario = _scenario(data, table, {"batch_size": 1, "input_len": new, "output_len": out})
        metric, measured = _measured(row, scenario)
        fits = table["fits"] if new in table["fit_input_len"] else ""
        name = f"{table['name']}, {new} in, {out} out"
        system, gpu = table["set"]["system"], load_hardware(table["gpu"]).name
        found.append(PublishedRun(name, table["file"], number, system, gpu, scenario, metric, measured, fits, not fits))
    return found


def _scenario(data: dict[str, Any], entry: dict[str, Any], workload: dict[str, Any]) -> Scenario:
    settings = {
        "model": entry.get("model", data["model"]), "hardware": entry["gpu"], "workload": workload,
        "routing": {"kind": "locality"}, "offload": entry["set"], "host": entry.get("host"),
        "engine": entry.get("engine", {}),
    }  # fmt: skip
    return from_data(settings, _RUNS)


def _measured(row: dict[str, str], scenario: Scenario) -> tuple[str, float]:
    """(metric, seconds) of a row."""
    value, load = float(row["value"]), scenario.workload
    if row["unit"] in {"s", "s/token"}:
        return "mean_tpot_ms", value
    if row["metric"] == "prefill":
        return "mean_ttft_ms", (load.input_len or 0) / value
    if "end" in row["metric"]:
        return "mean_e2el_ms", (load.output_len or 0) / value
    return "mean_tpot_ms", 1.0 / value
