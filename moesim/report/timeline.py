"""A run as a Chrome trace: engine steps on one row, requests on theirs. Opens in Perfetto and chrome://tracing."""

from __future__ import annotations

import json
from pathlib import Path

from moesim.engines.request import Request
from moesim.engines.scheduling import Step
from moesim.files.writing import write_whole
from moesim.serving.simulation import composition

_MOST_EVENTS = 2_000_000
_ENGINE, _REQUESTS, _ROWS = 0, 1, 64


class ChromeTimeline:
    """Collects events of the Trace Event Format (complete events, microseconds)."""

    def __init__(self) -> None:
        self._events: list[dict[str, object]] = []
        self.dropped = 0

    def step(self, replica: int, step: Step, start_s: float, end_s: float) -> None:
        """An engine step, named after what it computes."""
        held = composition(step)
        if not held.tokens:
            return
        prompts = sum(new for new, _ in held.prefills)
        name = f"{held.decodes} decodes" + (f" + {prompts} prompt tokens" if prompts else "")
        arguments = {
            "decodes": held.decodes, "prompt_tokens": prompts, "mean_context": round(held.context),
            "preempted": len(step.preempted),
        }  # fmt: skip
        self._add(_ENGINE, replica, name, "prefill" if prompts else "decode", start_s, end_s - start_s, arguments)

    def answer(self, request: Request) -> None:
        """A request: until its first token, and then until its last."""
        row = request.number % _ROWS
        sizes = {"prompt_len": request.prompt_len, "output_len": request.output_len}
        waited = request.first_token_s - request.sent_s
        name = f"request {request.number}"
        self._add(_REQUESTS, row, f"{name}: first token", "ttft", request.sent_s, waited, sizes)
        rest = request.last_token_s - request.first_token_s
        self._add(_REQUESTS, row, f"{name}: {request.output_len} tokens", "decode", request.first_token_s, rest, sizes)

    def _add(
        self, process: int, row: int, name: str, kind: str, start_s: float, seconds: float, arguments: dict[str, int]
    ) -> None:
        if len(self._events) >= _MOST_EVENTS:
            self.dropped += 1
            return
        event = {"ph": "X", "pid": process, "tid": row, "name": name, "cat": kind}
        self._events.append(event | {"ts": round(start_s * 1e6, 3), "dur": round(seconds * 1e6, 3), "args": arguments})

    def write(self, path: Path) -> Path:
        """The whole trace as one JSON file."""
        names = [
            {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": text}}
            for pid, text in ((_ENGINE, "engine steps"), (_REQUESTS, "requests"))
        ]
        write_whole(path, json.dumps({"traceEvents": [*names, *self._events], "displayTimeUnit": "ms"}))
        return path
