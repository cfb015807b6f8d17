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
from moesim.calibrate.families import FAMILIES, implied_bound_broken, measured_best
from moesim.calibrate.family import Family
from moesim.calibrate.fitting import FamilyFit, fit_family
from moesim.calibrate.relatives import relatives
from moesim.cost.fits import LEVEL
from moesim.cost.forms.form import Parameter
from moesim.cost.gpu import GpuNumbers
from moesim.cost.sources import is_artefact, source_of, sources, trusted
from moesim.cost.tiles import tuned_tiles
from moesim.errors import CalibrationError
from moesim.files.writing import write_whole
from moesim.hardware.catalogue import load_hardware

_MOST_SAID = 80


def fit_all(
    dataset: Dataset,
    numbers: GpuNumbers,
    progress: Callable[[str], None] = lambda _: None,
    wanted: Callable[[Family], bool] = lambda _: True,
) -> list[FamilyFit]:
    """Fit every family for which the dataset holds rows, and which is wanted."""
    tuned = tuned_tiles(dataset.gpu)
    fits: list[FamilyFit] = []
    for family in FAMILIES:
        if not wanted(family) or not dataset.has(family.table):
            continue
        try:
            fits.append(fit_family(family, dataset.table(family.table), numbers, tuned))
            progress(family.name)
        except CalibrationError as error:
            progress(f"{family.name}: left out, {error}")
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # A table that others made may lack a column, or hold words for numbers.
            said = str(error)[:_MOST_SAID]
            progress(f"{family.name}: left out, its table is not one of it ({type(error).__name__} at {said})")
    if not fits:
        raise CalibrationError(
            f"nothing could be fitted to the tables of {dataset.gpu} under {dataset.stack}: too few rows; those "
            "measured are kept, so measure for longer"
        )
    return fits


def transfer_errors(fit: FamilyFit, own_gpu: str) -> dict[str, dict[str, Any]]:
    """How well these constants price other GPUs when only the hardware file changes."""
    result: dict[str, dict[str, Any]] = {}
    for gpu in dict.fromkeys(dataset.gpu for dataset in stored_datasets()):
        other = measured_best(fit.family, gpu) if gpu != own_gpu else None
        if other is not None:
            capability = load_hardware(gpu).compute_capability
            errors = _errors_on(fit, other)
            result[gpu] = {"stack": other.stack, "compute_capability": capability, **errors}
    return result


def version_errors(fit: FamilyFit, dataset: Dataset) -> dict[str, dict[str, Any]]:
    """How well these constants price other versions of the engine on the same GPU."""
    result: dict[str, dict[str, Any]] = {}
    for other in stored_datasets():
        name, own = other.stack.partition("-")[0], dataset.stack.partition("-")[0]
        if other.gpu != dataset.gpu or other.stack == dataset.stack or name != own:
            continue
        if other.stack in sources().held_out or is_artefact(fit.family.name, other.stack):
            continue
        if other.has(fit.family.table) and (errors := _errors_on(fit, other)):
            result[other.stack] = errors
    return result


def _errors_on(fit: FamilyFit, other: Dataset) -> dict[str, float]:
    """Mean error and 90 % half-width on another dataset's rows; nothing where it has none."""
    numbers, family = GpuNumbers.of(load_hardware(other.gpu)), fit.family
    rows = family.select(other.table(family.table), numbers)
    if rows.empty:
        return {}
    rows = rows[~implied_bound_broken(family, rows, numbers)]
    predicted = family.evaluator(rows, numbers, tuned_tiles(other.gpu))(fit.parameters).seconds
    log_ratio = np.log(rows["seconds"].to_numpy() / predicted)
    return {
        "mean_absolute_error": round(float(np.abs(np.expm1(-log_ratio)).mean()), 4),
        "half_width": round(float(np.quantile(np.abs(log_ratio), LEVEL)), 4),
    }


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
        "versions": version_errors(fit, dataset),
        "relatives": relatives(fit.family, dataset.gpu),
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
    from moesim.assembly import forget_machines
    from moesim.cost.sources import forget

    write_whole(target, json.dumps(data, indent=1) + "\n")
    forget()
    forget_machines()
    return target


def fit_and_store(dataset: Dataset, progress: Callable[[str], None] = lambda _: None, only: str = "") -> Path | None:
    """Fit the families for which a dataset of the project is trusted most on its GPU, and store them.

    Then the engine's host time, where its runs were made on this GPU. ``only`` refits the families whose name begins
    with it (``host`` and ``front_end``: both of these alone) and keeps the others as they are stored. None where this
    dataset is trusted most for nothing.
    """
    from moesim.calibrate import deepgemm, engine, sampling
    from moesim.calibrate.front_end import fit_front_end
    from moesim.calibrate.served_runs import held_at

    gpu, stack = dataset.gpu, dataset.stack
    target = paths.FITS / gpu / f"{stack}.json"
    mine = [f for f in FAMILIES if f.name.startswith(only) and prices(f, dataset)]
    served = (
        gpu == engine.GPU
        and stack == engine.STACK
        and engine.RUNS.is_file()
        and _named(only, "host", "front_end", sampling.FAMILY)
    )
    padded = gpu == deepgemm.GPU and stack == deepgemm.STACK and _named(only, deepgemm.FAMILY)
    if not (mine or served or padded):
        return None
    numbers = GpuNumbers.of(load_hardware(gpu))
    data = as_data(dataset, fit_all(dataset, numbers, progress, lambda f: f in mine) if mine else [])
    if only and target.is_file():
        before = json.loads(target.read_text(encoding="utf-8"))["families"]
        fitted = before | data["families"]
        data["families"] = fitted
    if served:
        with tempfile.TemporaryDirectory() as folder:
            kernels_only, with_host, no_sort = (Path(folder) / f"{what}.json" for what in ("kernels", "host", "sort"))
            for fitted_before in ("host", "front_end", "served_token", sampling.FAMILY):
                data["families"].pop(fitted_before, None)
            write_whole(kernels_only, json.dumps(data))
            data["families"]["host"] = engine.fit_host(str(kernels_only))
            write_whole(with_host, json.dumps(data))
            front_end, served_token = fit_front_end(str(with_host))
            data["families"] |= {"front_end": front_end, "served_token": served_token}
            data["families"][sampling.FAMILY] = held_at(sampling.FORM, 0.0)
            write_whole(no_sort, json.dumps(data))
            data["families"][sampling.FAMILY] = sampling.fit_sort(str(no_sort))
        progress("host and front end")
    if padded:
        with tempfile.TemporaryDirectory() as folder:

            def priced(value: float) -> str:
                held = held_at(deepgemm.FORM, value, 0.1)
                path = Path(folder) / f"{value:.6g}.json"
                write_whole(path, json.dumps(data | {"families": data["families"] | {deepgemm.FAMILY: held}}))
                return str(path)

            data["families"][deepgemm.FAMILY] = deepgemm.fit_padding_feed(priced)
        progress(deepgemm.FAMILY)
    return write_fit(target, data)


def _named(only: str, *families: str) -> bool:
    """Whether ``only`` asks for one of these, or for everything."""
    return not only or any(family.startswith(only) for family in families)


def prices(family: Family, dataset: Dataset) -> bool:
    """Whether a dataset prices a family on its GPU, or is reported beside the one that does."""
    source = source_of(family.name)
    if source and dataset.stack in source.fit_also:
        return dataset.has(family.table)
    if dataset.stack not in trusted(family.name) or not dataset.has(family.table):
        return False
    best = measured_best(family, dataset.gpu)
    return best is not None and best.stack == dataset.stack
