"""``moesim web``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from moesim.cli.checks import require
from moesim.errors import Problem, SpecError


def web_command(commands: Any) -> None:
    about = "a what-if page on this machine: sliders that answer while you drag, two columns, shared by its address"
    command = commands.add_parser("web", help=about, description=about)
    command.add_argument("--port", type=int, default=8321, help="default: 8321; 0 takes any that is free")
    command.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    command.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name the page may be asked under"
    )
    command.set_defaults(run=_web)


def _web(options: argparse.Namespace, rest: list[str]) -> int:
    require("starlette", "uvicorn")
    if not 0 <= options.port <= 65535:
        raise SpecError([Problem(f"{options.port} is no port; 0 to 65535 is accepted", "--port")])
    from moesim.web.app import serve

    names = ("127.0.0.1", "localhost", "[::1]", options.host, *options.allow_host)

    def ready(port: int) -> None:
        print(f"http://{options.host}:{port}  (stop with Ctrl-C)", file=sys.stderr, flush=True)

    try:
        serve(options.host, options.port, names, ready)
    except OSError as error:
        message = f"{options.host}:{options.port} cannot be had ({error.strerror}); name another port"
        raise SpecError([Problem(message, "--port")]) from None
    return 0
