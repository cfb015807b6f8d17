"""Run a campaign: write down what is predicted, then measure call by call, within a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim import paths
from moesim.bench.environment import vllm_of
from moesim.calibrate import measuring, worker
from moesim.calibrate.engine_ask import EngineAsk
from moesim.calibrate.engine_measuring import Where, measure_ask
from moesim.calibrate.tidy import check_same_place, log_rows
from moesim.campaign.engines import predicted_engines
from moesim.campaign.file import Campaign, KernelsAsk, load_campaign
from moesim.campaign.kernels import predicted_kernels
from moesim.campaign.registration import FOLDER, Registration, register, registrations
from moesim.campaign.sheet import KERNELS, OWN, RUNS, logs_of, predicted_by, write_sheet
from moesim.cost.machine import Machine
from moesim.engines.engine import load_engine
from moesim.errors import CalibrationError, Problem, SpecError
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.hardware import Hardware

_LEAST_MINUTES = 1.0
"""What is left below this is not worth a start."""


def preregister(
    hardware: str, folder: Path = FOLDER, campaign: Path = paths.CAMPAIGN, workers: int = 2
) -> Registration:
    """Predict everything that a campaign measures on such a GPU and write it into a new folder below ``folder``.

    Raises
    ------
    SpecError
        Something is registered there already, or the campaign asks for what cannot be.
    """
    machine_file, about = load_hardware(hardware), load_campaign(campaign)
    target = folder_of(machine_file, about, folder)
    machine = Machine(machine_file, load_engine("vllm", about.vllm))

    def predictions() -> Any:
        yield from predicted_kernels(about.kernel_points(machine_file), machine)
        yield from predicted_engines(about.engines, hardware, about.vllm, workers)

    return register(predictions(), target, machine_file.name, f"vllm {about.vllm}", about.digest)


def folder_of(hardware: Hardware, campaign: Campaign, folder: Path = FOLDER) -> Path:
    """Where today's predictions of a campaign on such a GPU go."""
    return folder / f"{time.strftime('%Y-%m-%d', time.gmtime())}-{hardware.name}-{campaign.digest[:8]}"


@dataclass(frozen=True)
class Run:
    """Where a campaign is run, and how long."""

    folder: Path
    minutes: float
    campaign: Path = paths.CAMPAIGN
    device: str = "cuda"
    hardware: str | None = None
    """The GPU's hardware file, where its name alone does not find it; of a processor, what engines are held against."""
    busy: bool = False


def calls_of(campaign: Campaign, names: Sequence[str]) -> list[str]:
    """The calls named, or all of them, in the file's order. Raises SpecError."""
    unknown = [name for name in names if name not in campaign.calls]
    if unknown:
        raise SpecError([Problem(f"there is no call '{unknown[0]}'; {', '.join(campaign.calls)} are", "campaign")])
    return [name for name in campaign.calls if not names or name in names]


def run(
    asked: Run,
    names: Sequence[str] = (),
    told: Callable[[worker.Progress], None] = lambda progress: None,
    said: Callable[[str], None] = lambda text: None,
) -> tuple[Registration | None, list[str]]:
    """Measure calls in order, each as long as it asks and the time allows; running again goes on.

    Returns
    -------
    registration : Registration
        What was predicted of it; None where rows were there before any prediction.
    problems : list of str
        What could not be measured, and why: one engine that does not start must not cost the others their time.

    Raises
    ------
    SpecError, CalibrationError
        Nothing can be measured here.
    """
    campaign, deadline = load_campaign(asked.campaign), time.monotonic() + 60 * asked.minutes
    steps = [(name, step) for name in calls_of(campaign, names) for step in campaign.calls[name]]
    if asked.folder.exists() and not asked.folder.is_dir():
        raise SpecError([Problem("is a file; a folder is accepted", str(asked.folder))])
    here = worker.environment_of(asked.device, asked.busy)
    for log in logs_of(asked.folder).values():
        check_same_place(log, here)
    hardware = asked.hardware or measuring.hardware_name(here, asked.folder / KERNELS)
    problems: list[str] = []
    if not vllm_of(here["versions"]):
        engines = sum(step.engine is not None for _, step in steps)
        steps = [(name, step) for name, step in steps if not step.engine]
        if not steps:
            raise CalibrationError("engine runs need vLLM, which is not installed")
        problems += [f"{engines} engines: vLLM is not installed"] * bool(engines)
    registration = _registered(asked, campaign, hardware, said)
    write_sheet(asked.folder, registration, here)
    failed = 0
    for i, (name, step) in enumerate(steps):
        left = (deadline - time.monotonic()) / 60
        if left < _LEAST_MINUTES:
            problems.append(f"{len(steps) - i} of {len(steps)} steps were not reached, from call {name} on")
            break
        minutes, ask = min(step.minutes, left), step.engine or step.kernels
        assert ask is not None
        what = ask.model if isinstance(ask, EngineAsk) else "kernels"
        said(f"{name}, {what}: up to {minutes:.1f} min, {left:.0f} left in all")
        try:
            progress = _measured(ask.model_copy(update={"minutes": minutes}), asked, hardware, told, said)
        except (SpecError, CalibrationError, OSError, RuntimeError) as error:
            failed += 1
            problems.append(f"{name}, {what}: {error}")
            said(f"{problems[-1]}; going on")
        else:
            problems += [f"{name}, {what}: {warning}" for warning in progress.warnings]
        write_sheet(asked.folder, registration, here, problems)
    if failed == len(steps):
        raise CalibrationError(f"nothing could be measured: {'; '.join(dict.fromkeys(problems))}")
    return registration, problems


def _measured(ask: Any, asked: Run, hardware: str, told: Any, said: Any) -> worker.Progress:
    if isinstance(ask, KernelsAsk):
        named = asked.hardware if asked.device == "cuda" else None
        kernels = measuring.Asked(
            asked.device, ask.minutes, asked.folder / KERNELS, ask.models, ask.tables, None, named, asked.busy
        )
        return measuring.measure_machine(kernels, measuring.find_machine(kernels), told, said)[1]
    where = Where(asked.folder / RUNS, asked.device, hardware, asked.busy)
    return measure_ask(ask, where, told, said)[0]


def _registered(asked: Run, campaign: Campaign, hardware: str, said: Callable[[str], None]) -> Registration | None:
    """What was predicted of this campaign on such a GPU; written now where nothing was and nothing is measured yet."""
    name, wanted = load_hardware(hardware).name, campaign.digest
    every = registrations(FOLDER, asked.folder / OWN)
    known = [one for one in every if one.sheet.hardware == name and one.sheet.campaign_sha256 == wanted]
    rows = any(log_rows(log)[1] for log in logs_of(asked.folder).values())
    if rows:
        # What measuring began with stays what it is held against.
        known = [one for one in every if one.name == predicted_by(asked.folder)]
    if known:
        said(f"predicted before: {known[-1].folder}, {known[-1].sheet.registered_at} UTC")
        return known[-1]
    if rows:
        said(f"rows are there already, and nothing was registered for {name} before: they have no prediction of theirs")
        return None
    said(f"nothing is registered for {name} and this campaign; predicting first")
    found = preregister(hardware, asked.folder / OWN, asked.campaign)
    said(f"predicted: {found.folder}")
    return found
