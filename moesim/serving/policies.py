"""Policies under load, in the simulator: steps priced by the queue, a second engine beside, an engine that sleeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from moesim.engines.request import Request
from moesim.serving.disaggregated import Instance
from moesim.serving.report import LoadReport
from moesim.serving.simulation import Clients, refuse_stuck
from moesim.steps.table import Composition, StepPrices, StepTime

_PROGRESS_EVERY = 1024


@dataclass
class ByQueue:
    """Prices that hang on how many requests wait: tokens pass fewer experts while a queue is long."""

    full: StepPrices
    fewer: Sequence[tuple[int, int, StepPrices]]
    """(above how many waiting, experts a token, prices), by rising queue."""
    experts: int
    """Of a token where no queue is long."""
    waiting: int = 0
    tokens: dict[int, int] = field(default_factory=dict)
    """Output tokens by the experts that each passed."""

    def _now(self) -> tuple[int, StepPrices]:
        found = (self.experts, self.full)
        for above, experts, prices in self.fewer:
            if self.waiting > above:
                found = (experts, prices)
        return found

    def time(self, replicas: Sequence[Composition]) -> StepTime:
        return self._now()[1].time(replicas)

    def count(self, tokens: int) -> None:
        """Output tokens of a step that was priced now."""
        experts = self._now()[0]
        self.tokens[experts] = self.tokens.get(experts, 0) + tokens


@dataclass(frozen=True)
class Sleep:
    """When an engine gives its GPUs up, and what coming back takes. [s]"""

    after_s: float
    wake_s: float


class Beside:
    """An engine, another model's engine that takes what comes while the first is full, and their clients."""

    def __init__(self, own: Instance, other: Instance, above: int, clients: Clients, report: LoadReport):
        self._own, self._other, self._above = own, other, above
        self._clients, self._report = clients, report
        self._elsewhere: set[int] = set()

    def run(self, progress: Callable[[int], None] | None = None) -> LoadReport:
        """Until the last request is answered."""
        engines, now, rounds = [self._own, self._other], 0.0, 0
        schedulers = [engine.scheduler for engine in engines]
        while True:
            for request in self._clients.arrived(now):
                self._place(request, now)
            for engine in engines:
                engine.compose(now)
            upcoming = min(self._clients.next_arrival_s, *(engine.next_s for engine in engines))
            if upcoming == float("inf"):
                break
            self._report.hold(max(upcoming - now, 0.0), schedulers)
            now = max(now, upcoming)
            for engine in engines:
                while engine.flights and engine.flights[0][3] <= now:
                    self._land(engine)
            rounds += 1
            if progress and rounds % _PROGRESS_EVERY == 0:
                progress(self._report.answered)
        refuse_stuck(schedulers)
        self._report.close(now, schedulers)
        return self._report

    def _place(self, request: Request, now: float) -> None:
        full = self._own.load > self._above
        if full:
            self._elsewhere.add(request.number)
        (self._other if full else self._own).arrive(now, request)

    def _land(self, engine: Instance) -> None:
        step, held, start, end = engine.flights.popleft()
        finished = engine.scheduler.update(step)
        self._report.tokens_out(step, end)
        for request in finished:
            self._report.answer(request)
            self._clients.answered(end)
            name = "fallback" if request.number in self._elsewhere else "own"
            self._report.tokens_under[name] = self._report.tokens_under.get(name, 0) + request.output_len
        if engine is self._own:
            self._report.step([step], [held], start, end)
