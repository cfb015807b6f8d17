"""Every iteration of an engine in this process: what it computed, and how long it took."""

from __future__ import annotations

import time
from typing import Any

COLUMNS = ("gap_s", "latency_s", "prefill_requests", "prefill_tokens", "prefill_context", "decodes", "decode_context")
"""Of a step: seconds since the step before ended (what a step costs under asynchronous scheduling), seconds from
scheduling to result, requests and tokens of prompts and what they attend to, decoding requests and their context."""


class StepLog:
    """Wraps the scheduler of one engine and notes each iteration in order."""

    def __init__(self, engine: Any):
        self.rows: list[list[float]] = []
        self.preemptions = 0
        self._last: float | None = None
        scheduler = engine.engine_core.engine_core.scheduler
        self._schedule, self._update = scheduler.schedule, scheduler.update_from_output
        self._preempt = scheduler._preempt_request
        scheduler.schedule, scheduler.update_from_output = self.schedule, self.update
        scheduler._preempt_request = self.preempt

    def begin(self) -> None:
        """Forget what was: a new measurement begins."""
        self.rows, self.preemptions, self._last = [], 0, None

    def preempt(self, request: Any, *args: Any) -> None:
        self.preemptions += 1
        self._preempt(request, *args)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        chosen = self._schedule(*args, **kwargs)
        cached = chosen.scheduled_cached_reqs
        computed = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        computed |= {new.req_id: new.num_computed_tokens for new in chosen.scheduled_new_reqs}
        new = {request.req_id for request in chosen.scheduled_new_reqs}
        # What checks drafts computes several tokens too.
        drafts: dict[str, list[int]] = getattr(chosen, "scheduled_spec_decode_tokens", None) or {}
        prompts = {
            name: n
            for name, n in chosen.num_scheduled_tokens.items()
            if n > 1 + len(drafts.get(name, ())) or name in new
        }
        decodes = [name for name in chosen.num_scheduled_tokens if name not in prompts]
        chosen.__dict__["_moesim"] = (
            begin,
            [
                len(prompts), sum(prompts.values()), sum(computed.get(name, 0) for name in prompts), len(decodes),
                sum(computed.get(name, 0) for name in decodes),
            ],
        )  # fmt: skip
        return chosen

    def update(self, chosen: Any, *args: Any, **kwargs: Any) -> Any:
        result = self._update(chosen, *args, **kwargs)
        now = time.perf_counter()
        noted = chosen.__dict__.get("_moesim")
        if noted and chosen.total_num_scheduled_tokens:
            begin, work = noted
            gap = now - (self._last if self._last is not None else begin)
            self.rows.append([round(gap, 7), round(now - begin, 7), *work])
        self._last = now
        return result
