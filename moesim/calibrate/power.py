"""Power fitted to measured runs: two constants, on the rows that the table marks."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesim import paths
from moesim.assembly import assemble
from moesim.cost.power import FIT, Utilisation, utilisation
from moesim.files.writing import write_whole
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.loading import load
from moesim.prediction import predict

ROWS = paths.CALIBRATION / "power" / "gpt-oss-120b-h100.csv"
_SCENARIO = paths.SCENARIOS / "gpt_oss_120b_served.yaml"
_GPU = "nvidia-h100-sxm5-80gb"
_TENSOR = 1.0
_NORMAL_90 = 1.645


@dataclass(frozen=True)
class PowerRow:
    """One measured run, and what the model says it used."""

    title: str
    watts: float
    busy: float
    """Share of the time in which GPUs worked, as measured."""
    used: Utilisation
    fitted: bool

    def predicted(self, idle: float, limit: float, hbm: float, tensor: float) -> float:
        working = min(idle + (limit - idle) * (tensor * self.used.tensor + hbm * self.used.hbm), limit)
        return idle + self.busy * (working - idle)


def power_rows() -> list[PowerRow]:
    """The table's runs, each predicted."""
    lines = [line for line in ROWS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = []
    for row in csv.DictReader(lines):
        clients = int(row["conc"])
        scenario = load(_SCENARIO, {
            "tensor_parallel_size": int(row["tp"]), "max_num_seqs": 512, "max_concurrency": clients,
            "num_prompts": 10 * clients, "input_len": int(row["isl"]), "output_len": int(row["osl"]),
        })  # fmt: skip
        prediction = predict(scenario)
        used = utilisation(prediction.cost, assemble(scenario).steps.machine)
        title = f"TP{row['tp']}, {row['isl']}/{row['osl']}, {clients} clients"
        busy = float(row["gpu_util_pct"]) / 100
        found.append(PowerRow(title, float(row["w_per_gpu"]), busy, used, row["fit"] == "yes"))
    return found


def fit_power() -> Path:
    """Idle power and memory's share, by least squares on the marked rows; arithmetic's is assumed."""
    rows, limit = power_rows(), load_hardware(_GPU).gpu.power.value
    chosen = [row for row in rows if row.fitted]
    # P = idle (1 - busy s) + busy limit s + busy g u_HBM, s arithmetic's part: linear in idle and g = (limit - idle) b.
    s = np.array([_TENSOR * row.used.tensor for row in chosen])
    busy = np.array([row.busy for row in chosen])
    u = np.array([row.used.hbm for row in chosen])
    y = np.array([row.watts for row in chosen]) - busy * limit * s
    design = np.stack([1.0 - busy * s, busy * u], axis=1)
    (idle, gain), *_ = np.linalg.lstsq(design, y, rcond=None)
    left = y - design @ np.array([idle, gain])
    spread = float(left @ left) / (len(y) - 2)
    errors = np.sqrt(spread * np.diag(np.linalg.inv(design.T @ design)))
    hbm = gain / (limit - idle)
    checked = [row.predicted(idle, limit, hbm, _TENSOR) / row.watts - 1 for row in rows if not row.fitted]
    width = _NORMAL_90 * float(np.sqrt(np.mean(np.square(checked))))
    data = {
        "gpu": _GPU,
        "source": "calibration/power/gpt-oss-120b-h100.csv, rows with fit = yes",
        "formula": "idle + (limit - idle) (a_tensor u_tensor + b_hbm u_HBM), at most the limit, while busy",
        "parameters": {
            "idle_w": {"value": round(float(idle), 2), "standard_error": round(float(errors[0]), 2), "unit": "W",
                       "meaning": "a GPU with weights resident and nothing to do"},
            "b_hbm": {"value": round(float(hbm), 4), "standard_error": round(float(errors[1] / (limit - idle)), 4),
                      "unit": "1", "meaning": "share of what is between idle and limit, at full memory bandwidth"},
            "a_tensor": {"value": _TENSOR, "standard_error": None, "unit": "1",
                         "meaning": "the same at full arithmetic; assumed, decode runs say nothing of it"},
        },
        "valid_range": {"u_hbm": [round(float(u.min()), 3), round(float(u.max()), 3)]},
        "half_width": round(width, 3),
        "half_width_elsewhere": 0.35,
        "rows": [
            {"run": row.title, "fitted": row.fitted, "busy": row.busy, "u_hbm": round(row.used.hbm, 4),
             "u_tensor": round(row.used.tensor, 4), "measured_w": row.watts,
             "predicted_w": round(row.predicted(idle, limit, hbm, _TENSOR), 1)}
            for row in rows
        ],
    }  # fmt: skip
    write_whole(FIT, json.dumps(data, indent=1) + "\n")
    return FIT
