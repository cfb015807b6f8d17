"""What sorting the vocabulary takes, from served dense runs whose clients leave sampling to the model.

What a token takes beyond its prediction without a sort is laid on the sequences in a step times the vocabulary. Two
models of other sizes and vocabularies, one constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim import paths
from moesim.calibrate.served_runs import constant, simulated_run
from moesim.cost.forms.sampling import FORM
from moesim.inputs.model_of import model_of
from moesim.inputs.run_file import FOLDER, Run, load_runs

RUNS = tuple(FOLDER / f"h100-vllm-0.15.1-{model}.yaml" for model in ("meta-llama-3.1-8b", "qwen3-14b"))
FAMILY = "sampling_sort"


def fit_sort(calibration: str) -> dict[str, Any]:
    """The family as stored beside the kernels of ``calibration``, in which a sort takes no time."""
    runs = [run for path in RUNS for run in load_runs(path).runs]
    missing, entries = np.array([_missing(run, calibration) for run in runs]).T
    models = np.array([run.scenario.model for run in runs])
    value = float(entries @ missing / (entries @ entries))
    refits = [
        float(e @ m / (e @ e))
        for name in np.unique(models)
        for e, m in [(entries[models != name], missing[models != name])]
    ]
    spread = float(np.sqrt((len(refits) - 1) / len(refits) * ((np.array(refits) - np.mean(refits)) ** 2).sum()))
    (sort,) = FORM.parameters
    return {
        "form": FORM.name,
        "note": "torch's sort in vLLM 0.15.1, from what served runs take a token beyond their prediction without it; "
        f"one model at a time: {' and '.join(f'{x:.3g}' for x in refits)} s an entry",
        "parameters": {sort.name: constant(sort, value, spread, digits=4, error_digits=2)},
        "valid_range": {"rows": [1.0, 128.0]},
        "residuals": {"what": "as wide as its standard error tells", "edges_s": [],
                      "half_width": [round(float(np.log1p(1.645 * spread / value)), 4)]},
        "held_out": {"rows": len(runs), "left_out": "nothing: the sets it was fitted on are marked so"},
        "set_aside": {},
        "transfer": {},
        "data": {"files": [path.with_suffix(".csv").relative_to(paths.CALIBRATION).as_posix() for path in RUNS]},
    }  # fmt: skip


def _missing(run: Run, calibration: str) -> tuple[float, float]:
    """(seconds a token takes beyond its prediction, sequences in a step times the vocabulary)."""
    report = simulated_run(run, calibration)
    measured = run.measured["mean_tpot_ms"] * 1e-3
    running = (run.scenario.workload.request_rate or 0.0) * run.measured["mean_e2el_ms"] * 1e-3
    return measured - report.tpot.mean, running * model_of(run.scenario).vocab_size
