"""What makes calibrations: imports, fits, the accuracy page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from moesim.errors import CalibrationError


def calibration_commands(commands: Any) -> None:
    for name, about, run, wheel, names in (
        ("import-tables", "extract kernel tables from an aiconfigurator-core or aisimulate wheel", _import_tables, True,
         ("gpu", "source-gpu", "stack", "tables")),
        ("import-tiles", "extract tuned fused-experts tiles from a vLLM wheel", _import_tiles, True,
         ("gpu", "device-name")),
        ("import-runs", "fill the run sets from an aiconfigurator-core wheel", _import_runs, True, ()),
        ("fit", "fit every kernel family to the imported tables", _fit, False, ("gpu", "stack", "only")),
        ("fit-offload", "fit host bandwidths and routing locality to the published rows", _fit_offload, False,
         ("first-look",)),
        ("fit-power", "fit power to the measured runs", _fit_power, False, ()),
        ("design-study", "how few points a fit needs: chosen against random, on public tables", _design_study, False,
         ("output",)),
        ("accuracy", "write the accuracy page and its plots under docs/", _accuracy, False, ("output",)),
    ):  # fmt: skip
        command = commands.add_parser(name, help=about, description=about)
        if wheel:
            command.add_argument("wheel", type=Path)
        for option in names:
            short = ["-o"] if option == "output" else []
            command.add_argument(
                *short, f"--{option}", required=wheel and option != "tables", type=Path if short else str
            )
        command.set_defaults(run=run)


def _import_tables(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.tables import import_tables
    from moesim.hardware.catalogue import load_hardware

    gpu = load_hardware(options.gpu).name
    only = options.tables.split(",") if options.tables else ()
    for path in import_tables(options.wheel, gpu, options.source_gpu, options.stack, only=only):
        print(path)
    return 0


def _import_tiles(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.tiles_import import import_tiles
    from moesim.hardware.catalogue import load_hardware

    print(import_tiles(options.wheel, load_hardware(options.gpu).name, options.device_name))
    return 0


def _import_runs(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.runs_import import import_runs

    for path in import_runs(options.wheel):
        print(path)
    return 0


def _fit(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.dataset import stored_datasets
    from moesim.calibrate.store import fit_and_store
    from moesim.hardware.catalogue import load_hardware

    wanted = load_hardware(options.gpu).name if options.gpu else None
    chosen = [d for d in stored_datasets() if wanted in (None, d.gpu) and options.stack in (None, d.stack)]
    if not chosen:
        raise CalibrationError("there are no imported tables for that GPU and stack")
    for dataset in chosen:
        written = fit_and_store(dataset, lambda text: print(f"  {text}", file=sys.stderr), options.only or "")
        print(written or f"{dataset.label}: others are trusted more for every family (calibration/fits/sources.yaml)")
    return 0


def _fit_offload(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.offload import fit_offload
    from moesim.explore.first_look import write_offload_predictions

    if options.first_look:
        print(write_offload_predictions(Path(options.first_look)))
        return 0
    print(fit_offload(lambda text: print(f"  {text}", file=sys.stderr)))
    return 0


def _fit_power(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.calibrate.power import fit_power

    print(fit_power())
    return 0


def _design_study(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim import paths
    from moesim.report.design_page import write_design_page

    for path in write_design_page(
        options.output or paths.ROOT / "docs", lambda text: print(f"  {text}", file=sys.stderr)
    ):
        print(path)
    return 0


def _accuracy(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.report.accuracy import write_accuracy

    for path in write_accuracy(options.output):
        print(path)
    return 0
