"""Fits of offloading: copies' share of the link, each system's bandwidth, each model's locality -> fits.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moesim import paths
from moesim.calibrate.locality import Curve, fit_drifting
from moesim.errors import CalibrationError
from moesim.files import yaml
from moesim.files.writing import write_whole
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.offload_fits import FITS_FILE, fits_instead, forget_fits, offload_fits
from moesim.inputs.offload_runs import PublishedRun, rows_of, runs
from moesim.inputs.system_file import load_system
from moesim.prediction import predict

_NOMINAL = {"PCIe3 x16": 16e9, "PCIe4 x16": 32e9, "PCIe5 x16": 64e9}
_LARGE = {"", "4MiB", "16MiB"}
_COPIES = {"pinned": ("pinned copy", "host_to_device_memcpy_ce"), "pageable": ("pageable copy",)}
_LEAST_HALF_WIDTH = 0.15
_FARTHEST = 2.0
"""In the logarithm, of a fitted rate from what was assumed."""
_ROUNDS = 2
_THREAD = 5e9
"""Where a fit of a thread's rate begins. [FLOP/s]"""
_OTHER_PROCESSOR = 0.5
"""Half-width, in the logarithm, of a thread's rate on a processor that was not fitted; assumed."""


def hit_rate_curves() -> dict[str, Curve]:
    """Model -> its LRU hit rates."""
    found: dict[str, tuple[int, int, list[float], list[float]]] = {}
    for row in rows_of("expert-cache-hit-rates-lru.csv"):
        entry = found.setdefault(row["model"], (int(row["n_experts"]), int(row["top_k"]), [], []))
        entry[2].append(float(row["cached_experts_per_layer"]))
        entry[3].append(float(row["hit_rate"]))
    return {name: Curve(e, k, np.array(slots), np.array(hits)) for name, (e, k, slots, hits) in found.items()}


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


def log_error(run: PublishedRun, rate: float | None = None) -> float:
    """ln of predicted over measured, where given under another bandwidth to the GPU."""
    scenario = run.scenario.with_(**{"offload.host_bandwidth": rate}) if rate else run.scenario
    return float(np.log(predict(scenario)[run.metric] / 1e3 / run.measured_s))


def fit_bandwidth(alike: Sequence[PublishedRun]) -> dict[str, Any]:
    """The bandwidth to the GPU under which a system's runs take as long as measured, in the mean of logarithms."""
    from scipy.optimize import brentq

    nominal = load_hardware(alike[0].scenario.hardware).links.host.value
    ends = np.log([0.02 * nominal, nominal])

    def excess(x: float) -> float:
        return float(np.mean([log_error(run, float(np.exp(x))) for run in alike]))

    slow, fast = (excess(x) for x in ends)
    at_bound = slow < 0 or fast > 0
    x: Any = (ends[1] if fast > 0 else ends[0]) if at_bound else brentq(excess, *ends, xtol=1e-5)
    rate = float(np.exp(x))
    return _link(alike, rate, at_bound=bool(at_bound))


def _link(
    alike: Sequence[PublishedRun], rate: float, width: float = _LEAST_HALF_WIDTH, at_bound: bool = False
) -> dict[str, Any]:
    """A system's bandwidth to the GPU as the fits' file has it."""
    nominal = load_hardware(alike[0].scenario.hardware).links.host.value
    return {
        "bytes_per_s": round(rate, -6), "share": round(rate / nominal, 6), "half_width": width,
        "rows": [run.row for run in alike], "at_bound": at_bound,
    }  # fmt: skip


def fit_fixed(alike: Sequence[PublishedRun]) -> dict[str, Any]:
    """The bandwidth to the GPU and a fixed time a step, under which runs that move different amounts take as long as
    measured: least squares of logarithms.
    """
    from scipy.optimize import least_squares

    nominal = load_hardware(alike[0].scenario.hardware).links.host.value
    tried = offload_fits()["systems"].setdefault(alike[0].system, {})

    def errors(x: Any) -> Any:
        rate = float(np.exp(x[0]))
        # Unrounded: steps of the fit are small.
        tried[alike[0].gpu] = _link(alike, rate) | {"share": rate / nominal, "fixed_s": float(x[1])}
        return np.array([log_error(run) for run in alike])

    fastest, longest = np.log(nominal), min(run.measured_s for run in alike)
    ends = ([np.log(0.02 * nominal), 0.0], [fastest, longest])
    found = least_squares(errors, [fastest - np.log(2), 0.2 * longest], bounds=ends, diff_step=1e-3)
    at_bound = bool(found.x[0] - fastest > -1e-3)
    return _link(alike, float(np.exp(found.x[0])), at_bound=at_bound) | {"fixed_s": round(float(found.x[1]), 4)}


def fit_unpacking(alike: Sequence[PublishedRun]) -> dict[str, Any]:
    """The rate of instructions that unpack weights, by least squares of logarithms."""
    from scipy.optimize import least_squares

    unpack = load_system(alike[0].system).runtime.unpack
    assert unpack is not None
    tried = offload_fits().setdefault("unpacking", {})

    def errors(x: Any) -> Any:
        tried[unpack.kernels] = {"issue_rate": float(np.exp(x[0])), "half_width": 0.0}
        return np.array([log_error(run) for run in alike])

    start = float(np.log(unpack.issue_rate.value))
    found = least_squares(errors, [start], bounds=(start - _FARTHEST, start + _FARTHEST), diff_step=1e-3)
    variance = (found.fun @ found.fun) / (len(alike) - 1) / float(found.jac[:, 0] @ found.jac[:, 0])
    return {
        "issue_rate": float(f"{np.exp(found.x[0]):.4g}"), "standard_error": round(float(np.sqrt(variance)), 3),
        "half_width": round(max(1.645 * float(np.sqrt(variance)), _LEAST_HALF_WIDTH), 3),
        "rows": [run.row for run in alike],
    }  # fmt: skip


def fit_cpu(alike: Sequence[PublishedRun]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what a thread multiplies, bandwidth to the GPU) under which a system's runs take as long as measured: least
    squares of logarithms."""
    from scipy.optimize import least_squares

    kernels = load_system(alike[0].system).cpu_kernels["default"]
    nominal = load_hardware(alike[0].scenario.hardware).links.host.value
    tried = offload_fits().setdefault("cpu", {})

    def errors(x: Any) -> Any:
        tried[kernels] = {"flop_per_s": float(np.exp(x[0])), "half_width": 0.0}
        return np.array([log_error(run, float(np.exp(x[1]))) for run in alike])

    start = np.log([_THREAD, nominal / 2])
    ends = (start - _FARTHEST, [start[0] + _FARTHEST, np.log(nominal)])
    found = least_squares(errors, start, bounds=ends, diff_step=1e-3)
    variance = (found.fun @ found.fun) / (len(alike) - len(start))
    thread_error, link_error = np.sqrt(np.diag(np.linalg.pinv(found.jac.T @ found.jac)) * variance)
    flop, rate = (float(x) for x in np.exp(found.x))
    # Of one machine: another processor's threads differ by more than these rows' scatter.
    thread = {"flop_per_s": float(f"{flop:.4g}"), "standard_error": round(float(thread_error), 3),
              "half_width": _OTHER_PROCESSOR, "rows": [run.row for run in alike]}  # fmt: skip
    return thread, _link(alike, rate, round(max(1.645 * float(link_error), _LEAST_HALF_WIDTH), 3))


def fit_offload(progress: Callable[[str], None] = lambda text: None) -> Path:
    """Fit everything and write ``calibration/offload/fits.json``."""
    meta = yaml.read(paths.OFFLOAD / "meta.yaml").data
    catalogue = meta["catalogue"]
    curves = hit_rate_curves()
    unknown = set(catalogue) - set(curves)
    if unknown:
        raise CalibrationError(f"meta.yaml names models without hit rates: {', '.join(sorted(unknown))}")
    locality = {}
    for name, curve in curves.items():
        found = fit_drifting(curve, meta["drift"]["redraws_per_repeat"])
        locality[name] = {
            "experts": curve.experts, "top_k": curve.top_k, "catalogue": catalogue.get(name, []), **found,
        }  # fmt: skip
        progress(f"{name}: persistence {found['persistence']}, skew {found['skew']}, rmse {found['rmse']}")
    fits: dict[str, Any] = {"copies": copy_shares(), "systems": {}, "unpacking": {}, "cpu": {}, "locality": locality}
    fit_runs(runs(), fits, progress)
    write_whole(FITS_FILE, json.dumps(fits, indent=1) + "\n")
    forget_fits()
    return FITS_FILE


def fit_runs(known: Sequence[PublishedRun], fits: dict[str, Any], progress: Callable[[str], None]) -> None:
    """Fill ``fits`` with what the known runs that may be fitted say of systems, unpacking and CPUs."""
    with fits_instead(fits):
        for _ in range(_ROUNDS):
            # Some runs copy and unpack: each is fitted with the other as it stands.
            for fitting, fit in (("bandwidth", fit_bandwidth), ("bandwidth and fixed time", fit_fixed)):
                for (system, gpu), alike in _alike(known, fitting).items():
                    entry = fits["systems"].setdefault(system, {})[gpu] = fit(alike)
                    more = f", {entry['fixed_s']:.3g} s a step" if "fixed_s" in entry else ""
                    progress(f"{system} on {gpu}: {entry['bytes_per_s'] / 1e9:.4g} GB/s{more}")
            for (system, _), alike in _alike(known, "unpacking").items():
                unpack = load_system(system).runtime.unpack
                assert unpack is not None
                found = fits["unpacking"][unpack.kernels] = fit_unpacking(alike)
                progress(f"{unpack.kernels}: {found['issue_rate'] / 1e9:.4g} G instructions/s an SM")
        for (system, gpu), alike in _alike(known, "cpu").items():
            kernels = load_system(system).cpu_kernels["default"]
            fits["cpu"][kernels], fits["systems"].setdefault(system, {})[gpu] = fit_cpu(alike)
            progress(f"{system}: {fits['cpu'][kernels]['flop_per_s'] / 1e9:.3g} GFLOP/s a thread")


def _alike(known: Sequence[PublishedRun], fitting: str) -> dict[tuple[str, str], list[PublishedRun]]:
    """(system, GPU) -> its runs that a constant of a kind is fitted on."""
    found: dict[tuple[str, str], list[PublishedRun]] = {}
    for run in known:
        if run.fits == fitting:
            found.setdefault((run.system, run.gpu), []).append(run)
    return found
