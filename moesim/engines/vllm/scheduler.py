"""Which tokens each engine step computes: vLLM's V1 scheduler.

One token budget a step. Running requests come first, in order of admission: a decode takes one token, an unfinished
prompt as many as are left. If the cache is full the youngest running request loses its blocks and goes back to the
head of the queue (recomputed later). Then waiting requests are admitted in order of arrival while seats
(``max_num_seqs``), tokens and blocks last (v1/core/sched/scheduler.py, 0.25.1, held against recorded iterations in
calibration/schedules).

With asynchronous scheduling a step is composed before the one under way has ended, so its tokens are placeholders
(v1/core/sched/async_scheduler.py).

Where tokens are drafted, a decode takes its drafts' tokens of the budget too, and room ahead of them. How many of them
are kept is drawn when the step ends; the places of the others are written again.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from moesim.engines.draws import drafts_kept
from moesim.engines.kv_cache import Blocks
from moesim.engines.request import Request
from moesim.engines.scheduling import Scheduled, SchedulerLimits, Step
from moesim.engines.speculation import tokens_a_round

Array = np.ndarray[Any, Any]


class V1Scheduler:
    """Requests waiting and running on one engine."""

    def __init__(self, limits: SchedulerLimits, blocks: Blocks):
        self.limits = limits
        self.blocks = blocks
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._step = 0
        self.stalled = False
        """The last step left a request waiting for the cache, and nothing has ended since."""
        self.preemptions = 0
        self.blocked = 0
        """Steps that kept a request waiting because the cache was full."""
        self.cached_tokens = 0
        """Prompt tokens found in the cache instead of computed."""
        self._image_tokens = 0
        """Tokens of images that this step may still encode: as many as it computes, one whole image at least."""

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def draining(self) -> bool:
        """Whether a request waits for a pipeline to hand its last token back."""
        return any(request.eligible_step > self._step for request in self.running)

    def schedule(self) -> Step:
        """Compose the next step; what it computes counts as computed from here on."""
        step = Step()
        self._step += 1
        self.stalled = False
        self._image_tokens = self.limits.max_num_batched_tokens
        budget = self._run(step, self.limits.max_num_batched_tokens)
        if not step.preempted:
            self._admit(step, budget)
        return step

    def _give(self, step: Step, request: Request, tokens: int, past: int, drafts: int = 0) -> None:
        """Schedule a request's next ``tokens``, behind ``past``; they count as computed from here on."""
        request.computed = past + tokens
        samples = request.computed >= request.prompt_len + request.emitted + request.placeholders
        images = request.images_in(past, tokens) if request.images else 0
        self._image_tokens -= images * request.image_tokens
        step.parts.append(Scheduled(request, tokens, past, samples, drafts, images))
        if samples:
            if self.limits.async_scheduling:
                request.placeholders += 1 + drafts
            request.eligible_step = self._step + self.limits.pipeline_stages

    def _run(self, step: Step, budget: int) -> int:
        """Tokens for running requests; returns what is left of the budget."""
        index = 0
        one_by_one = not (self.limits.kept or self.limits.lookahead or self.limits.pipeline_stages > 1)
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            if one_by_one and self._next_token(step, request):
                budget -= 1
                index += 1
                continue
            wanted = self._wanted(request, budget)
            if wanted == 0:
                index += 1
                continue
            drafts = self._drafts(request, budget) if wanted == 1 and self.limits.kept else 0
            tokens = request.computed + wanted + drafts
            ahead = tokens + self.limits.lookahead
            while ahead > request.room and not self.blocks.grow(request, ahead):
                last = self.running.pop()
                self._preempt(last, step)
                if last is request:
                    return budget
            if tokens >= request.next_full:
                self._commit(request, tokens)
            self._give(step, request, wanted + drafts, request.computed, drafts)
            budget -= wanted + drafts
            index += 1
        return budget

    def _next_token(self, step: Step, request: Request) -> bool:
        """What most of most steps is, at once: the next token of an answer, in a block that is there and stays open."""
        past, under_way = request.computed, request.placeholders
        tokens = past + 1
        if (
            past < request.prompt_len
            or tokens != request.prompt_len + request.emitted + under_way
            or tokens > request.room
            or tokens >= request.next_full
            or tokens >= self.limits.max_model_len
            or (under_way and tokens + 1 - under_way >= request.prompt_len + request.output_len)
        ):
            return False
        request.computed = tokens
        if self.limits.async_scheduling:
            request.placeholders = under_way + 1
        request.eligible_step = self._step + 1
        step.parts.append(Scheduled(request, 1, past, True))
        return True

    def _wanted(self, request: Request, budget: int) -> int:
        under_way, limits = request.placeholders, self.limits
        if limits.pipeline_stages > 1 and self._step < request.eligible_step:
            return 0
        computed = request.computed
        if under_way and computed + 2 - under_way >= request.prompt_len + request.output_len:
            return 0
        wanted = request.prompt_len + request.emitted + under_way - computed
        if wanted == 1:
            return 1 if computed + 1 < limits.max_model_len else 0
        wanted = min(self._chunk(wanted), budget, limits.max_model_len - computed - 1)
        return self._up_to_images(request, computed, wanted) if request.images else wanted

    def _up_to_images(self, request: Request, past: int, tokens: int) -> int:
        """Tokens up to the first image that this step cannot encode any more."""
        whole = self._image_tokens == self.limits.max_num_batched_tokens
        room = max(self._image_tokens // request.image_tokens, 1 if whole else 0)
        if request.images_in(past, tokens) <= room:
            return tokens
        first = -(-past // request.image_tokens)
        return (first + room) * request.image_tokens - past

    def _drafts(self, request: Request, budget: int) -> int:
        """Drafts that are checked beside a request's own token; a prompt has none."""
        if request.computed < request.prompt_len:
            return 0
        return max(min(len(self.limits.kept), budget - 1, self.limits.max_model_len - request.computed - 2), 0)

    def rounds(self, running: list[Request], most: int) -> Array:
        """Tokens that each request has got after rounds of drafts to come, as far as none can end; (rounds, requests).

        The first row is of the round under way where one is, and of the next one else.
        """
        limits = self.limits
        if most < 1:
            return np.zeros((0, len(running)), np.int64)
        left = np.array([r.output_len - r.emitted for r in running])
        likely = int(left.min() / tokens_a_round(limits.kept)) + 1
        ahead = np.arange(min(most, likely))[:, None]
        numbers, begun = (np.array([getattr(r, name) for r in running]) for name in ("number", "rounds"))
        given = np.cumsum(1 + drafts_kept(limits.kept, numbers, begun + ahead), axis=0)
        safe = (given < left).all(1)
        return given[: int(safe.argmin()) if not safe.all() else len(given)]

    def _chunk(self, tokens: int) -> int:
        longest = self.limits.long_prefill_token_threshold
        return min(tokens, longest) if longest else tokens

    def _preempt(self, request: Request, step: Step) -> None:
        self.blocks.release(request)
        request.computed = request.loaded = 0
        request.running = False
        request.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(request)
        step.preempted.append(request)

    def _admit(self, step: Step, budget: int) -> None:
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            request = self.waiting[0]
            found = self.blocks.found(request)
            past = max(len(found) * self.blocks.block_size, request.loaded)
            tokens = self._chunk(request.known - past)
            if tokens > budget and not self.limits.enable_chunked_prefill:
                return
            tokens = min(tokens, budget)
            if request.images:
                tokens = self._up_to_images(request, past, tokens)
                if not tokens:
                    return
            must_fit = request.known if self.limits.scheduler_reserve_full_isl else 0
            spare = self.limits.watermark if self.running else 0.0
            if not self.blocks.admit(request, found, past + tokens, must_fit, spare):
                self.blocked += 1
                self.stalled = True
                return
            self.waiting.popleft()
            self.running.append(request)
            request.running = True
            self._commit(request, past + tokens)
            self.cached_tokens += past - request.loaded
            self._give(step, request, tokens, past)
            budget -= tokens

    def _commit(self, request: Request, tokens: int) -> None:
        self.blocks.commit(request, min(tokens, request.known))

    def _kept(self, step: Step) -> Array:
        """How many drafts each part's round may keep."""
        requests = [part.request for part in step.parts]
        numbers, begun = (np.array([getattr(r, name) for r in requests]) for name in ("number", "rounds"))
        return drafts_kept(self.limits.kept, numbers, begun)

    def update(self, step: Step) -> list[Request]:
        """A step has ended: tokens come out, finished requests leave. Returns those."""
        finished: list[Request] = []
        kept_of = self._kept(step) if self.limits.kept else None
        ahead = self.limits.async_scheduling
        for place, (request, _, _, samples, drafts, _) in enumerate(step.parts):
            if not samples or request.emitted >= request.output_len:
                continue
            kept = 0
            if drafts and kept_of is not None:
                kept = min(int(kept_of[place]), drafts)
                request.rounds += 1
            request.emitted = min(request.emitted + 1 + kept, request.output_len)
            if request.running:
                request.computed -= drafts - kept
            if ahead:
                request.placeholders -= 1 + drafts
                final = request.computed - request.placeholders
                if request.running and final >= request.next_full:
                    self.blocks.commit(request, final)
            if request.emitted >= request.output_len:
                finished.append(request)
        for request in finished:
            self.blocks.release(request)
            if request.running:
                request.running = False
            else:
                self.waiting.remove(request)
        if finished:
            self.stalled = False
            self.running = [r for r in self.running if r.running]
        return finished
