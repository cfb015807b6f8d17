"""Where a command takes its scenario from: a file, a ``vllm serve`` command, or both."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from moesim.cli.values import EPILOG, overrides, positional
from moesim.errors import Problem, SpecError
from moesim.inputs.scenario import Scenario


def scenario_arguments(command: Any) -> None:
    """A scenario file anywhere among the words, ``--from-vllm``, and settings to override."""
    command.usage = f"{command.prog} [scenario.yaml] [--setting VALUE ...] [options]"
    command.epilog = EPILOG
    command.add_argument("--from-vllm", metavar="COMMAND", help="take model and engine from vllm serve MODEL --flags")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a setting")


def quoted(arguments: list[str]) -> list[str]:
    """A vLLM command pasted behind ``--from-vllm`` without quotes as one word.

    Behind the word that names vLLM it ends before the first flag that vLLM has not.
    """
    start = arguments.index("--from-vllm") + 1 if "--from-vllm" in arguments else len(arguments)
    if start + 1 >= len(arguments) or " " in arguments[start] or arguments[start + 1].startswith("-"):
        return arguments
    from moesim.inputs.vllm_command import is_flag

    named = next((i for i in range(start, len(arguments)) if "vllm" in arguments[i]), start)
    ours = (i for i in range(named, len(arguments)) if arguments[i].startswith("--") and not is_flag(arguments[i]))
    end = next(ours, len(arguments))
    return [*arguments[:start], shlex.join(arguments[start:end]), *arguments[end:]]


def scenario_of(options: argparse.Namespace, rest: list[str], notes: list[str] | None = None) -> Scenario:
    """The scenario a command line means. Raises SpecError.

    Parameters
    ----------
    notes : list, optional
        Takes what ``--from-vllm`` says that no setting holds; else it is printed to stderr.
    """
    from moesim.inputs.loading import from_data, load

    files, rest = positional(rest)
    if len(files) > 1:
        raise SpecError([Problem(f"'{files[1]}' is not expected here", "command line")])
    path = Path(files[0]) if files else None
    changes = overrides(options.set, rest)
    if options.from_vllm is None:
        if path is None:
            raise SpecError([Problem("no scenario: give a file, or --from-vllm 'vllm serve ...'", "command line")])
        return load(path, changes)
    from moesim.inputs.vllm_command import scenario_from_vllm

    data, found = scenario_from_vllm(options.from_vllm)
    if path is None and "hardware" not in changes:
        message = "--from-vllm says no GPU; give --hardware h100-sxm, or a scenario file to start from"
        raise SpecError([Problem(message, "command line")])
    if "hardware" in changes:
        data["hardware"] = changes.pop("hardware")
    scenario = from_data(data, "--from-vllm", changes, path)
    if notes is None:
        say(found)
    else:
        notes += found
    return scenario


def say(notes: list[str]) -> None:
    """What a command leaves out, to stderr."""
    for note in notes:
        print(f"moesim: {note}", file=sys.stderr)
