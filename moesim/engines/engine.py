"""A serving engine of a version: what every other part of moesim asks of it.

An engine is a file (``calibration/engines/<name>/<version>.yaml``: numbers with sources) and, where it composes steps
in its own way, a folder beside this module. Nothing outside ``engines`` knows which one runs.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from moesim import paths
from moesim.engines.file import EngineFile
from moesim.engines.settings import EngineSettings
from moesim.errors import SpecError
from moesim.files.validation import read_as


@dataclass(frozen=True)
class Limits:
    """Engine settings with the version's defaults filled in."""

    max_num_batched_tokens: int
    max_num_seqs: int
    gpu_memory_utilization: float
    block_size: int
    eager: bool
    captured_tokens: int
    """The largest step that runs as a CUDA graph; 0 is none."""
    async_scheduling: bool


@dataclass(frozen=True, eq=False)
class Engine:
    """One version of an engine. Equal and hashed by name, version and the version asked for."""

    file: EngineFile
    asked: str
    """The version a scenario named."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Engine) and (self.file.key, self.asked) == (other.file.key, other.asked)

    def __hash__(self) -> int:
        return hash((self.file.key, self.asked))

    @property
    def title(self) -> str:
        return f"{self.file.name} {self.file.version}"

    @property
    def stands_in(self) -> bool:
        """Whether this version stands in for another, which no file describes."""
        return self.asked not in self.file.stands_for

    def limits(self, settings: EngineSettings, memory_bytes: float, compute_capability: str) -> Limits:
        """A scenario's settings, what it leaves out as this version has it on such a GPU."""
        defaults = self.file.defaults
        large = memory_bytes >= defaults.large_gpu_from and compute_capability not in defaults.never_large

        def given(value: Any, default: Any) -> Any:
            return default if value is None else value

        tokens = defaults.max_num_batched_tokens.large_gpu if large else defaults.max_num_batched_tokens.other_gpu
        if settings.all2all_backend == "deepep_low_latency":
            # Its kernels have room for few tokens.
            tokens = int(self.file.exchange.low_latency_tokens.value)
        tokens = given(settings.max_num_batched_tokens, tokens)
        seqs = defaults.max_num_seqs.large_gpu if large else defaults.max_num_seqs.other_gpu
        waits_for_host = (
            settings.all2all_backend == "deepep_high_throughput"
            and settings.enable_expert_parallel
            and settings.data_parallel_size > 1
        )
        eager = settings.enforce_eager or waits_for_host
        captured = given(settings.max_cudagraph_capture_size, self.file.graphs.largest)
        return Limits(
            tokens,
            min(given(settings.max_num_seqs, seqs), tokens),
            given(settings.gpu_memory_utilization, defaults.gpu_memory_utilization),
            given(settings.block_size, defaults.block_size),
            eager,
            0 if eager else captured,
            given(settings.async_scheduling, defaults.async_scheduling),
        )

    def padded_tokens(self, tokens: Any, captured: int) -> Any:
        """Rows a step is padded to: the next captured size, up to the largest one; 0 is no graph at all."""
        if not captured:
            return tokens
        sizes = _graph_sizes(self, captured)
        if isinstance(tokens, int):
            place = int(sizes.searchsorted(tokens))
            return int(sizes[place]) if place < len(sizes) else tokens
        index = np.searchsorted(sizes, tokens)
        return np.where(index < len(sizes), sizes[np.minimum(index, len(sizes) - 1)], tokens)

    def usable_bytes(self, total_bytes: float, utilization: float) -> float:
        """Memory the engine may fill: its share of the GPU, and no more than is left beside the CUDA context. [B]"""
        return min(utilization * total_bytes, total_bytes - self.file.reserves.cuda_context.value)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        if not self.stands_in:
            return ()
        return (f"engine: {self.file.name} {self.asked} is not described; {self.file.version} stands in",)


@lru_cache(maxsize=64)
def _graph_sizes(engine: Engine, captured: int) -> np.ndarray[Any, Any]:
    return engine.file.graphs.sizes(captured)


@lru_cache(maxsize=1)
def engine_files() -> dict[str, dict[str, EngineFile]]:
    """Shipped files by engine and version, each engine's newest last."""
    found: dict[str, dict[str, EngineFile]] = {}
    for path in sorted(paths.ENGINES.glob("*/*.yaml")):
        file = read_as(EngineFile, path)[0]
        found.setdefault(file.name, {})[file.version] = file
    return {name: dict(sorted(of.items(), key=lambda item: _number(item[0]))) for name, of in found.items()}


def _number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


@lru_cache(maxsize=64)
def load_engine(name: str = "vllm", version: str | None = None) -> Engine:
    """An engine by name and version; null is its newest file.

    Raises
    ------
    SpecError
        An engine without a file, or a version that no file describes or stands in for.
    """
    files = engine_files()
    if name not in files:
        near = difflib.get_close_matches(name, list(files), 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(files)}"
        raise SpecError(f"there is no engine '{name}'; {hint}")
    versions = files[name]
    if version is None:
        newest = next(reversed(versions.values()))
        return Engine(newest, newest.version)
    for file in versions.values():
        if version in file.stands_for:
            return Engine(file, version)
    known = ", ".join(v for file in versions.values() for v in file.stands_for)
    if not re.fullmatch(r"\d+(\.\d+){0,3}", version):
        raise SpecError(f"'{version}' is no version of {name}; a number like '0.24' is; known: {known}")
    wanted = _number(version)
    nearest = min(versions.values(), key=lambda file: _distance(wanted, _number(file.version)))
    if nearest.other_versions == "refused":
        raise SpecError(f"{name} {version} is not known; known: {known}")
    return Engine(nearest, version)


def _distance(a: list[int], b: list[int]) -> float:
    """How far apart two versions are, the first number counting most."""
    one, other = (sum(part / 1000**i for i, part in enumerate(version)) for version in (a, b))
    return abs(one - other)
