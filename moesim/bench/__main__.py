"""What a measuring process does: say where it is, or measure a plan of points into a log.

``moesim calibrate`` runs it as a process of its own, so that a kernel that kills it costs one point. On a machine with
nothing but torch it runs by itself: ``python -m moesim.bench points plan.jsonl points.jsonl --seconds 500``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from moesim.bench.environment import environment, refuse_busy_gpu, vllm_of
from moesim.bench.errors import AGAIN, DONE, REFUSED, BenchError, DeviceLost
from moesim.bench.log import Log, LogError
from moesim.bench.point import Point

_ORPHAN_CHECK_S = 1.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m moesim.bench", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("environment", "points", "collectives", "engine"):
        command = commands.add_parser(name)
        command.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
        command.add_argument("--busy", action="store_true", help="measure beside other processes")
        if name != "environment":
            command.add_argument("plan", type=Path, help="JSON lines, a point each; of an engine, its settings in JSON")
            command.add_argument("log", type=Path)
            command.add_argument("--seconds", type=float, default=600.0)
            command.add_argument("--until", type=float, help="stop at this time of the clock instead (seconds of Unix)")
    options = parser.parse_args(arguments)
    if options.command != "environment" and options.until is not None:
        _end_with_parent()
    try:
        if options.device == "cuda" and not options.busy:
            refuse_busy_gpu()
        here = environment(options.device)
        if options.command == "engine" and not vllm_of(here["versions"]):
            raise BenchError("engine runs need vLLM, which is not installed; pip install 'vllm>=0.24'")
        if options.command == "environment":
            _say("environment", here)
            return DONE
        return _measure(options, here)
    except (BenchError, LogError) as error:
        _say("refused", {"why": " ".join(str(error).split())})
        print(error, file=sys.stderr)
        return REFUSED


def _say(what: str, data: dict[str, Any]) -> None:
    """An event for whoever started this process: a JSON list a line."""
    print(json.dumps([what, data]), flush=True)


def _end_with_parent() -> None:
    """A process whose parent is gone would go on measuring beside the next one."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_CHECK_S)
        os._exit(REFUSED)

    threading.Thread(target=watch, daemon=True).start()


def _measure(options: argparse.Namespace, here: dict[str, Any]) -> int:
    text = options.plan.read_text(encoding="utf-8")
    left = options.seconds if options.until is None else options.until - time.time()
    deadline = time.monotonic() + left

    def told(what: str, point: Point) -> None:
        _say(what, point.as_data())

    with Log(options.log) as log:
        log.session(here)
        try:
            if options.command == "engine":
                from moesim.bench.engine.plan import read_plan
                from moesim.bench.engine.runner import measure_engine

                measure_engine(*read_plan(text), log, options.device, deadline, told)
                return DONE
            points = [Point.of(json.loads(line)) for line in text.splitlines() if line.strip()]
            if options.command == "collectives":
                from moesim.bench.collectives import measure_collectives

                measure_collectives(points, log, options.device, deadline, told)
            else:
                from moesim.bench.session import measure

                measure([p for p in points if p.table != "nccl"], log, options.device, deadline, told)
        except DeviceLost:
            return AGAIN
    return DONE


if __name__ == "__main__":
    sys.exit(main())
