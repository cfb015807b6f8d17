"""The engine's own time per step, from served dense models: what is left when the GPU's time is taken away.

Only H100 runs of the dense Qwen3-32B under vLLM are used; every MoE run stays unseen. In a closed loop of c
requests, each output token waits for a decode step of c sequences and for its share of the other requests'
prefills, ``(c - 1) / output_len`` of one prefill step.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim import paths
from moesim.cost.forms.elementwise import HOST
from moesim.errors import CalibrationError
from moesim.ops.attention import Group
from moesim.paths import write_whole
from moesim.prediction import assemble
from moesim.spec.scenario import Engine, Scenario, Workload

if TYPE_CHECKING:
    import pandas as pd

RUNS = paths.CALIBRATION / "runs" / "h100-vllm-qwen3-32b.csv"
_SAMPLE = "aiconfigurator_core/systems/silicon_sample.csv"
GPU, STACK = "nvidia-h100-sxm5-80gb", "vllm-0.24.0"
_MODEL, _SYSTEM = "Qwen/Qwen3-32B", "h100_sxm"
_COLUMNS = {
    "backend_version": "backend_version",
    "isl": "input_len",
    "osl": "output_len",
    "batch_size": "max_concurrency",
    "tp_size": "tensor_parallel_size",
    "silicon_ttft_ms": "ttft_ms",
    "silicon_tpot_ms": "tpot_ms",
}
_MAX_PREFILL_SHARE = 0.2
_MAX_CONCURRENCY = 64


def import_runs(wheel: Path) -> Path:
    """Extract the dense runs the engine's constants may be fitted on, and nothing else."""
    import pandas as pd

    try:
        with zipfile.ZipFile(wheel) as archive:
            table = pd.read_csv(io.BytesIO(archive.read(_SAMPLE)))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"'{wheel}' is not an aiconfigurator-core wheel: {error}") from None
    ours = (table["model_path"] == _MODEL) & (table["system"] == _SYSTEM) & (table["backend"] == "vllm")
    rows = table[ours & (table["mode"] == "agg") & table["precision"].isna()]
    tidy = rows[list(_COLUMNS)].rename(columns=_COLUMNS)
    head = (
        f"# Served runs of the dense {_MODEL} in bfloat16 on H100 SXM under vLLM {tidy['backend_version'].iloc[0]}.\n"
        f"# From {wheel.name.split('-cp')[0]} (Apache-2.0, NVIDIA), {_SAMPLE}: {len(table)} rows read,\n"
        f"# {len(tidy)} kept (this model, GPU and engine, aggregated serving, bfloat16). Closed loop; milliseconds.\n"
    )
    write_whole(RUNS, head + tidy.astype({"max_concurrency": int, "tensor_parallel_size": int}).to_csv(index=False))
    return RUNS


def engine_runs(calibration: str) -> pd.DataFrame:
    """The stored dense runs with the GPU's share of each token taken away: ``host_s`` is what is left."""
    import pandas as pd

    table = pd.read_csv(RUNS, comment="#")
    table["gpu_s"], table["interference_s"] = zip(
        *(_gpu_seconds(row, calibration) for row in table.itertuples()), strict=True
    )
    table["host_s"] = table["tpot_ms"] * 1e-3 - table["gpu_s"] - table["interference_s"]
    return table


def _gpu_seconds(row: Any, calibration: str) -> tuple[float, float]:
    """(decode step without host, this token's share of others' prefills). [s]"""
    c, isl, osl = int(row.max_concurrency), int(row.input_len), int(row.output_len)
    scenario = Scenario(
        model=_MODEL,
        hardware=GPU,
        engine=Engine(tensor_parallel_size=int(row.tensor_parallel_size)),
        workload=Workload(batch_size=c, input_len=isl, output_len=osl),
        calibration=calibration,
    )
    steps = assemble(scenario).steps

    def gpu_seconds(groups: tuple[Group, ...]) -> float:
        return float(sum(part.total for part in steps.gpu_costs(steps.rank, steps.load(groups), 1)))

    decode = gpu_seconds((Group(c, 1, isl + osl // 2),))
    return decode, (c - 1) / osl * gpu_seconds((Group(1, isl, 0),))


def fit_host(calibration: str) -> dict[str, Any]:
    """The host family as stored beside the kernel families of ``calibration``, which price the GPU's share."""
    table = engine_runs(calibration)
    share = table["interference_s"] / (table["tpot_ms"] * 1e-3)
    kept = (share <= _MAX_PREFILL_SHARE) & (table["max_concurrency"] <= _MAX_CONCURRENCY)
    rows = table[kept]
    design = np.stack([np.ones(len(rows)), rows["max_concurrency"].to_numpy(float)], axis=1)
    target = rows["host_s"].to_numpy()
    groups = rows["tensor_parallel_size"].astype(str) + "/" + rows["max_concurrency"].astype(str)
    labels, index = np.unique(groups.to_numpy(str), return_inverse=True)

    def solve(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.linalg.lstsq(design[mask], target[mask], rcond=None)[0]

    everything = solve(np.ones(len(rows), bool))
    refits = np.array([solve(index != g) for g in range(len(labels))])
    many = len(refits)
    errors = np.sqrt((many - 1) / many * ((refits - refits.mean(0)) ** 2).sum(0))
    held_out = np.array([design[i] @ refits[index[i]] for i in range(len(rows))])
    ratio = np.abs(np.log(np.maximum(target, 1e-5) / np.maximum(held_out, 1e-5)))
    tpot_error = np.abs(held_out - target) / (rows["tpot_ms"].to_numpy() * 1e-3)
    values = {
        "t_step": everything[0],
        "t_sequence": everything[1],
        "t_kernel_eager": HOST.parameters[2].start,
    }
    spread = {"t_step": errors[0], "t_sequence": errors[1], "t_kernel_eager": 0.0}
    return {
        "form": HOST.name,
        "note": "t_kernel_eager is what vLLM's eager all-reduce takes on the host in its tables; the others are "
        "fitted on served dense Qwen3-32B, vLLM 0.12",
        "parameters": {
            q.name: {"value": float(f"{values[q.name]:.6g}"), "unit": q.unit,
                     "standard_error": float(f"{spread[q.name]:.3g}"), "meaning": q.meaning}
            for q in HOST.parameters
        },
        "valid_range": {"sequences": [float(design[:, 1].min()), float(design[:, 1].max())]},
        "residuals": {
            "what": "90 % quantile of |log(measured/fitted host time)|, held out",
            "edges_s": [],
            "half_width": [round(float(np.quantile(ratio, 0.9)), 4)],
        },
        "held_out": {
            "left_out": "one (TP, concurrency) at a time",
            "rows": len(rows),
            "groups": many,
            "mean_absolute_error_of_tpot": round(float(tpot_error.mean()), 4),
        },
        "set_aside": {
            f"prefills take more than {_MAX_PREFILL_SHARE:.0%} of a token, or concurrency above {_MAX_CONCURRENCY}":
            int((~kept).sum())
        },
        "transfer": {},
        "data": {"file": RUNS.relative_to(paths.CALIBRATION).as_posix()},
    }  # fmt: skip
