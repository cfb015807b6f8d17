"""The scheduler against recorded iterations of vLLM's own."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from moesim import paths
from moesim.engines.kv_cache import CachedBlocks, CountedBlocks
from moesim.engines.request import Request
from moesim.engines.scheduling import SchedulerLimits, Step
from moesim.engines.vllm.scheduler import V1Scheduler

RECORDED = sorted((paths.CALIBRATION / "schedules").glob("*/*.json"))


def replay(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """The same requests through moesim's scheduler; its iterations in the trace's form."""
    settings = trace["settings"]
    names = SchedulerLimits.__dataclass_fields__
    limits = SchedulerLimits(**{name: settings[name] for name in names if name in settings})
    blocks = settings["num_gpu_blocks"] - 1
    pool = (
        CachedBlocks(blocks, settings["block_size"])
        if settings["enable_prefix_caching"]
        else CountedBlocks(blocks, settings["block_size"], float)
    )
    scheduler = V1Scheduler(limits, pool)
    coming = deque(trace["requests"])
    flights: deque[tuple[Step, int] | None] = deque()
    seen: list[dict[str, Any]] = []
    preempted: list[int] = []
    while coming or scheduler.busy or flights:
        idle = not scheduler.busy and not any(flights)
        while coming and coming[0]["arrives"] <= len(seen) and (idle or not coming[0].get("when_idle")):
            item = coming.popleft()
            segments = tuple((seed, length) for seed, length in item["segments"])
            prompt = sum(length for _, length in segments)
            output = min(item["output_len"], limits.max_model_len - prompt)
            scheduler.add(Request(item["id"], prompt, output, segments=segments))
        if scheduler.busy:
            step = scheduler.schedule()
            preempted += [r.number for r in step.preempted]
            if step.parts:
                tokens = {str(part.request.number): [part.tokens, part.past] for part in step.parts}
                seen.append({"tokens": tokens, "preempted": preempted})
                preempted = []
            flights.append((step, len(seen) - 1) if step.parts else None)
        if flights and (len(flights) > limits.async_scheduling or not scheduler.busy):
            landed = flights.popleft()
            if landed:
                finished = scheduler.update(landed[0])
                seen[landed[1]]["finished"] = sorted(r.number for r in finished)
    return seen


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_iteration_as_recorded(path: Path) -> None:
    trace = json.loads(path.read_text(encoding="utf-8"))
    mine, theirs = replay(trace), trace["iterations"]
    assert len(mine) == len(theirs)
    same = 0
    for i, (ours, recorded) in enumerate(zip(mine, theirs, strict=True)):
        assert list(ours["tokens"].items()) == list(recorded["tokens"].items()), f"iteration {i}"
        preempted = [*recorded.get("preempted_in_empty_calls", []), *recorded["preempted"]]
        assert ours["preempted"] == preempted, f"iteration {i}"
        assert ours["finished"] == sorted(recorded["finished"]), f"iteration {i}"
        same += 1
    assert same == len(theirs)
