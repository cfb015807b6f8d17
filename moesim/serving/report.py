"""What a run under load gave: latencies, throughput, occupancy, and a sample of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from moesim.engines.request import Request
from moesim.engines.scheduling import Scheduler, Step
from moesim.metrics import time_per_token
from moesim.serving.measures import Distribution, OverTime, Sample
from moesim.steps.table import Composition

Array = np.ndarray[Any, Any]

_NOTICEABLE = 0.01
_LEAST_ANSWERS, _GROWING = 32, 1.25
"""Answers of an era that say something, and its latency over that of the era before where a queue grows."""


class Slo(NamedTuple):
    """What an answer must keep to count as good. [s]"""

    ttft_s: float = float("inf")
    tpot_s: float = float("inf")
    e2el_s: float = float("inf")

    def kept(self, ttft_s: float, tpot_s: float, e2el_s: float) -> bool:
        return ttft_s <= self.ttft_s and tpot_s <= self.tpot_s and e2el_s <= self.e2el_s


NO_SLO = Slo()


class Timeline(Protocol):
    """Draws a run: told of every step and every answer."""

    def step(self, replica: int, step: Step, start_s: float, end_s: float) -> None: ...

    def answer(self, request: Request) -> None: ...


@dataclass
class LoadReport:
    """Filled while a run goes on; memory does not grow with it."""

    slo: Slo = NO_SLO
    timeline: Timeline | None = None
    arrivals_set_pace: bool = False
    """Requests come at times of their own."""
    ttft: Distribution = field(default_factory=Distribution)
    tpot: Distribution = field(default_factory=Distribution)
    itl: Distribution = field(default_factory=Distribution)
    e2el: Distribution = field(default_factory=Distribution)
    answered: int = 0
    good: int = 0
    """Answers that kept the SLO."""
    input_tokens: int = 0
    output_tokens: int = 0
    duration_s: float = 0.0
    first_sent_s: float = float("inf")
    last_sent_s: float = 0.0
    closed_s: float = 0.0
    """When the last answer was there."""
    eras: dict[int, list[Any]] = field(default_factory=dict)
    """[answers, sum of their end-to-end latencies] of the first answer, the next two, the next four, ..."""
    steps: int = 0
    busy_s: float = 0.0
    """Of each engine, the time with a step under way, added up over engines; steps in a pipeline overlap."""
    _busy_until_s: dict[int, float] = field(default_factory=dict)
    """By engine."""
    preemptions: int = 0
    cached_tokens: int = 0
    blocked: int = 0
    """Steps that kept a request waiting because the cache was full."""
    kv_used: OverTime = field(default_factory=OverTime)
    waiting: OverTime = field(default_factory=OverTime)
    running: OverTime = field(default_factory=OverTime)
    decode_steps: Sample = field(default_factory=Sample)
    mixed_steps: Sample = field(default_factory=Sample)
    """Steps with prompt tokens among them."""
    decode_s: float = 0.0
    mixed_s: float = 0.0
    tokens_under: dict[str, int] = field(default_factory=dict)
    """Output tokens by what a policy had them pass."""
    parked_s: float = 0.0
    wakes: int = 0
    """Time in which GPUs were given up, and how often they were taken back."""

    @property
    def every_step(self) -> bool:
        """Whether steps must be shown one by one."""
        return self.timeline is not None

    @property
    def cache_limited(self) -> bool:
        """Whether requests waited for the cache, not only for a step or a seat."""
        return self.preemptions > 0 or self.blocked > _NOTICEABLE * self.steps

    @property
    def engine_share(self) -> float:
        """Of the duration, how much a slower or faster engine would stretch.

        All of it in a closed loop, or where requests come faster than they are answered (later ones wait longer and
        longer); else what passes after the last arrival, and an answer's own time at least.
        """
        if not self.arrivals_set_pace or not self.duration_s:
            return 1.0
        eras = [total / count for count, total in self.eras.values() if count >= _LEAST_ANSWERS]
        if len(eras) > 1 and eras[-1] > _GROWING * eras[-2]:
            return 1.0
        return min(max(self.closed_s - self.last_sent_s, self.e2el.mean) / self.duration_s, 1.0)

    def add(self, other: LoadReport, times: int = 1) -> None:
        """Count another engine's run to this one, ``times`` engines alike."""
        for name in ("ttft", "tpot", "itl", "e2el"):
            getattr(self, name).add_from(getattr(other, name), times)
        for name in ("answered", "good", "input_tokens", "output_tokens", "steps", "preemptions", "cached_tokens",
                     "blocked", "busy_s", "decode_s", "mixed_s"):  # fmt: skip
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for name in ("kv_used", "waiting", "running"):
            getattr(self, name).add_from(getattr(other, name), times, shared=name == "kv_used")
        for name in ("decode_steps", "mixed_steps"):
            getattr(self, name).add_from(getattr(other, name))
        for name, tokens in other.tokens_under.items():
            self.tokens_under[name] = self.tokens_under.get(name, 0) + times * tokens
        self.parked_s, self.wakes = self.parked_s + times * other.parked_s, self.wakes + times * other.wakes
        for era, (count, total) in other.eras.items():
            mine = self.eras.setdefault(era, [0, 0.0])
            mine[0] += times * count
            mine[1] += times * total
        self.duration_s = max(self.duration_s, other.duration_s)
        self.closed_s, self.last_sent_s = max(self.closed_s, other.closed_s), max(self.last_sent_s, other.last_sent_s)
        self.first_sent_s = min(self.first_sent_s, other.first_sent_s)

    def tokens_out(self, step: Step, now: float) -> None:
        """The tokens of a step reach their clients."""
        self._tokens_reach([request for request, _, _, samples, *_ in step.parts if samples], now, now)

    def _tokens_reach(self, requests: Sequence[Request], first_s: float, last_s: float) -> None:
        """Each request's next token comes at ``first_s``, and its last one so far at ``last_s``."""
        gaps: dict[float, int] = {}
        for request in requests:
            if request.first_token_s < 0:
                request.first_token_s = first_s
            else:
                gap = first_s - request.last_token_s
                gaps[gap] = gaps.get(gap, 0) + 1
            request.last_token_s = last_s
        for gap, times in gaps.items():
            self.itl.add(gap, times)

    def answer(self, request: Request) -> None:
        """A request has its last token."""
        ttft = request.first_token_s - request.sent_s
        e2el = request.last_token_s - request.sent_s
        self.ttft.add(ttft)
        self.e2el.add(e2el)
        tpot = 0.0
        if request.output_len > 1:
            tpot = time_per_token(e2el, ttft, request.output_len)
            self.tpot.add(tpot)
        self.last_sent_s = max(self.last_sent_s, request.sent_s)
        era = self.eras.setdefault((self.answered + 1).bit_length(), [0, 0.0])
        era[0] += 1
        era[1] += e2el
        self.good += self.slo.kept(ttft, tpot, e2el)
        self.answered += 1
        self.input_tokens += request.prompt_len
        self.output_tokens += request.output_len
        self.first_sent_s = min(self.first_sent_s, request.sent_s)
        if self.timeline:
            self.timeline.answer(request)

    def step(
        self, steps: Sequence[Step], compositions: Sequence[Composition], start_s: float, end_s: float, engine: int = 0
    ) -> None:
        """A step has ended on every replica of an engine, of those that run apart."""
        busiest = max(compositions, key=lambda c: (len(c.prefills), c.decodes))
        if busiest.prefills:
            self.mixed_steps.offer(busiest)
            self.mixed_s += end_s - start_s
        else:
            self.decode_steps.offer(busiest)
            self.decode_s += end_s - start_s
        self.steps += 1
        self._busy(start_s, end_s, engine)
        if self.timeline:
            for replica, step in enumerate(steps):
                self.timeline.step(replica, step, start_s, end_s)

    def stretch(
        self, running: Sequence[Request], middle: Composition, start_s: float, times: Array, ends: Array
    ) -> None:
        """Decode steps of the same requests, ending at ``ends``; each gives every one of them tokens."""
        count, seconds = len(running), float(ends[-1]) - start_s
        self._tokens_reach(running, float(ends[0]), float(ends[-1]))
        self.itl.add_all(np.diff(ends), count)
        self.decode_steps.offer(middle, len(times))
        self.decode_s += seconds
        self.steps += len(times)
        self._busy(start_s, float(ends[-1]))

    def _busy(self, start_s: float, end_s: float, engine: int = 0) -> None:
        before = self._busy_until_s.get(engine, 0.0)
        self.busy_s += max(end_s - max(start_s, before), 0.0)
        self._busy_until_s[engine] = max(before, end_s)

    def hold(self, seconds: float, schedulers: Sequence[Scheduler]) -> None:
        """What engines hold, for so long."""
        self.kv_used.hold(sum(s.blocks.used_share for s in schedulers) / len(schedulers), seconds)
        self.waiting.hold(sum(len(s.waiting) for s in schedulers), seconds)
        self.running.hold(sum(len(s.running) for s in schedulers), seconds)

    def close(self, now: float, schedulers: Sequence[Scheduler]) -> None:
        self.closed_s = now
        self.duration_s = now - (self.first_sent_s if self.answered else 0.0)
        self.preemptions = sum(s.preemptions for s in schedulers)
        self.blocked = sum(s.blocked for s in schedulers)
        self.cached_tokens = sum(s.cached_tokens for s in schedulers)
