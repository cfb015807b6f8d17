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
from moesim.errors import Problem, SpecError
from moesim.files import yaml
from moesim.files.document import Document
from moesim.files.validation import validated


@dataclass(frozen=True)
class Limits:
    """Engine settings with the version's defaults filled in."""

    max_num_batched_tokens: int
    max_num_seqs: int
    gpu_memory_utilization: float
    block_size: int
    captured_tokens: int
    """The largest step that runs as a CUDA graph; 0 is none."""
    async_scheduling: bool


@dataclass(frozen=True, eq=False)
class Engine:
    """One version of an engine. Equal and hashed by name, version and the version asked for."""

    file: EngineFile
    asked: str
    """The version a scenario named."""
    oldest: str
    newest: str
    """The first and the last version that a file begins with."""
    note: str = ""
    """What to know about the choice of the version."""

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
        asked, known = _number(self.asked), _number(self.newest)
        return asked[:2] > known[:2] or asked < _number(self.oldest)

    def limits(self, settings: EngineSettings, memory_bytes: float, compute_capability: str) -> Limits:
        """A scenario's settings, what it leaves out as this version has it on such a GPU."""
        defaults = self.file.defaults
        large = memory_bytes >= defaults.large_gpu_from and compute_capability not in defaults.never_large

        def given(value: Any, default: Any) -> Any:
            return default if value is None else value

        sizes = defaults.max_num_batched_tokens
        tokens = sizes.large_gpu if large else sizes.other_gpu
        if sizes.huge_gpu and defaults.huge_gpu_from and memory_bytes >= defaults.huge_gpu_from:
            tokens = sizes.huge_gpu
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
        # Shapes that hang on the routing are in no graph.
        by_routing = settings.moe_dispatch == "looped" and settings.moe_loop_rows == "own"
        eager = settings.enforce_eager or waits_for_host or by_routing
        captured = given(settings.max_cudagraph_capture_size, self.file.graphs.largest_for(compute_capability))
        return Limits(
            tokens,
            min(given(settings.max_num_seqs, seqs), tokens),
            given(settings.gpu_memory_utilization, defaults.gpu_memory_utilization),
            given(settings.block_size, defaults.block_size),
            0 if eager or settings.cudagraph_mode == "none" else captured,
            self._ahead(settings),
        )

    def _ahead(self, settings: EngineSettings) -> bool:
        """Whether steps are composed ahead."""
        asked, usual, drafts = settings.async_scheduling, self.file.defaults.async_scheduling, settings.drafts
        if drafts is not None:
            return self.file.speculation.runs_ahead(drafts.method, asked, usual)
        return usual if asked is None else asked

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
        found = (self.note,) if self.note else ()
        if self.stands_in:
            found += (f"engine: {self.file.name} {self.asked} is not described; {self.file.version} stands in",)
        return found


@lru_cache(maxsize=64)
def _graph_sizes(engine: Engine, captured: int) -> np.ndarray[Any, Any]:
    return engine.file.graphs.sizes(captured)


@lru_cache(maxsize=8)
def versions_of(name: str) -> tuple[str, ...]:
    """Versions that a file begins with, the newest last."""
    return tuple(sorted((path.stem for path in (paths.ENGINES / name).glob("*.yaml")), key=_number))


def engine_names() -> list[str]:
    return sorted(path.name for path in paths.ENGINES.iterdir() if path.is_dir())


@lru_cache(maxsize=32)
def engine_file(name: str, version: str) -> EngineFile:
    """The file of a version, what it leaves out taken from the one it is like. Raises SpecError."""
    document = yaml.read(paths.ENGINES / name / f"{version}.yaml")
    found, problems = validated(EngineFile, _whole(name, document, (version,)), document)
    if found is not None and found.version != version:
        problems = [Problem(f"says it is version {found.version}", document.where(("version",)))]
        found = None
    if found is None:
        raise SpecError(problems)
    return found


def _whole(name: str, document: Document, seen: tuple[str, ...]) -> dict[str, Any]:
    """What a file says over what the one it is like says, and so on."""
    like = document.data.get("like")
    if like is None:
        return document.data
    if like in seen or like not in versions_of(name):
        known = ", ".join(version for version in versions_of(name) if version not in seen)
        message = f"'like': '{like}' is no other version's file; {known} are"
        raise SpecError([Problem(message, document.where(("like",)))])
    base = yaml.read(paths.ENGINES / name / f"{like}.yaml")
    return _over(_whole(name, base, (*seen, like)), document.data)


def _over(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """``base`` with what ``more`` says instead, map by map; a list or a value is replaced whole."""
    merged = dict(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _over(base[key], value) if both else value
    return merged


def _number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


_NEWEST = ("latest", "nightly")


@lru_cache(maxsize=64)
def load_engine(name: str = "vllm", version: str | None = None) -> Engine:
    """An engine by name and version; null is its default version, ``latest`` and ``nightly`` the newest known.

    Raises
    ------
    SpecError
        An engine without a file, no version, or one that no file describes or stands in for.
    """
    if name not in engine_names():
        near = difflib.get_close_matches(name, engine_names(), 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(engine_names())}"
        raise SpecError(f"there is no engine '{name}'; {hint}")
    versions = versions_of(name)
    oldest, newest = versions[0], versions[-1]
    if version in _NEWEST:
        note = f"engine: {version} is taken as {name} {newest}, the newest that is described"
        return Engine(engine_file(name, newest), newest, oldest, newest, note)
    asked = version or str(yaml.read(paths.ENGINES / "defaults.yaml").data[name])
    asked = asked.removeprefix("v")
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}((\.post|\.dev|rc)[0-9]{1,18})?", asked):
        raise SpecError(
            f"'{str(version)[:40]}' is no version of {name}; a number like '0.24', or one of {', '.join(_NEWEST)}, is; "
            f"described: {', '.join(versions)}"
        )
    wanted = _number(asked)
    before = [known for known in versions if _number(known) <= wanted] or [oldest]
    found = Engine(engine_file(name, before[-1]), asked, oldest, newest)
    if found.stands_in and found.file.other_versions == "refused":
        raise SpecError(f"{name} {asked} is not known; described: {', '.join(versions)}")
    return found
