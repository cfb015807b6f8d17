"""What a request passes before the scheduler, from the time to first token of served dense runs.

Two constants on a grid, each point a simulation of every run: how requests fall into step makes the error a rough
function of them, so the mean over runs decides, and refits without a group say how sure that is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim import paths
from moesim.assembly import engine_of
from moesim.calibrate.engine import RUNS
from moesim.calibrate.served_runs import constant, simulated_run
from moesim.cost.forms.front_end import FORM, SERVED_TOKEN
from moesim.cost.sources import sources
from moesim.inputs.run_file import Run, load_runs
from moesim.serving.simulation import FrontEnd

_REQUEST_S = (0.0, 0.005, 0.01)
_TOKEN_S = (4e-6, 6e-6, 8e-6, 1e-5, 1.2e-5)
_MAX_CONCURRENCY = 64
_LEAST_NET = 0.25
"""Share of what was missed that stays, whatever other terms explain."""
_QUEUED_S = 2.0
"""A longer time to first token is the cache's doing, not the front end's."""


def fit_front_end(calibration: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The front end's family, and the error of a token's time, as stored beside the kernels of ``calibration``."""
    runs = [run for run in load_runs(RUNS).runs if _kept(run)]
    grid = [(request, token) for request in _REQUEST_S for token in _TOKEN_S]
    both = np.array([[_log_ratios(run, calibration, FrontEnd(*point)) for run in runs] for point in grid])
    errors, token_errors = both[..., 0], both[..., 1]
    labels = [f"{r.settings['tensor_parallel_size']}/{r.settings['input_len']}" for r in runs]
    groups, index = np.unique(labels, return_inverse=True)

    def best(mask: Any) -> int:
        return int(np.argmin(np.abs(errors[:, mask]).mean(1)))

    chosen = best(np.ones(len(runs), bool))
    refits = np.array([best(index != g) for g in range(len(groups))])
    points = np.array(grid)[refits]
    spread = np.sqrt((len(groups) - 1) / len(groups) * ((points - points.mean(0)) ** 2).sum(0))
    held_out = np.array([errors[refits[index[i]], i] for i in range(len(runs))])
    rank = min(int(np.ceil(0.9 * (len(runs) + 1))), len(runs)) - 1
    data = {"file": RUNS.with_suffix(".csv").relative_to(paths.CALIBRATION).as_posix()}
    kept_out = {
        f"concurrency above {_MAX_CONCURRENCY}, or queueing for the cache": len(load_runs(RUNS).runs) - len(runs)
    }

    # What these runs missed holds another machine and another version already, which are terms of every interval.
    others = sources().machine_half_width, engine_of(runs[0].scenario).file.kernel_distance

    def residuals(what: str, logs: Any) -> dict[str, Any]:
        quantile = float(np.sort(np.abs(logs))[rank])
        net = max(quantile**2 - sum(x**2 for x in others), (quantile * _LEAST_NET) ** 2) ** 0.5
        missed = f"90 % quantile of |log(measured/predicted {what})|, {quantile:.4f}, beyond what another machine and "
        return {"what": f"{missed}another version explain", "edges_s": [], "half_width": [round(net, 4)]}

    lengths = [run.scenario.workload.mean_input_len for run in runs]
    front_end = {
        "form": FORM.name,
        "note": "Dynamo's front end, fitted on served dense Qwen3-32B; the interval is how far simulated queues miss",
        "parameters": {q.name: constant(q, grid[chosen][i], spread[i]) for i, q in enumerate(FORM.parameters)},
        "valid_range": {"prompt_len": [float(min(lengths)), float(max(lengths))]},
        "residuals": residuals("time to first token", held_out),
        "held_out": {
            "left_out": "one (TP, prompt length) at a time",
            "rows": len(runs),
            "groups": len(groups),
            "mean_absolute_error_of_ttft": round(float(np.abs(np.expm1(held_out)).mean()), 4),
        },
        "set_aside": kept_out,
        "transfer": {},
        "data": data,
    }  # fmt: skip
    of_tokens = token_errors[chosen]
    served_token = {
        "form": SERVED_TOKEN.name,
        "note": "no constant: how far simulated times per token miss served dense Qwen3-32B",
        "parameters": {},
        "valid_range": {},
        "residuals": residuals("time per token", of_tokens),
        "held_out": {
            "rows": len(runs),
            "mean_absolute_error_of_tpot": round(float(np.abs(np.expm1(of_tokens)).mean()), 4),
        },
        "set_aside": kept_out,
        "transfer": {},
        "data": data,
    }
    return front_end, served_token


def _kept(run: Run) -> bool:
    return run.scenario.workload.size <= _MAX_CONCURRENCY and run.measured["mean_ttft_ms"] < 1e3 * _QUEUED_S


def _log_ratios(run: Run, calibration: str, front: FrontEnd) -> tuple[float, float]:
    """ln(predicted/measured) of the mean times to first token and per token."""
    report = simulated_run(run, calibration, front)
    found = (report.ttft.mean, report.tpot.mean)
    names = ("mean_ttft_ms", "mean_tpot_ms")
    first, token = (float(np.log(1e3 * x / run.measured[n])) for x, n in zip(found, names, strict=True))
    return first, token
