"""Prefill and decode on engines of their own, with the prompt's keys and values sent between them (xPyD).

A prompt runs on a prefill engine until its first token would come out; its cache then crosses the network, one
transfer after the other from each engine, and the request joins a decode engine with all but its last prompt token
computed (as vLLM's NIXL connector does). The same scheduler and the same prices as on one engine.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from moesim.engines.request import Request
from moesim.engines.scheduling import Scheduler, Step
from moesim.serving.report import LoadReport
from moesim.serving.simulation import Clients, Gpus, composition, refuse_stuck
from moesim.steps.table import Composition, StepPrices

_PROGRESS_EVERY = 1024


@dataclass(frozen=True)
class Transfer:
    """How a prompt's keys and values travel."""

    bytes_per_token: float
    """On each GPU of a prefill engine. [B]"""
    bytes_per_s: float
    """From each GPU. [B/s]"""
    latency_s: float
    bytes_per_sequence: float = 0.0
    """States, whatever the prompt's length. [B]"""

    def seconds(self, tokens: int) -> float:
        sent = tokens * self.bytes_per_token + self.bytes_per_sequence
        return self.latency_s + sent / self.bytes_per_s


@dataclass(eq=False)
class Instance:
    """One engine: its scheduler, what its steps cost, and the steps under way."""

    scheduler: Scheduler
    prices: StepPrices
    flights: deque[tuple[Step, Composition, float, float]] = field(default_factory=deque)
    coming: list[tuple[float, int, Request]] = field(default_factory=list)
    gpus: Gpus = field(default_factory=Gpus)
    sender_free_s: float = 0.0

    @property
    def load(self) -> int:
        return len(self.scheduler.waiting) + len(self.scheduler.running) + len(self.coming)

    @property
    def next_s(self) -> float:
        """When something happens here next. [s]"""
        landing = self.flights[0][3] if self.flights else float("inf")
        arriving = (
            self.coming[0][0] if self.coming and len(self.flights) < self.scheduler.limits.depth else float("inf")
        )
        return min(landing, arriving)

    def arrive(self, at_s: float, request: Request) -> None:
        heapq.heappush(self.coming, (at_s, request.number, request))

    def compose(self, now: float) -> None:
        """Take in what has arrived and fill the places for steps under way."""
        while self.coming and self.coming[0][0] <= now:
            self.scheduler.add(heapq.heappop(self.coming)[2])
        while len(self.flights) < self.scheduler.limits.depth and self.scheduler.busy:
            step = self.scheduler.schedule()
            if not step.parts:
                if self.scheduler.draining and not self.flights:
                    continue
                return
            held = composition(step)
            self.flights.append((step, held, *self.gpus.take(now, self.prices.time([held]))))


class Disaggregated:
    """x prefill engines, y decode engines and their clients.

    Parameters
    ----------
    prefill, decode : list of Instance
    transfer : Transfer
    clients : Clients
    report : LoadReport
        Takes down what happens; its steps with prompts are the prefill engines', its others the decode engines'.
    """

    def __init__(
        self, prefill: list[Instance], decode: list[Instance], transfer: Transfer, clients: Clients, report: LoadReport
    ):
        self._prefill = prefill
        self._decode = decode
        self._transfer = transfer
        self._clients = clients
        self._report = report
        self._whole: dict[int, Request] = {}
        """Requests on prefill engines, by number: what their clients asked for."""

    def run(self, progress: Callable[[int], None] | None = None) -> LoadReport:
        """Until the last request is answered."""
        engines, now, rounds = [*self._prefill, *self._decode], 0.0, 0
        schedulers = [engine.scheduler for engine in engines]
        while True:
            self._take_in(now)
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

    def _take_in(self, now: float) -> None:
        for request in self._clients.arrived(now):
            self._whole[request.number] = request
            prompt = Request(request.number, request.prompt_len, 1, request.sent_s, segments=request.segments)
            min(self._prefill, key=lambda engine: engine.load).arrive(now, prompt)

    def _land(self, engine: Instance) -> None:
        step, held, start, end = engine.flights.popleft()
        finished = engine.scheduler.update(step)
        decoding = engine in self._decode
        if decoding:
            self._report.tokens_out(step, end)
        for request in finished:
            if decoding:
                self._report.answer(request)
                self._clients.answered(end)
                continue
            whole = self._whole.pop(request.number)
            whole.loaded = whole.prompt_len - 1
            engine.sender_free_s = max(engine.sender_free_s, end) + self._transfer.seconds(whole.prompt_len)
            min(self._decode, key=lambda other: other.load).arrive(engine.sender_free_s, whole)
        self._report.step([step], [held], start, end, id(engine))
