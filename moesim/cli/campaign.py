"""``moesim campaign``: the calls of ``calibration/campaign.yaml``, each a list of measuring commands."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moesim.cli.codes import STOPPED
from moesim.errors import Problem, SpecError

_ALLOWED = {"calibrate": "kernels", "bench-engine": "runs"}
"""Command a call may run -> where its rows go."""


def campaign_command(commands: Any, run: Callable[[list[str]], int]) -> None:
    about = "run one call of the measuring campaign: several kernels' or engines' measurements after each other"
    command = commands.add_parser("campaign", help=about, description=about)
    command.add_argument("call", nargs="?", help="which; without one they are listed")
    command.add_argument("-o", "--output", type=Path, default=Path("campaign"), help="folder for kernels/ and runs/")
    command.add_argument("--busy", action="store_true", help="measure even where other processes use the GPU")
    command.add_argument("--dry-run", action="store_true", help="print the commands")
    command.set_defaults(run=lambda options, rest: _campaign(options, run))


def calls() -> dict[str, list[list[str]]]:
    """Every call's commands as words. Raises SpecError for one that does not measure."""
    from moesim import paths
    from moesim.files import yaml

    document = yaml.read(paths.CAMPAIGN)
    found: dict[str, list[list[str]]] = {}
    problems = []
    for name, lines in document.data.items():
        found[name] = [shlex.split(str(line)) for line in lines]
        for i, words in enumerate(found[name]):
            if not words or words[0] not in _ALLOWED:
                message = f"'{lines[i]}' is no measuring command; {' and '.join(_ALLOWED)} are"
                problems.append(Problem(message, document.where((name, i))))
    if problems:
        raise SpecError(problems)
    return found


def _campaign(options: argparse.Namespace, run: Callable[[list[str]], int]) -> int:
    known = calls()
    if options.call is None:
        for name, lines in known.items():
            minutes = sum(float(words[words.index("--minutes") + 1]) for words in lines)
            print(f"{name:10}{len(lines)} commands, about {minutes:.0f} min of measuring")
        return 0
    if options.call not in known:
        raise SpecError([Problem(f"there is no call '{options.call}'; {', '.join(known)} are", "campaign")])
    worst = 0
    for words in known[options.call]:
        command = [*words, "-o", str(options.output / _ALLOWED[words[0]]), *(["--busy"] * options.busy)]
        command += ["--measure-only"] * (words[0] == "calibrate")
        print(f"moesim {shlex.join(command)}", flush=True)
        if not options.dry_run:
            code = run(command)
            if code == STOPPED:
                return STOPPED
            # One engine that does not start must not cost the others their time on the machine.
            worst = max(worst, code)
            if code:
                print(f"moesim: exit code {code}, going on", file=sys.stderr)
    return worst
