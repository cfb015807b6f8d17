"""Measure points one after the other within a time budget; every row is on disk before the next point begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from moesim.bench import kernels
from moesim.bench.errors import DeviceLost
from moesim.bench.log import Log
from moesim.bench.point import Point
from moesim.bench.watch import APART, DRIFTING, Watch

_LOST = (
    "illegal memory access", "device-side assert", "unspecified launch failure", "misaligned address",
    "illegal instruction",
)  # fmt: skip
_VARIES = {APART, DRIFTING}
_TRIES = 3
"""Of a point whose samples lie apart: another process may have had the machine meanwhile."""
_GIVEN_UP = 20
"""A table whose first points all fail is given up: its kernel does not run here."""

_WARM_UP_S, _EDGE = 2.0, 8192

Told = Callable[[str, Point], None]


def measure(
    points: Sequence[Point], log: Log, device: str, deadline: float, told: Told = lambda what, at: None
) -> None:
    """Measure the points that ``log`` does not hold yet, in order, until ``deadline`` (of ``time.monotonic``).

    ``told`` hears ``begin`` and then ``measured``, ``unstable`` or ``failed`` of each point.

    Raises
    ------
    DeviceLost
        A kernel broke the CUDA context; its point is logged as failed, so that a fresh process goes on after it.
    LogError
        A row could not be written.
    """
    watch = Watch(device)
    _bring_up_clocks(device)
    failed: dict[str, int] = {}
    worked: set[str] = set()
    for point in points:
        if time.monotonic() >= deadline:
            return
        if point.key in log.done or (point.table not in worked and failed.get(point.table, 0) >= _GIVEN_UP):
            continue
        told("begin", point)
        row = measured(point, device, watch)
        for _ in range(_TRIES - 1):
            if not _VARIES.intersection(row.get("unstable", ())) or time.monotonic() >= deadline:
                break
            row = measured(point, device, watch)
        log.add(point, row)
        if "failed" in row:
            failed[point.table] = failed.get(point.table, 0) + 1
            told("failed", point)
            if any(words in row["failed"] for words in _LOST):
                raise DeviceLost(row["failed"])
            continue
        worked.add(point.table)
        told("unstable" if row["unstable"] else "measured", point)


def measured(point: Point, device: str, watch: Watch) -> dict[str, Any]:
    """One row: times and what was seen meanwhile, or why there are none."""
    import torch

    at = time.time()
    try:
        kernel = kernels.build(point, device)
        times, seen = watch.around(lambda: kernel.times(device))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"failed": "out of GPU memory", "at": at}
    except Exception as error:
        # Kernels of other versions refuse in many ways; the reason is kept and the next point tried.
        return {"failed": f"{type(error).__name__}: {str(error).strip()[:300]}", "at": at}
    copies = kernel.copies or max(len(kernel.calls), 1)
    row = {"kernel_source": kernel.source, "copies": copies, **asdict(times), **seen}
    return {**row, "took_s": time.time() - at, "at": at}


def _bring_up_clocks(device: str) -> None:
    """Seconds of work: an idle GPU's first kernels run at a low clock."""
    if device != "cuda":
        return
    import torch

    a = torch.randn(_EDGE, _EDGE, device=device, dtype=torch.bfloat16)
    begin = time.monotonic()
    while time.monotonic() - begin < _WARM_UP_S:
        for _ in range(20):
            torch.mm(a, a)
        torch.cuda.synchronize()
