"""A run under load, step by step: clients send, the scheduler composes, the cost model says how long.

The clock of an engine: up to ``depth`` steps are under way (one; one more when scheduled ahead; one more a pipeline
stage). A step is composed as soon as a place is free, of the requests that have arrived by then; it enters the GPUs
when they are free, and its tokens reach their clients when it ends.

Stretches in which nothing can change but contexts (all requests decode, none can join or end) are priced in one go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from moesim.engines.request import Request
from moesim.engines.scheduling import Scheduled, Scheduler, Step
from moesim.errors import SpecError
from moesim.serving.report import LoadReport
from moesim.steps.table import Composition, StepPrices, StepTime

_SHORTEST_STRETCH = 3
_LONGEST_STRETCH = 4096
_PROGRESS_EVERY = 256


@dataclass(frozen=True)
class FrontEnd:
    """What a request passes before the scheduler sees it: a server that reads prompts one after the other. [s]"""

    request_s: float = 0.0
    """Of every request: network, parsing, streaming the first token back. Passed side by side."""
    prompt_token_s: float = 0.0
    """Of every prompt token: turning text into numbers. One prompt at a time."""
    image_s: float = 0.0
    """Of every image: decoding, resizing and cutting it. One at a time."""

    def reading_s(self, text: float, images: int) -> float:
        """A prompt's turn: of so many tokens of text, and images. [s]"""
        return self.prompt_token_s * text + self.image_s * images


class Clients:
    """Sends requests, each when its time has come and, where ``concurrency`` limits them, a place is free."""

    def __init__(self, requests: Iterator[Request], concurrency: int | None, front: FrontEnd):
        self._requests = requests
        self._places: deque[float] | None = None if concurrency is None else deque([0.0] * concurrency)
        """Since when each free place is free. [s]"""
        self._front = front
        self._reader_free_s = 0.0
        self._next: Request | None = next(requests, None)
        self._ready: deque[tuple[float, Request]] = deque()

    def answered(self, now: float) -> None:
        """A request is done: its place is free."""
        if self._places is not None:
            self._places.append(now)

    def arrived(self, now: float) -> Iterator[Request]:
        """Requests that have reached the scheduler by ``now``."""
        while self._next is not None and self._next_sent_s <= now:
            request = self._next
            request.sent_s = self._next_sent_s
            if self._places is not None:
                self._places.popleft()
            self._reader_free_s = max(self._reader_free_s, request.sent_s)
            text = request.prompt_len - request.images * request.image_tokens
            self._reader_free_s += self._front.reading_s(text, request.images)
            self._ready.append((self._reader_free_s + self._front.request_s, request))
            self._next = next(self._requests, None)
        while self._ready and self._ready[0][0] <= now:
            yield self._ready.popleft()[1]

    @property
    def _next_sent_s(self) -> float:
        if self._next is None or (self._places is not None and not self._places):
            return float("inf")
        return max(self._next.sent_s, self._places[0] if self._places else 0.0)

    @property
    def next_arrival_s(self) -> float:
        """When the next request reaches the scheduler, as far as it does not hang on an answer. [s]"""
        ready = self._ready[0][0] if self._ready else float("inf")
        return min(ready, self._next_sent_s)


@dataclass(slots=True)
class Gpus:
    """When the stages of an engine can take a step, and when the last one taken ends. [s]"""

    entry_free_s: float = 0.0
    last_end_s: float = 0.0

    def take(self, now: float, time: StepTime) -> tuple[float, float]:
        """(start, end) of a step composed at ``now``."""
        start = max(now, self.entry_free_s)
        self.entry_free_s = start + float(time.slowest)
        self.last_end_s = max(start + float(time.through), self.last_end_s + float(time.slowest))
        return start, self.last_end_s


@dataclass(slots=True)
class _Flight:
    """A step under way on every replica."""

    steps: list[Step]
    compositions: list[Composition]
    start_s: float
    end_s: float


@runtime_checkable
class QueuePrices(Protocol):
    """Prices that hang on how many requests wait."""

    waiting: int

    def time(self, replicas: Sequence[Composition]) -> StepTime: ...

    def count(self, tokens: int) -> None: ...


class Simulation:
    """One engine (its data-parallel replicas in lockstep) and its clients.

    Parameters
    ----------
    schedulers : list of Scheduler
        One a data-parallel replica.
    prices : StepPrices
    clients : Clients
    report : LoadReport
        Takes down what happens.
    """

    def __init__(
        self, schedulers: list[Scheduler], prices: StepPrices, clients: Clients, report: LoadReport,
        sleep: tuple[float, float] | None = None,
    ):  # fmt: skip
        self._schedulers = schedulers
        self._sleep = sleep
        """(idle time after which GPUs are given up, time that coming back takes); None is never. [s]"""
        self._prices = prices
        self._by_queue = prices if isinstance(prices, QueuePrices) else None
        self._clients = clients
        self._depth = schedulers[0].limits.depth
        self._report = report
        self._now = 0.0
        self._gpus = Gpus()
        self._flights: deque[_Flight] = deque()

    def run(self, progress: Callable[[int], None] | None = None) -> LoadReport:
        """Until the last request is answered."""
        rounds = 0
        while True:
            self._deliver()
            self._skip_ahead()
            self._deliver()
            if len(self._flights) < self._depth and self._compose() and len(self._flights) < self._depth:
                continue
            if not self._flights:
                if any(scheduler.draining for scheduler in self._schedulers):
                    # An engine goes on asking until its pipeline has handed the last tokens back.
                    continue
                upcoming = self._clients.next_arrival_s
                if upcoming == float("inf"):
                    break
                self._now = self._woken(max(self._now, upcoming))
                continue
            self._land()
            rounds += 1
            if progress and rounds % _PROGRESS_EVERY == 0:
                progress(self._report.answered)
        refuse_stuck(self._schedulers)
        self._report.close(self._now, self._schedulers)
        return self._report

    def _woken(self, upcoming: float) -> float:
        """When an engine that had nothing to do until ``upcoming`` can begin: later where it has to wake up. [s]"""
        if self._sleep is None or not self._report.answered:
            return upcoming
        after, wake = self._sleep
        parked = upcoming - self._now - after
        if parked <= 0:
            return upcoming
        self._report.parked_s += parked
        self._report.wakes += 1
        return upcoming + wake

    def _deliver(self) -> None:
        for request in self._clients.arrived(self._now):
            least = min(self._schedulers, key=lambda s: len(s.waiting) + len(s.running))
            least.add(request)

    def _compose(self) -> bool:
        """Schedule a step on every replica; False if there is nothing to do."""
        steps = [scheduler.schedule() for scheduler in self._schedulers]
        if not any(step.parts for step in steps):
            return False
        compositions = [composition(step) for step in steps]
        self._look_at_queue(sum(c.sampled for c in compositions))
        time = self._prices.time([c for c in compositions if c.tokens])
        start, end = self._gpus.take(self._now, time)
        self._flights.append(_Flight(steps, compositions, start, end))
        return True

    def _look_at_queue(self, tokens: int) -> None:
        """Prices that hang on how many wait are told, and what they price is counted."""
        if self._by_queue is not None:
            self._by_queue.waiting = sum(len(s.waiting) for s in self._schedulers)
            self._by_queue.count(tokens)

    def _land(self) -> None:
        """The oldest step ends: tokens come out, answered clients send again."""
        flight = self._flights.popleft()
        self._now = flight.end_s
        for scheduler, step in zip(self._schedulers, flight.steps, strict=True):
            finished = scheduler.update(step)
            self._report.tokens_out(step, self._now)
            for request in finished:
                self._report.answer(request)
                self._clients.answered(self._now)
        self._ended(flight)

    def _ended(self, flight: _Flight) -> None:
        self._report.step(flight.steps, flight.compositions, flight.start_s, flight.end_s)
        self._report.hold(flight.end_s - flight.start_s, self._schedulers)

    def _skip_ahead(self) -> None:
        """Price a stretch of equal decode steps at once, and leave its last one under way."""
        if len(self._schedulers) > 1 or len(self._flights) != self._depth - 1 or self._depth > 2:
            return
        scheduler, ahead = self._schedulers[0], self._depth - 1
        running = scheduler.running
        seats = len(running) < scheduler.limits.max_num_seqs
        if not running or self._report.every_step or (scheduler.waiting and seats and not scheduler.stalled):
            return
        if ahead and not self._only_decodes(running):
            return
        drafts = len(scheduler.limits.kept)
        under_way, left = ahead * (1 + drafts), _NEVER
        for request in running:
            if request.computed != request.known + under_way - 1 or request.placeholders != under_way:
                return
            left = min(left, request.output_len - request.emitted - under_way)
        given = scheduler.rounds(running, min(left - 1, _LONGEST_STRETCH)) if drafts else None
        steps = min(left - 1, _LONGEST_STRETCH) if given is None else len(given)
        if steps < _SHORTEST_STRETCH:
            return
        count = len(running)
        first = sum(request.computed for request in running) / count
        contexts = first + (np.arange(steps) if given is None else np.append(0.0, given[:-1].mean(1)))
        alike = Composition((), count, contexts, count, count * drafts)
        # A queue stays as long as it is while none can join or end.
        self._look_at_queue(0)
        times = np.asarray(self._prices.time([alike]).through, float)
        start = self._gpus.entry_free_s if ahead else max(self._now, self._gpus.entry_free_s)
        ends = start + np.cumsum(times)
        if seats:
            composed_at = np.concatenate([[self._now], [start] if ahead else [], ends])[:steps]
            steps = int(np.searchsorted(composed_at, self._clients.next_arrival_s))
        if steps < _SHORTEST_STRETCH:
            return
        grown = [steps] * count
        if given is not None:
            grown = (given[steps - 1] if ahead else given[steps - 2] + 1 + drafts).tolist()
        if self._grow(running, grown):
            self._look_at_queue(count * steps)
            alike = alike._replace(context=contexts[:steps])
            self._stretch(running, grown, alike, start, times[:steps], ends[:steps])

    def _only_decodes(self, running: list[Request]) -> bool:
        parts, drafts = self._flights[0].steps[0].parts, len(self._schedulers[0].limits.kept)
        return len(parts) == len(running) and all(
            part.request is request and part.samples and part.tokens == 1 + drafts and part.drafts == drafts
            for part, request in zip(parts, running, strict=True)
        )

    def _grow(self, running: list[Request], more: list[int]) -> bool:
        blocks, lookahead = self._schedulers[0].blocks, self._schedulers[0].limits.lookahead
        wanted = [(r, r.computed + n + lookahead) for r, n in zip(running, more, strict=True)]
        growing = [(request, tokens) for request, tokens in wanted if tokens > request.room]
        if growing and not blocks.room_for(growing):
            return False
        for request, tokens in growing:
            blocks.grow(request, tokens)
        return True

    def _stretch(
        self, running: list[Request], grown: list[int], alike: Composition, start: float, times: Any, ends: Any
    ) -> None:
        """Apply a stretch of decode steps: those that end are taken down, the last one stays under way."""
        scheduler, ahead = self._schedulers[0], self._depth - 1
        a_round = 1 + len(scheduler.limits.kept)
        # The last one is not over yet; ahead, the one that was under way is.
        rounds = len(times) if ahead else len(times) - 1
        for request, more in zip(running, grown, strict=True):
            request.computed += more
            request.rounds += rounds
            request.emitted += more if ahead else more - a_round
            if request.computed - a_round >= request.next_full:
                scheduler.blocks.commit(request, request.computed - a_round)
        landed = self._flights.pop() if ahead else None
        if landed:
            self._report.tokens_out(landed.steps[0], landed.end_s)
            self._ended(landed)
        contexts = alike.context
        middle = (contexts[0] + contexts[-2] + 1) / 2
        self._report.stretch(running, alike._replace(context=middle), start, times[:-1], ends[:-1])
        self._report.hold(float(ends[-2]) - start, self._schedulers)
        before = float(ends[-2])
        last = alike._replace(context=contexts[-1])
        parts = [Scheduled(r, a_round, r.computed - a_round, True, a_round - 1) for r in running]
        self._now = before
        self._gpus = Gpus(float(ends[-1]), float(ends[-1]))
        self._flights.append(_Flight([Step(parts)], [last], before, float(ends[-1])))


_NEVER = 1 << 60


def refuse_stuck(schedulers: Sequence[Scheduler]) -> None:
    """Raise SpecError where a request is left that no cache will ever hold."""
    stuck = next((s for s in schedulers if s.busy), None)
    if stuck is not None:
        request = (stuck.waiting or stuck.running)[0]
        raise SpecError(
            f"a request of {request.prompt_len} prompt and {request.output_len} output tokens never fits into the "
            "KV cache; lower max_model_len, or make room for the cache"
        )


def composition(step: Step) -> Composition:
    """What a step's parts add up to."""
    prefills: list[tuple[int, int]] = []
    decodes = sampled = checked = 0
    context = 0
    images = 0
    for request, tokens, past, samples, drafts, encoded in step.parts:
        sampled += samples
        images += encoded
        if tokens - drafts == 1 and past >= request.prompt_len:
            decodes += 1
            checked += drafts
            context += past
        else:
            prefills.append((tokens, past))
    return Composition(tuple(prefills), decodes, context / decodes if decodes else 0.0, sampled, checked, images)
