"""``moesim campaign``: predict what will be measured, measure it, hold both against each other."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from moesim.cli.bench_engine import told_each
from moesim.errors import Problem, SpecError


def campaign_command(commands: Any) -> None:
    about = "a measuring campaign on one GPU: what is predicted of it beforehand, its runs, how both compare"
    command = commands.add_parser("campaign", help=about, description=about)
    command.set_defaults(run=_list, campaign=None)
    parts = command.add_subparsers(dest="part", metavar="part")
    _list_command(parts)
    _preregister_command(parts)
    _run_command(parts)
    _compare_command(parts)


def _list_command(parts: Any) -> None:
    about = "what the calls measure, and for how long"
    command = parts.add_parser("list", help=about, description=about)
    _campaign_argument(command)
    command.set_defaults(run=_list)


def _preregister_command(parts: Any) -> None:
    about = "predict every row of the campaign on a GPU and write that down; never over what is there"
    command = parts.add_parser("preregister", help=about, description=about)
    command.add_argument("hardware", nargs="+", help="GPUs, like h100-sxm h200-sxm")
    command.add_argument(
        "-o", "--output", type=Path, help="folder of registrations; default: calibration/preregistered"
    )
    _campaign_argument(command)
    command.set_defaults(run=_preregister)


def _run_command(parts: Any) -> None:
    about = "measure all calls, or those that are named, in order and within a time; running again goes on"
    command = parts.add_parser("run", help=about, description=about)
    add = command.add_argument
    add("calls", nargs="*", help="which; default: all, as far as the time goes")
    add("-o", "--output", type=Path, default=Path("campaign"), help="folder for kernels/ and runs/")
    add("--minutes", type=float, default=55.0, help="time budget; default: 55")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the way, on the host and vLLM's CPU build")
    add("--hardware", help="the GPU's hardware file, where its name alone does not find it")
    add("--busy", action="store_true", help="measure even where other processes use the GPU")
    _campaign_argument(command)
    command.set_defaults(run=_run)


def _compare_command(parts: Any) -> None:
    about = "hold what was measured against what was predicted; writes docs/campaign.md"
    command = parts.add_parser("compare", help=about, description=about)
    command.add_argument("folders", nargs="*", type=Path, help="campaigns; default: all under calibration/campaigns")
    command.add_argument("--hardware", help="what registrations call the GPU, where its name does not tell")
    command.add_argument("-o", "--output", type=Path, help="the page; default: docs/campaign.md of the checkout")
    command.add_argument("--check", action="store_true", help="exit code 1 where the page would change; writes nothing")
    _campaign_argument(command)
    command.set_defaults(run=_compare)


def _campaign_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("--campaign", type=Path, metavar="FILE", help="default: calibration/campaign.yaml")


def _file(options: argparse.Namespace) -> Path:
    from moesim import paths

    return options.campaign or paths.CAMPAIGN


def _list(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.campaign.file import load_campaign

    campaign = load_campaign(_file(options))
    for name, steps in campaign.calls.items():
        engines = list(dict.fromkeys(step.engine.model for step in steps if step.engine))
        what = ", ".join([*(["kernels"] if any(step.kernels for step in steps) else []), *engines])
        print(f"{name:12}{sum(step.minutes for step in steps):5.1f} min  {what}")
    total = sum(step.minutes for steps in campaign.calls.values() for step in steps)
    print(f"{'all':12}{total:5.1f} min  at the most; engines that are done earlier leave their time to the others")
    return 0


def _preregister(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.campaign.file import load_campaign
    from moesim.campaign.registration import FOLDER, checkout, refuse_registered
    from moesim.campaign.running import folder_of, preregister
    from moesim.hardware.catalogue import load_hardware

    folder, file = options.output or FOLDER, _file(options)
    commit, changed = checkout()
    if changed and folder.resolve() == FOLDER.resolve():
        message = (
            "has changes that are not committed, or git does not tell; commit first: the commit must predict alike"
        )
        raise SpecError([Problem(message, "this checkout")])
    campaign = load_campaign(file)
    # All or none of them.
    for hardware in options.hardware:
        refuse_registered(folder_of(load_hardware(hardware), campaign, folder))
    for hardware in options.hardware:
        found = preregister(hardware, folder, file)
        points, known = (sum(getattr(t, n) for t in found.sheet.tables.values()) for n in ("points", "predicted"))
        print(f"{found.folder}: {points:,} points, {known:,} predicted, commit {commit or 'none'}")
        silent = Counter((p.point.table, p.source) for p in found.predicted.values() if not p.values)
        for (table, why), count in silent.items():
            print(f"  {table}: {count:,} not predicted: {why}")
    return 0


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.campaign.running import Run, run

    if not 0 < options.minutes < float("inf"):
        raise SpecError([Problem(f"{options.minutes:g} is no time to measure in; above 0 is accepted", "--minutes")])
    asked = Run(options.output, options.minutes, _file(options), options.device, options.hardware, options.busy)
    _, problems = run(asked, options.calls, told_each(), lambda text: print(text, file=sys.stderr, flush=True))
    for problem in problems:
        print(problem, file=sys.stderr)
    named = f" --hardware {options.hardware}" if options.hardware else ""
    print(f"{options.output}\n\n    moesim campaign compare {options.output}{named}")
    return 0


def _compare(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.campaign.comparison import compare
    from moesim.campaign.file import load_campaign
    from moesim.campaign.registration import FOLDER, registrations
    from moesim.report.campaign_page import campaign_page, page_path, returned, write_rows

    folders = options.folders or returned()
    campaigns = [compare(folder, FOLDER, options.hardware) for folder in folders]
    own = [found.registration for found in campaigns if found.registration.folder.parent != FOLDER]
    page = campaign_page(load_campaign(_file(options)), [*registrations(FOLDER), *own], campaigns)
    target = options.output or page_path()
    if options.check:
        same = target.is_file() and target.read_text(encoding="utf-8") == page
        print(f"{target} {'is as it would be written' if same else 'is not what moesim campaign compare writes'}")
        return 0 if same else 1
    for folder, found in zip(folders, campaigns, strict=True):
        print(write_rows(folder, found))
    from moesim.files.writing import write_whole

    write_whole(target, page)
    print(target)
    return 0
