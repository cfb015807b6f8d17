"""What is asked of one engine: batches at once, loads over time; as JSON between processes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moesim.bench.engine.settings import EngineSettings
from moesim.bench.point import Point

LENGTHS = (0.5, 1.5)
"""Least and most of requests that arrive over time, over their mean; uniform between."""
_FOLDERS = ("model", "draft_model")
_SEED, _SHORTEST = 17, 4
Arrivals = Sequence[tuple[float, int, int]]
"""(seconds from the start, tokens in, tokens out) of each request."""


def batch_points(settings: EngineSettings, grid: Sequence[tuple[int, int, int]], repetitions: int) -> list[Point]:
    """Static batches: (requests at once, tokens in, tokens out), each some times over."""
    found = []
    for batch, tokens_in, tokens_out in grid:
        if batch > settings.max_num_seqs or tokens_in + tokens_out > settings.max_model_len:
            continue
        for repetition in range(repetitions):
            asked = {"batch": batch, "input_len": tokens_in, "output_len": tokens_out, "repetition": repetition}
            found.append(Point("engine_batch", {**settings.columns(), **asked}))
    return found


def load_points(
    settings: EngineSettings, rates: Sequence[float], requests: int, lengths: tuple[int, int]
) -> list[Point]:
    """Poisson arrivals at several rates, lengths up to half again as long as their mean. [1/s]"""
    if math.ceil(LENGTHS[1] * sum(lengths)) > settings.max_model_len:
        return []
    asked = {"requests": requests, "input_len": lengths[0], "output_len": lengths[1]}
    return [Point("engine_load", {**settings.columns(), "request_rate": rate, **asked}) for rate in rates]


def arrivals_of(point: Point) -> Arrivals:
    """The requests of a load, the same whenever they are drawn: the first at once, Poisson arrivals after it, lengths
    uniform within half of their mean."""
    draw, at, found = random.Random(_SEED), 0.0, []
    for _ in range(int(point.columns["requests"])):
        tokens_in, tokens_out = (
            max(_SHORTEST, round(int(point.columns[n]) * draw.uniform(*LENGTHS))) for n in ("input_len", "output_len")
        )
        found.append((at, tokens_in, tokens_out))
        at += draw.expovariate(float(point.columns["request_rate"]))
    return found


def write_plan(settings: EngineSettings, points: Sequence[Point]) -> str:
    """One engine's plan as text."""
    about = asdict(settings) | {"capture_sizes": list(settings.capture_sizes)}
    about |= {name: str(about[name]) for name in _FOLDERS if about[name]}
    return json.dumps({"settings": about, "points": [p.as_data() for p in points]})


def read_plan(text: str) -> tuple[EngineSettings, list[Point]]:
    """The engine's settings, and its points, of a plan."""
    data = json.loads(text)
    about: dict[str, Any] = data["settings"]
    about |= {name: Path(about[name]) for name in _FOLDERS if about[name]}
    return EngineSettings(**about), [Point.of(point) for point in data["points"]]
