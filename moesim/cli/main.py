"""The command line: which commands there are, and what bad input looks like."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from moesim import __version__
from moesim.cli.bench_engine import bench_engine_command
from moesim.cli.calibrate import calibrate_command
from moesim.cli.calibration import calibration_commands
from moesim.cli.campaign import campaign_command
from moesim.cli.catalogues import catalogue_commands
from moesim.cli.claims import claims_command
from moesim.cli.codes import BAD_INPUT, DOES_NOT_FIT, EXTRAPOLATED, NOT_HOLDING, STOPPED
from moesim.cli.compare import compare_command, tornado_command
from moesim.cli.completion import completion_command
from moesim.cli.load import bench_command, capacity_command, validate_command
from moesim.cli.models import models_command
from moesim.cli.offload import offload_study_command, search_command
from moesim.cli.plans import plan_command, study_command
from moesim.cli.predictions import predict_command, sweep_command
from moesim.cli.questions import questions_command
from moesim.cli.recommend import recommend_command
from moesim.cli.report import report_command
from moesim.cli.routing import routing_command
from moesim.cli.scenarios import quoted
from moesim.cli.web import web_command
from moesim.errors import CalibrationError, SpecError

_WITH_SETTINGS = {
    "predict", "sweep", "plan", "capacity", "search", "recommend", "compare", "tornado", "report",
}  # fmt: skip
"""Commands that take settings of a scenario as words of their own."""


_GOES_ON = {"sweep", "bench-engine", "calibrate", "campaign"}
"""Commands that keep what they have done, block by block."""
_AT_ONCE = ("source", "lint", "check", "fit_only")
"""Options of those that make them do something else, whole or not at all."""
_EPILOG = f"""exit codes:
  0 done  {BAD_INPUT} bad input  {DOES_NOT_FIT} does not fit, or nothing keeps every limit
  {EXTRAPOLATED} outside the fits under --strict  {NOT_HOLDING} a calibration no longer holds
  {STOPPED} stopped; what commands write block by block is kept

scenarios are files, or names that `moesim scenarios` lists; `moesim completion bash` completes words in your shell"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Never shows a traceback for bad input."""
    parser = _parser()
    options, rest = parser.parse_known_args(quoted(sys.argv[1:] if arguments is None else arguments))
    if rest and options.command not in _WITH_SETTINGS:
        parser.error(f"unknown argument {rest[0]}")
    try:
        return options.run(options, rest)
    except SpecError as error:
        for problem in error.problems:
            print(f"moesim: {problem}", file=sys.stderr)
        return BAD_INPUT
    except CalibrationError as error:
        print(f"moesim: {error}", file=sys.stderr)
        return BAD_INPUT
    except ModuleNotFoundError as error:
        print(f"moesim: this needs the package '{error.name}'; install moesim[{_extra(error)}]", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        goes_on = options.command in _GOES_ON and not any(getattr(options, name, None) for name in _AT_ONCE)
        goes_on = goes_on and getattr(options, "part", "run") == "run"
        kept = "; what is done is kept, and the same command goes on" if goes_on else ""
        print(f"moesim: stopped{kept}", file=sys.stderr)
        return STOPPED
    except MemoryError:
        print("moesim: this takes more memory than there is", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"moesim: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return BAD_INPUT


_EXTRAS = {
    "pandas": "sweep", "pyarrow": "sweep", "matplotlib": "plots", "joblib": "joblib", "distributed": "dask",
    "dask": "dask", "ray": "ray", "starlette": "web", "uvicorn": "web", "torch": "bench", "pynvml": "bench",
    "gguf": "gguf",
}  # fmt: skip
"""Package -> the extra that brings it."""


def _extra(error: ModuleNotFoundError) -> str:
    return _EXTRAS.get((error.name or "").partition(".")[0], "calibrate")


class _Parser(argparse.ArgumentParser):
    """No word is short for another: what is no option may be a setting."""

    def __init__(self, **more: Any):
        super().__init__(**more, allow_abbrev=False)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="moesim", description="How fast a Mixture-of-Experts model runs, and why.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"moesim {__version__}")
    parser.set_defaults(run=lambda options, rest: parser.print_help() or 0)
    commands = parser.add_subparsers(dest="command", metavar="command")
    predict_command(commands)
    sweep_command(commands)
    plan_command(commands)
    study_command(commands)
    recommend_command(commands)
    compare_command(commands)
    tornado_command(commands)
    report_command(commands)
    web_command(commands)
    search_command(commands)
    offload_study_command(commands)
    capacity_command(commands)
    validate_command(commands)
    bench_command(commands)
    bench_engine_command(commands)
    calibrate_command(commands)
    campaign_command(commands)
    calibration_commands(commands)
    models_command(commands)
    routing_command(commands)
    claims_command(commands)
    questions_command(commands, main)
    completion_command(commands, parser)
    catalogue_commands(commands)
    return parser
