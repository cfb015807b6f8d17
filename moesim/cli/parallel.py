"""How many processes a command uses, and where they run."""

from __future__ import annotations

from typing import Any

from moesim.explore.pool import BACKENDS


def parallel_arguments(command: Any) -> None:
    command.add_argument("-j", "--jobs", type=int, default=0, help="processes; 0, the default, is all processors")
    command.add_argument(
        "--backend", default="processes", help=f"where they run: {', '.join(BACKENDS)} (extras joblib, dask, ray)"
    )
    command.add_argument("--scheduler", metavar="ADDRESS", help="of a dask or ray cluster, like tcp://10.0.0.1:8786")
