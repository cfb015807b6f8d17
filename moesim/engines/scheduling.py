"""What every engine's scheduler takes and gives: limits, the parts of a step, requests waiting and running."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from moesim.engines.engine import Engine
from moesim.engines.kv_cache import Blocks
from moesim.engines.request import Request


@dataclass(frozen=True)
class SchedulerLimits:
    """Settings that decide what a step holds, under vLLM's names."""

    max_num_batched_tokens: int
    max_num_seqs: int
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    """Most prompt tokens of one request in a step; 0 is no such limit."""
    async_scheduling: bool = True
    max_model_len: int = 1 << 40
    """Prompt and output tokens of a request, at most."""
    scheduler_reserve_full_isl: bool = True
    """A request begins only if all its tokens so far would fit, not just its first chunk."""
    watermark: float = 0.0
    """Share of the cache that stays free when a request begins beside others."""
    pipeline_stages: int = 1
    kept: tuple[float, ...] = ()
    """Chance that at least the first, the first two, ... drafts of a round are kept; empty where none are drafted."""
    lookahead: int = 0
    """Tokens beyond a step's own that a request must have room for: a draft's later passes write there."""

    @property
    def depth(self) -> int:
        """Steps under way at once: one a pipeline stage, one more when scheduled ahead."""
        return self.pipeline_stages + self.async_scheduling


class Scheduled(NamedTuple):
    """A request's part in a step."""

    request: Request
    tokens: int
    past: int
    """Its tokens computed before."""
    samples: bool
    """Whether an output token comes out."""
    drafts: int = 0
    """Of its tokens, those drafted."""
    images: int = 0
    """That are encoded for it first."""


@dataclass(slots=True)
class Step:
    """What one engine step computes."""

    parts: list[Scheduled] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)


class Scheduler(Protocol):
    """Composes steps of the requests on one engine."""

    limits: SchedulerLimits
    blocks: Blocks
    waiting: deque[Request]
    running: list[Request]
    stalled: bool
    """The last step left a request waiting for the cache, and nothing has ended since."""
    preemptions: int
    blocked: int
    """Steps that kept a request waiting because the cache was full."""
    cached_tokens: int
    """Prompt tokens found in the cache instead of computed."""

    def add(self, request: Request) -> None: ...

    @property
    def busy(self) -> bool: ...

    @property
    def draining(self) -> bool:
        """Whether a request waits for a pipeline to hand its last token back."""
        ...

    def rounds(self, running: list[Request], most: int) -> Any:
        """Tokens that each request has got after each of the rounds of drafts to come, as far as none can end."""
        ...

    def schedule(self) -> Step:
        """Compose the next step; what it computes counts as computed from here on."""
        ...

    def update(self, step: Step) -> list[Request]:
        """A step has ended: tokens come out, finished requests leave. Returns those."""
        ...


def scheduler_of(engine: Engine, limits: SchedulerLimits, blocks: Blocks) -> Scheduler:
    """The scheduler that an engine's version runs, with an empty cache."""
    variants = import_module(f"moesim.engines.{engine.file.name}").SCHEDULERS
    return variants[engine.file.scheduler](limits, blocks)
