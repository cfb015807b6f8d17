"""The measuring process, seen from the one that started it: what it finds, how far it is, and what killed it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moesim.bench.engine.plan import write_plan
from moesim.bench.engine.settings import EngineSettings
from moesim.bench.log import Log, LogError
from moesim.bench.point import Point
from moesim.errors import CalibrationError
from moesim.paths import write_whole

_REFUSED, _AGAIN = 2, 75
_MOST_DEATHS = 10


@dataclass
class Progress:
    """How far measuring is."""

    of: int
    deadline: float
    counts: dict[str, int] = field(default_factory=lambda: {"measured": 0, "unstable": 0, "failed": 0})
    table: str = ""

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    @property
    def left_s(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)


def environment_of(device: str, busy: bool = False) -> dict[str, Any]:
    """Where a measurement would be made. Raises CalibrationError with the reason why none can be."""
    command = [sys.executable, "-m", "moesim.bench", "environment", "--device", device, *(["--busy"] * busy)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode == _REFUSED:
        raise CalibrationError(found.stderr.strip().splitlines()[-1])
    if found.returncode:
        last = (found.stderr.strip() or "no message").splitlines()[-1]
        raise CalibrationError(f"the measuring process could not start: {last}")
    return json.loads(found.stdout.splitlines()[-1])


def measure(
    points: Sequence[Point],
    log: Path,
    device: str,
    seconds: float,
    busy: bool = False,
    told: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Measure points in order for ``seconds``, each in the log once; a process that dies costs the point it was at.

    Raises
    ------
    CalibrationError
        Nothing can be measured here, rows cannot be written, or process after process dies.
    """
    plan = log.with_name("plan.jsonl")
    write_whole(plan, "".join(json.dumps(p.as_data()) + "\n" for p in points))
    progress, deaths = Progress(len(points), time.monotonic() + seconds), 0
    kinds = ["points"] * any(p.table != "nccl" for p in points) + ["collectives"] * any(
        p.table == "nccl" for p in points
    )
    shares = {"points": 1.0 if len(kinds) == 1 else 0.85, "collectives": 1.0}
    try:
        for kind in kinds:
            until = time.monotonic() + shares[kind] * progress.left_s
            while time.monotonic() < until:
                code, at, said = _run(kind, plan, log, device, until - time.monotonic(), busy, progress, told)
                if code == 0:
                    break
                if code == _REFUSED:
                    raise CalibrationError(said or "the measuring process refused")
                deaths += 1
                if code != _AGAIN:
                    if at is None or deaths > _MOST_DEATHS:
                        raise CalibrationError(f"the measuring process died ({_cause(code)}): {said or 'no message'}")
                    _give_up(log, at, code, said)
                    progress.counts["failed"] += 1
    finally:
        plan.unlink(missing_ok=True)
    return progress


def run_engine(
    settings: EngineSettings,
    points: Sequence[Point],
    log: Path,
    device: str,
    seconds: float,
    busy: bool = False,
    told: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Start an engine in a process of its own and measure points on it. Raises CalibrationError."""
    plan, progress = log.with_name("plan.json"), Progress(len(points), time.monotonic() + seconds)
    write_whole(plan, write_plan(settings, points))
    try:
        code, _, said = _run("engine", plan, log, device, seconds, busy, progress, told)
    finally:
        plan.unlink(missing_ok=True)
    if code:
        raise CalibrationError(said if code == _REFUSED else f"the engine's process died ({_cause(code)}): {said}")
    return progress


def _run(
    kind: str, plan: Path, log: Path, device: str, seconds: float, busy: bool, progress: Progress,
    told: Callable[[Progress], None],
) -> tuple[int, Point | None, str]:  # fmt: skip
    """(exit code, the point it was at, its last words)."""
    command = [
        sys.executable, "-m", "moesim.bench", kind, str(plan), str(log), "--device", device, "--seconds",
        f"{seconds:.1f}", *(["--busy"] * busy),
    ]  # fmt: skip
    at: Point | None = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        try:
            for line in process.stdout:
                if not line.startswith("["):
                    # Libraries print there too.
                    continue
                try:
                    what, data = json.loads(line)
                except ValueError:
                    continue
                at = Point.of(data) if what == "begin" else None
                progress.table = str(data["table"])
                if what in progress.counts:
                    progress.counts[what] += 1
                told(progress)
            words = process.stderr.read().strip().splitlines()
        except BaseException:
            process.kill()
            raise
    return process.returncode, at, words[-1] if words else ""


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _give_up(path: Path, point: Point, code: int, said: str) -> None:
    """A point whose process died is not tried again."""
    try:
        with Log(path) as log:
            log.add(point, {"failed": f"the process died ({_cause(code)}) {said}".strip()[:300], "at": time.time()})
    except LogError as error:
        raise CalibrationError(str(error)) from None
