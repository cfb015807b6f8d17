"""The engine's own time per step, from served dense models: what is left when the GPU's time is taken away.

A step waits for the host, as long whatever the plan, and for the last rank's process to begin it, longer the more ranks
there are: runs on 2, 4 and 8 GPUs tell the two apart. They schedule synchronously; asynchronous scheduling hides both.

Only H100 runs of the dense Qwen3-32B under vLLM are used; every MoE run stays unseen. In a closed loop of c
requests, each output token waits for a decode step of c sequences and for its share of the other requests'
prefills, ``(c - 1) / output_len`` of one prefill step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moesim import paths
from moesim.assembly import assemble
from moesim.calibrate.served_runs import constant
from moesim.cost.forms.elementwise import HOST
from moesim.cost.sources import sources
from moesim.inputs.run_file import FOLDER, load_runs
from moesim.inputs.scenario import Scenario
from moesim.ops.load import Group
from moesim.steps.step import StepModel

if TYPE_CHECKING:
    import pandas as pd

RUNS = FOLDER / "h100-vllm-qwen3-32b.yaml"
GPU, STACK = "nvidia-h100-sxm5-80gb", "vllm-0.25.0"
_MAX_PREFILL_SHARE = 0.2
_MAX_CONCURRENCY = 64


def engine_runs(calibration: str) -> pd.DataFrame:
    """The stored dense runs with the GPU's share of each token taken away: ``host_s`` is what is left."""
    import pandas as pd

    rows = [{**run.settings, **run.measured, **_gpu_seconds(run.scenario, calibration)} for run in load_runs(RUNS).runs]
    table = pd.DataFrame(rows)
    table["host_s"] = table["mean_tpot_ms"] * 1e-3 - table["gpu_s"] - table["interference_s"]
    return table


def _gpu_seconds(scenario: Scenario, calibration: str) -> dict[str, float]:
    """A decode step without host, and one token's share of others' prefills. [s]"""
    load = scenario.workload
    c, isl, osl = load.size, load.input_len or 1, load.output_len or 1
    steps = assemble(scenario.model_copy(update={"calibration": calibration})).steps.resident
    assert isinstance(steps, StepModel)

    def gpu_seconds(groups: tuple[Group, ...]) -> float:
        return float(sum(part.total for part in steps.gpu_costs(steps.rank, steps.load(groups), 1)))

    decode = gpu_seconds((Group.decode(c, isl + osl // 2),))
    return {
        "gpu_s": decode,
        "interference_s": (c - 1) / osl * gpu_seconds((Group(1, isl, 0),)),
        "doublings": float(np.log2(steps.rank.tp)),
    }


def fit_host(calibration: str) -> dict[str, Any]:
    """The family ``host`` as stored beside the kernels of ``calibration``, which lacks it.

    The kernels price the GPU's share of a token.
    """
    from scipy.optimize import nnls

    table = engine_runs(calibration)
    share = table["interference_s"] / (table["mean_tpot_ms"] * 1e-3)
    kept = (share <= _MAX_PREFILL_SHARE) & (table["max_concurrency"] <= _MAX_CONCURRENCY)
    rows = table[kept]
    columns = (np.ones(len(rows)), rows["max_concurrency"].to_numpy(float), rows["doublings"].to_numpy(float))
    design = np.stack(columns, axis=1)
    target = rows["host_s"].to_numpy()
    groups = rows["tensor_parallel_size"].astype(str) + "/" + rows["max_concurrency"].astype(str)
    labels, index = np.unique(groups.to_numpy(str), return_inverse=True)

    def solve(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return nnls(design[mask], target[mask])[0]

    everything = solve(np.ones(len(rows), bool))
    refits = np.array([solve(index != g) for g in range(len(labels))])
    many = len(refits)
    errors = np.sqrt((many - 1) / many * ((refits - refits.mean(0)) ** 2).sum(0))
    held_out = np.array([design[i] @ refits[index[i]] for i in range(len(rows))])
    ratio = np.abs(np.log(np.maximum(target, 1e-5) / np.maximum(held_out, 1e-5)))
    tpot_error = np.abs(held_out - target) / (rows["mean_tpot_ms"].to_numpy() * 1e-3)
    values = {
        "t_step": everything[0],
        "t_sequence": everything[1],
        "t_last_rank": everything[2],
        "t_kernel_eager": sources().eager_operation_s,
    }
    spread = {"t_step": errors[0], "t_sequence": errors[1], "t_last_rank": errors[2], "t_kernel_eager": 0.0}
    data = {"file": RUNS.with_suffix(".csv").relative_to(paths.CALIBRATION).as_posix()}
    return {
        "form": HOST.name,
        "note": "t_kernel_eager is assumed (calibration/fits/sources.yaml); the others are fitted on served dense "
        "Qwen3-32B, vLLM 0.12",
        "parameters": {q.name: constant(q, values[q.name], spread[q.name]) for q in HOST.parameters},
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
        "data": data,
    }  # fmt: skip
