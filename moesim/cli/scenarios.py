"""Where a command takes its scenario from: a file, a ``vllm serve`` command, or both."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from moesim.cli.values import EPILOG, overrides, positional
from moesim.errors import Problem, SpecError
from moesim.inputs.scenario import Scenario


def scenario_arguments(command: Any) -> None:
    """A scenario file anywhere among the words, ``--from-vllm``, and settings to override."""
    command.usage = f"{command.prog} [scenario.yaml] [--setting VALUE ...] [options]"
    command.epilog = EPILOG
    command.add_argument("--from-vllm", metavar="COMMAND", help="take model and engine from vllm serve MODEL --flags")
    command.add_argument("--from-llama-cpp", metavar="COMMAND", help="take all but the GPU from 'llama-server -m ...'")
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


_LENGTHS = {"input_len": 1024, "output_len": 256}
"""Assumed, and said so, where a command line names no file and no lengths."""


def scenario_of(
    options: argparse.Namespace, rest: list[str], notes: list[str] | None = None, load: bool = False
) -> Scenario:
    """The scenario a command line means: a file's, a vLLM command's, or that of ``--model`` and ``--hardware``.

    Parameters
    ----------
    notes : list, optional
        Takes what ``--from-vllm`` says that no setting holds, and what is assumed; else it is printed to stderr.
    load : bool
        Without a file, clients in a closed loop are meant where nothing says when requests come.

    Raises
    ------
    SpecError
        Every problem.
    """
    from moesim.inputs import loading

    files, rest = positional(rest)
    if len(files) > 1:
        raise SpecError([Problem(f"'{files[1]}' is not expected here", "command line")])
    path = files[0] if files else None
    changes, found = overrides(options.set, rest), list[str]()
    if options.from_vllm is not None or options.from_llama_cpp is not None:
        flag = "--from-vllm" if options.from_vllm is not None else "--from-llama-cpp"
        if options.from_vllm is not None and options.from_llama_cpp is not None:
            raise SpecError([Problem("--from-vllm and --from-llama-cpp both say a command; keep one", "command line")])
        if path is None and not _HARDWARE & changes.keys():
            message = f"{flag} says no GPU; give --hardware h100-sxm, or a scenario file to start from"
            raise SpecError([Problem(message, "command line")])
        named = next(iter(_HARDWARE & changes.keys()), None)
        hardware = changes.pop(named) if named else None
        data, found = _of_command(options, hardware)
        if hardware is not None:
            data["hardware"] = hardware
        if options.from_llama_cpp is not None and path is None:
            said = data.get("workload", {})
            data["workload"] = said | _assumed(changes, found, said)
        scenario = loading.from_data(data, flag, changes, path)
    elif path is not None:
        scenario = loading.load(path, changes)
    else:
        scenario = _of_settings(changes, found, load)
    if notes is None:
        say(found)
    else:
        notes += found
    return scenario


_HARDWARE = {"hardware", "gpu"}


def _of_command(options: argparse.Namespace, hardware: Any) -> tuple[dict[str, Any], list[str]]:
    """(what another program's command says of a scenario, notes)."""
    if options.from_vllm is not None:
        from moesim.inputs.vllm_command import scenario_from_vllm

        return scenario_from_vllm(options.from_vllm)
    from moesim.hardware.catalogue import load_hardware
    from moesim.inputs.llama_command import scenario_from_llama_cpp

    return scenario_from_llama_cpp(options.from_llama_cpp, load_hardware(str(hardware)) if hardware else None)


def _of_settings(changes: dict[str, Any], notes: list[str], load: bool) -> Scenario:
    """A scenario of nothing but settings. Raises SpecError."""
    from moesim.inputs.loading import from_data, setting

    named = {setting(name): name for name in changes}
    if "model" not in named or "hardware" not in named:
        message = (
            "no scenario: give a file or a shipped name, --model NAME --hardware GPU, or --from-vllm 'vllm serve ...'"
        )
        raise SpecError([Problem(message, "command line")])
    missing = _assumed(changes, notes, {}, load)
    data = {key: changes.pop(named[key]) for key in ("model", "hardware")}
    return from_data({**data, "workload": missing}, "command line", changes)


def _assumed(changes: dict[str, Any], notes: list[str], given: dict[str, Any], load: bool = False) -> dict[str, Any]:
    """Lengths, and clients under load, that nothing says; told in a note."""
    from moesim.inputs.loading import setting

    named = {setting(name) for name in changes} | {f"workload.{name}" for name in given}
    of_load = {f"workload.{name}" for name in ("trace_file", "lengths.file")} & named
    missing = {} if of_load else {n: v for n, v in _LENGTHS.items() if f"workload.{n}" not in named}
    if load and not {f"workload.{n}" for n in ("max_concurrency", "request_rate", "batch_size")} & named:
        missing["max_concurrency"] = 16
    if missing:
        told = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in missing.items())
        notes.append(f"assumed: {told}; give your own")
    return missing


def say(notes: list[str]) -> None:
    """What a command leaves out, to stderr."""
    for note in notes:
        print(f"moesim: {note}", file=sys.stderr)
