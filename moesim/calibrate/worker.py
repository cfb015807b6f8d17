"""The measuring process, seen from the one that started it: what it finds, how far it is, and what killed it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moesim import paths
from moesim.bench.engine.plan import write_plan
from moesim.bench.engine.settings import EngineSettings
from moesim.bench.errors import AGAIN, DONE
from moesim.bench.log import DIED, Log, LogError
from moesim.bench.point import Point
from moesim.errors import CalibrationError

_PACKAGE = paths.PACKAGE
_MOST_DEATHS = 10
_GRACE_S = 90.0
"""How long after its time is up a process may still finish its point before it is killed."""


@dataclass
class Progress:
    """How far measuring is."""

    of: int
    deadline: float
    counts: dict[str, int] = field(default_factory=lambda: {"measured": 0, "unstable": 0, "failed": 0})
    table: str = ""
    warnings: list[str] = field(default_factory=list)
    """What went wrong without ending it."""

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    @property
    def left_s(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)


Told = Callable[[Progress], None]


@dataclass
class _Ended:
    """How a measuring process ended: exit code, the point it was at, the end of what it printed."""

    code: int = DONE
    at: Point | None = None
    words: str = ""
    hung: bool = False

    @property
    def cause(self) -> str:
        if self.hung:
            return "it hung and was killed"
        return signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"


def environment_of(device: str, busy: bool = False) -> dict[str, Any]:
    """Where a measurement would be made. Raises CalibrationError with the reason why none can be."""
    found: list[dict[str, Any]] = []
    ended = _run(
        ["environment", "--device", device, *(["--busy"] * busy)], 120.0, lambda what, data: found.append(data)
    )
    if ended.code or not found:
        raise CalibrationError(f"the measuring process could not start ({ended.cause}): {ended.words or 'no message'}")
    return found[-1]


def measure(
    points: Sequence[Point],
    log: Path,
    device: str,
    seconds: float,
    busy: bool = False,
    told: Told = lambda progress: None,
) -> Progress:
    """Measure points in order for ``seconds``, each in the log once; a process that dies costs the point it was at.

    Raises
    ------
    CalibrationError
        Nothing can be measured here, rows cannot be written, or process after process dies.
    """
    progress, deaths = Progress(len(points), time.monotonic() + seconds), 0
    collective = [p.table == "nccl" for p in points]
    kinds = ["points"] * (not all(collective)) + ["collectives"] * any(collective)
    text = "".join(json.dumps(p.as_data()) + "\n" for p in points)
    for kind in kinds:
        until = time.monotonic() + progress.left_s * (0.85 if kind != kinds[-1] else 1.0)
        while time.monotonic() < until:
            ended = _measuring(kind, text, log, device, until, busy, progress, told)
            if ended.code == DONE and not ended.hung:
                break
            if ended.code == AGAIN:
                continue
            deaths += 1
            if deaths > _MOST_DEATHS:
                raise CalibrationError(f"process after process dies ({ended.cause}): {ended.words or 'no message'}")
            if ended.at is None:
                # Between points, or on its way out: what is in the log stands.
                progress.warnings.append(f"a measuring process died between points ({ended.cause}): {ended.words}")
                break
            _give_up(log, ended)
            progress.counts["failed"] += 1
    return progress


def run_engine(
    settings: EngineSettings,
    points: Sequence[Point],
    log: Path,
    device: str,
    seconds: float,
    busy: bool = False,
    told: Told = lambda progress: None,
) -> Progress:
    """Start an engine in a process of its own and measure points on it; another one where a point broke it.

    Raises
    ------
    CalibrationError
        No engine starts, or rows cannot be written.
    """
    progress = Progress(len(points), time.monotonic() + seconds)
    text = write_plan(settings, points)
    ended = _measuring("engine", text, log, device, progress.deadline, busy, progress, told)
    while ended.code == AGAIN and progress.left_s > 0:
        ended = _measuring("engine", text, log, device, progress.deadline, busy, progress, told)
    if ended.hung or ended.code not in {DONE, AGAIN}:
        if ended.at is not None:
            _give_up(log, ended)
            progress.counts["failed"] += 1
        progress.warnings.append(f"the engine's process died ({ended.cause}): {ended.words or 'no message'}")
    return progress


def _measuring(
    kind: str, plan: str, log: Path, device: str, until: float, busy: bool, progress: Progress, told: Told
) -> _Ended:
    """One measuring process, from its plan to its end."""
    at: list[Point | None] = [None]

    def hear(what: str, data: dict[str, Any]) -> None:
        at[0] = Point.of(data) if what == "begin" else None
        progress.table = str(data["table"])
        if what in progress.counts:
            progress.counts[what] += 1
        told(progress)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan"
        path.write_text(plan, encoding="utf-8")
        left = max(until - time.monotonic(), 0.0)
        words = [kind, str(path), str(log), "--device", device, "--until", f"{time.time() + left:.3f}"]
        ended = _run([*words, *(["--busy"] * busy)], left + _GRACE_S, hear)
    ended.at = at[0]
    return ended


def _run(arguments: Sequence[str], most_s: float, hear: Callable[[str, dict[str, Any]], None]) -> _Ended:
    """Run ``python -m moesim.bench``, hear its events, kill it and all it started when it outstays ``most_s``.

    What it prints besides goes to a file: a pipe that nobody reads would stop it. Raises CalibrationError with its
    reason where it refuses.
    """
    ended = _Ended()
    # Not what lies in the current folder: this very package, wherever it was imported from.
    command = [sys.executable, "-P", "-m", "moesim.bench", *arguments]
    where = os.pathsep.join(filter(None, (str(_PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, start_new_session=True,
            env=os.environ | {"PYTHONPATH": where},
        ) as process,
    ):  # fmt: skip

        def stop() -> None:
            ended.hung = True
            _kill_group(process.pid)

        timer = threading.Timer(most_s, stop)
        timer.start()
        try:
            assert process.stdout
            for line in process.stdout:
                event = _event(line)
                if event and event[0] == "refused":
                    raise CalibrationError(str(event[1]["why"]))
                if event:
                    hear(*event)
            process.wait()
        finally:
            timer.cancel()
            _kill_group(process.pid)
        ended.code = process.returncode
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
        ended.words = lines[-1][:300] if lines else ""
    return ended


def _event(line: bytes) -> tuple[str, dict[str, Any]] | None:
    """An event of the measuring process; None for what libraries print there too."""
    try:
        what, data = json.loads(line)
    except (ValueError, TypeError):
        return None
    return (what, data) if isinstance(what, str) and isinstance(data, dict) else None


def _kill_group(pid: int) -> None:
    try:
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return


def _give_up(path: Path, ended: _Ended) -> None:
    """A point whose process died is not tried again; an engine that died as it started is."""
    assert ended.at is not None
    why = f"the process died ({ended.cause}) {ended.words}".strip()[:300]
    cause = {"cause": DIED} if ended.at.table == "engine_memory" else {}
    try:
        with Log(path) as log:
            log.add(ended.at, {"failed": why, **cause, "at": time.time()})
    except LogError as error:
        raise CalibrationError(str(error)) from None
