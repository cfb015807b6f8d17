"""The feed of DeepGEMM's blocks of padding, from half of the served runs of one model: the only MoE runs a fit may see.

Odd rows of the Qwen3-235B set, counted from one after its header; a row that differs from an earlier one by expert
parallelism alone goes with that one. The other half judges. The padded layout runs the same blocks whatever a step
holds, so a time per token tells the feed almost alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim import paths
from moesim.calibrate.served_runs import constant, simulated_run
from moesim.cost.forms.deepgemm import FORM
from moesim.inputs.run_file import FOLDER, Run, load_runs

RUNS = FOLDER / "h200-vllm-qwen3-235b.yaml"
GPU, STACK = "nvidia-h200-sxm-141gb", "vllm-0.25.0"
FAMILY = "fused_moe/deepgemm"
_STEPS = 7
_GOLDEN = 0.618034


def fit_padding_feed(price: Any) -> dict[str, Any]:
    """The family as stored.

    Parameters
    ----------
    price : callable
        Name of a calibration in which the constant is as given.
    """
    every = load_runs(RUNS).runs
    runs = [run for run in every if run.fitted]
    (feed,) = FORM.parameters

    def errors(value: float) -> Any:
        calibration = price(value)
        return np.array([_log_ratio(run, calibration) for run in runs])

    low, high = np.log(feed.low), np.log(feed.high)
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    found = [errors(np.exp(x)) for x in inner]
    for _ in range(_STEPS):
        if np.abs(found[0]).mean() < np.abs(found[1]).mean():
            high, inner, found = inner[1], [0.0, inner[0]], [None, found[0]]
            inner[0] = high - _GOLDEN * (high - low)
            found[0] = errors(np.exp(inner[0]))
        else:
            low, inner, found = inner[0], [inner[1], 0.0], [found[1], None]
            inner[1] = low + _GOLDEN * (high - low)
            found[1] = errors(np.exp(inner[1]))
    best = int(np.abs(found[1]).mean() < np.abs(found[0]).mean())
    value, missed = float(np.exp(inner[best])), found[best]
    slope = (found[1] - found[0]) / (inner[1] - inner[0])
    spread = float(value * np.sqrt((missed**2).sum() / max(len(runs) - 1, 1) / max((slope**2).sum(), 1e-12)))
    rank = min(int(np.ceil(0.9 * (len(runs) + 1))), len(runs)) - 1
    return {
        "form": FORM.name,
        "note": "fitted on half of the served runs of Qwen3-235B under vLLM 0.12, and judged on the other half; the "
        "other constants are those of DeepGEMM's dense kernel and of the Triton path's small ones",
        "parameters": {feed.name: constant(feed, value, spread, digits=4)},
        "valid_range": {"tokens": [1.0, 2048.0], "hidden": [4096.0, 4096.0], "width": [384.0, 1536.0]},
        "residuals": {
            "what": "90 % quantile of |log(measured/predicted)| of the time per token, fitted rows",
            "edges_s": [],
            "half_width": [round(float(np.sort(np.abs(missed))[rank]), 4)],
        },
        "held_out": {"rows": len(every) - len(runs), "left_out": "the even rows, on the page of served runs",
                     "mean_absolute_error_of_fitted_tpot": round(float(np.abs(np.expm1(missed)).mean()), 4)},
        "set_aside": {},
        "transfer": {},
        "data": {"file": RUNS.with_suffix(".csv").relative_to(paths.CALIBRATION).as_posix()},
    }  # fmt: skip


def _log_ratio(run: Run, calibration: str) -> float:
    """ln(predicted/measured) of the mean time per token."""
    report = simulated_run(run, calibration)
    return float(np.log(1e3 * report.tpot.mean / run.measured["mean_tpot_ms"]))
