"""``moesim routing``: how uneven experts are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from moesim.cli.checks import check_output
from moesim.errors import Problem, SpecError


def routing_command(commands: Any) -> None:
    about = "how often each expert is picked: max over mean by layer, cold experts, the busiest rank, a heat map"
    command = commands.add_parser("routing", help=about, description=about)
    command.add_argument(
        "file",
        type=Path,
        help="a CSV of layer,expert,count; a trace with a token's experts on each line; or a scenario",
    )
    command.add_argument("--ranks", type=int, default=8, help="ranks that share the experts out (8)")
    command.add_argument("--picture", type=Path, help="draw the heat map into a .png or .svg file")
    command.set_defaults(run=_routing)


def _routing(options: argparse.Namespace, rest: list[str]) -> int:
    from moesim.explore.activations import activations
    from moesim.report.activations_text import activations_text, draw_activations

    if options.ranks < 1:
        raise SpecError([Problem(f"{options.ranks} is not a number of ranks; 1 or more is accepted", "--ranks")])
    picture = options.picture
    if picture:
        check_output(picture, {".png", ".svg"}, "--picture")
    found = activations(options.file)
    experts = found.counts.shape[1]
    if options.ranks > experts:
        raise SpecError([Problem(f"{options.ranks} ranks are more than the {experts} experts", "--ranks")])
    print(activations_text(found, options.ranks))
    if picture:
        print(draw_activations(found, picture))
    return 0
