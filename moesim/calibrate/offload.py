"""Fits of offloading: copies' share of the link, each system's bandwidth, each model's locality -> fits.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moesim import paths
from moesim.calibrate.locality import fit_locality
from moesim.errors import CalibrationError
from moesim.files import yaml
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.offload_fits import FITS_FILE, offload_fits
from moesim.inputs.offload_runs import PublishedRun, rows_of, runs
from moesim.prediction import predict

_NOMINAL = {"PCIe3 x16": 16e9, "PCIe4 x16": 32e9, "PCIe5 x16": 64e9}
_LARGE = {"", "4MiB", "16MiB"}
_COPIES = {"pinned": ("pinned copy", "host_to_device_memcpy_ce"), "pageable": ("pageable copy",)}
_LEAST_HALF_WIDTH = 0.15


def hit_rate_curves() -> dict[str, tuple[int, int, Any, Any]]:
    """Model -> (experts, top-k, cached experts a layer, LRU hit rate)."""
    found: dict[str, tuple[int, int, list[float], list[float]]] = {}
    for row in rows_of("expert-cache-hit-rates-lru.csv"):
        entry = found.setdefault(row["model"], (int(row["n_experts"]), int(row["top_k"]), [], []))
        entry[2].append(float(row["cached_experts_per_layer"]))
        entry[3].append(float(row["hit_rate"]))
    return {name: (e, k, np.array(slots), np.array(hits)) for name, (e, k, slots, hits) in found.items()}


def copy_shares() -> dict[str, dict[str, float]]:
    """What plain copies of megabytes to the GPU reach of the link's nominal rate."""
    found = {}
    for kind, operations in _COPIES.items():
        shares = [
            float(row["value"]) * 1e9 / _NOMINAL[row["link"]]
            for row in rows_of("host-copies.csv")
            if row["direction"] == "H2D" and row["size"] in _LARGE and any(o in row["op"] for o in operations)
        ]
        logs = np.log(shares)
        width = max(float(np.ptp(logs)), _LEAST_HALF_WIDTH)
        found[kind] = {
            "share": round(float(np.exp(logs.mean())), 4),
            "half_width": round(width, 4),
            "rows": len(shares),
        }
    return found


def fit_bandwidth(run: PublishedRun) -> dict[str, Any]:
    """The bandwidth to the GPU under which a run takes as long as measured, within what the link can do."""
    scenario = run.scenario
    hardware = load_hardware(scenario.hardware)
    nominal = hardware.links.host.value
    low, high = 0.02 * nominal, nominal

    def excess(rate: float) -> float:
        return predict(scenario.with_(**{"offload.host_bandwidth": rate}))[run.metric] / 1e3 - run.measured_s

    at_bound = excess(high) > 0 or excess(low) < 0
    if excess(high) > 0:
        low = high
    elif excess(low) < 0:
        high = low
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    rate = float(np.sqrt(low * high))
    return {
        "bytes_per_s": round(rate, -6), "share": round(rate / nominal, 6), "half_width": _LEAST_HALF_WIDTH,
        "row": run.row, "at_bound": at_bound,
    }  # fmt: skip


def fit_offload(progress: Callable[[str], None] = lambda text: None) -> Path:
    """Fit everything and write ``calibration/offload/fits.json``."""
    catalogue = yaml.read(paths.OFFLOAD / "meta.yaml").data["catalogue"]
    curves = hit_rate_curves()
    unknown = set(catalogue) - set(curves)
    if unknown:
        raise CalibrationError(f"meta.yaml names models without hit rates: {', '.join(sorted(unknown))}")
    locality = {}
    for name, (experts, top_k, slots, hits) in curves.items():
        found = fit_locality(experts, top_k, slots, hits)
        locality[name] = {"experts": experts, "top_k": top_k, "catalogue": catalogue.get(name, []), **found}
        progress(f"{name}: persistence {found['persistence']}, skew {found['skew']}, rmse {found['rmse']}")
    fits: dict[str, Any] = {"copies": copy_shares(), "systems": {}, "locality": locality}
    _write(fits)
    for run in runs():
        if run.role != "fit" or run.file != "offload-calibration.csv":
            # Rows released since are predicted before anything is fitted on them.
            continue
        fits["systems"].setdefault(run.system, {})[run.gpu] = fit_bandwidth(run)
        progress(f"{run.name}: {fits['systems'][run.system][run.gpu]['bytes_per_s'] / 1e9:.4g} GB/s")
    _write(fits)
    return FITS_FILE


def _write(fits: dict[str, Any]) -> None:
    paths.write_whole(FITS_FILE, json.dumps(fits, indent=1) + "\n")
    offload_fits.cache_clear()
