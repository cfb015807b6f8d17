"""Fit every family a GPU's tables hold, price other GPUs with the same constants, and store the result."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moesim import paths
from moesim.calibrate.dataset import Dataset, sha256, stored_datasets
from moesim.calibrate.families import FAMILIES, implied_bound_broken
from moesim.calibrate.family import Family
from moesim.calibrate.fitting import FamilyFit, fit_family
from moesim.cost.fits import LEVEL
from moesim.cost.forms.form import Parameter
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import tuned_tiles
from moesim.errors import CalibrationError
from moesim.hardware.catalogue import load_hardware
from moesim.paths import write_whole


def fit_all(
    dataset: Dataset, numbers: GpuNumbers, progress: Callable[[str], None] = lambda _: None, only: str = ""
) -> list[FamilyFit]:
    """Fit every family for which the dataset holds rows, or those whose name begins with ``only``."""
    tuned = tuned_tiles(dataset.gpu)
    fits: list[FamilyFit] = []
    for family in FAMILIES:
        if not family.name.startswith(only) or not dataset.has(family.table):
            continue
        try:
            fits.append(fit_family(family, dataset.table(family.table), numbers, tuned))
            progress(family.name)
        except CalibrationError as error:
            progress(f"{family.name}: left out, {error}")
    if not fits:
        raise CalibrationError(
            f"nothing could be fitted to the tables of {dataset.gpu} under {dataset.stack}: too few rows; those "
            "measured are kept, so measure for longer"
        )
    return fits


def transfer_errors(fit: FamilyFit, own_gpu: str) -> dict[str, dict[str, Any]]:
    """How well these constants price other GPUs when only the hardware file changes."""
    result: dict[str, dict[str, Any]] = {}
    for other in stored_datasets():
        if other.gpu == own_gpu or not other.has(fit.family.table):
            continue
        log_ratio = _log_ratio_on(fit.family, fit.parameters, other)
        if log_ratio is not None:
            result[other.gpu] = {
                "stack": other.stack,
                "compute_capability": load_hardware(other.gpu).compute_capability,
                "mean_absolute_error": round(float(np.abs(np.expm1(-log_ratio)).mean()), 4),
                "half_width": round(float(np.quantile(np.abs(log_ratio), LEVEL)), 4),
            }
    return result


def _log_ratio_on(family: Family, parameters: dict[str, float], other: Dataset) -> Any:
    numbers = GpuNumbers.of(load_hardware(other.gpu))
    rows = family.select(other.table(family.table), numbers)
    if rows.empty:
        return None
    rows = rows[~implied_bound_broken(family, rows, numbers)]
    predicted = family.evaluator(rows, numbers, tuned_tiles(other.gpu))(parameters).seconds
    return np.log(rows["seconds"].to_numpy() / predicted)


def at_bound(q: Parameter, value: float) -> bool:
    """Whether the data push a parameter against the limit it may not leave: then its value is not identified."""
    slack = 1e-3 * (q.high - q.low)
    return value <= q.low + min(slack, 1e-3 * q.start) or value >= q.high - slack


def as_json(fit: FamilyFit, dataset: Dataset) -> dict[str, Any]:
    """A family's entry of the stored file."""
    errors = fit.errors
    by_group = errors.groupby(fit.held_out["group"]).mean()
    roofline = (fit.held_out["roofline"] / fit.held_out["seconds"] - 1).abs().mean()
    return {
        "form": fit.family.form.name,
        "note": fit.family.note,
        "parameters": {
            q.name: {
                "at_bound": at_bound(q, fit.parameters[q.name]),
                "value": float(f"{fit.parameters[q.name]:.6g}"),
                "unit": q.unit,
                "standard_error": float(f"{fit.standard_errors[q.name]:.3g}"),
                "meaning": q.meaning,
            }
            for q in fit.family.form.parameters
        },
        "valid_range": fit.valid_range,
        "residuals": {
            "what": "90 % quantile of |log(measured/predicted)|, held out, by predicted duration",
            "edges_s": [float(f"{x:.4g}") for x in fit.residuals.edges_s],
            "half_width": [round(x, 4) for x in fit.residuals.half_width],
        },
        "held_out": {
            "left_out": fit.family.scheme,
            "rows": len(errors),
            "groups": len(by_group),
            "mean_absolute_error": round(float(errors.mean()), 4),
            "mean_over_groups": round(float(by_group.mean()), 4),
            "worst_group": {str(by_group.idxmax()): round(float(by_group.max()), 4)},
            "coverage_of_90_percent": round(fit.coverage, 4),
            "roofline_with_one_constant": round(float(roofline), 4),
        },
        "set_aside": fit.set_aside,
        "transfer": transfer_errors(fit, dataset.gpu),
        "data": {"file": f"{dataset.label}/{fit.family.table}.parquet",
                 "sha256": sha256(dataset.path(fit.family.table))},
    }  # fmt: skip


def as_data(dataset: Dataset, fits: list[FamilyFit]) -> dict[str, Any]:
    """What a fit file holds."""
    return {
        "about": "Written by `moesim fit`; do not edit.",
        "gpu": dataset.gpu,
        "stack": dataset.stack,
        "families": {fit.family.name: as_json(fit, dataset) for fit in fits},
    }


def write_fit(target: Path, data: dict[str, Any]) -> Path:
    """Write a fit file; what was loaded of it before is forgotten."""
    from moesim.assembly import machine_of
    from moesim.cost.fits import load_fits

    write_whole(target, json.dumps(data, indent=1) + "\n")
    load_fits.cache_clear()
    machine_of.cache_clear()
    return target


def fit_and_store(dataset: Dataset, progress: Callable[[str], None] = lambda _: None, only: str = "") -> Path:
    """Fit a dataset of the project, then the engine's host time where its runs were made on this GPU; store all.

    ``only`` refits the families whose name begins with it (``host`` and ``front_end``: both of these alone) and keeps
    the others as they are stored.
    """
    from moesim.calibrate import engine
    from moesim.calibrate.front_end import fit_front_end

    gpu, stack = dataset.gpu, dataset.stack
    target = paths.FITS / gpu / f"{stack}.json"
    numbers = GpuNumbers.of(load_hardware(gpu))
    served_only = only in {"host", "front_end"}
    data = as_data(dataset, [] if served_only else fit_all(dataset, numbers, progress, only))
    if only and target.is_file():
        before = json.loads(target.read_text(encoding="utf-8"))["families"]
        fitted = before | data["families"]
        data["families"] = {f.name: fitted[f.name] for f in FAMILIES if f.name in fitted}
    if gpu == engine.GPU and stack == engine.STACK and engine.RUNS.is_file():
        with tempfile.TemporaryDirectory() as folder:
            kernels_only = Path(folder) / f"{stack}.json"
            write_whole(kernels_only, json.dumps(data))
            data["families"]["host"] = engine.fit_host(str(kernels_only))
            write_whole(kernels_only, json.dumps(data))
            front_end, served_token = fit_front_end(str(kernels_only))
            data["families"] |= {"front_end": front_end, "served_token": served_token}
        progress("host and front end")
    return write_fit(target, data)
