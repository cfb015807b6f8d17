"""Watches a run for the page: who runs and who waits, over time."""

from __future__ import annotations

from typing import Any

from moesim.engines.request import Request
from moesim.engines.scheduling import Step
from moesim.report.html.svg import COLORS, Axis, axes, figure, path, rect, words
from moesim.report.text import number
from moesim.serving.simulation import composition

_POINTS = 600
_WIDTH, _HEIGHT = 900.0, 260.0


class Watch:
    """A ``Timeline`` that keeps few numbers a step."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, float, int, int]] = []
        self._answers: list[tuple[float, float, float]] = []

    def step(self, replica: int, step: Step, start_s: float, end_s: float) -> None:
        if replica == 0:
            held = composition(step)
            self._steps.append((start_s, end_s, held.decodes, sum(new for new, _ in held.prefills)))

    def answer(self, request: Request) -> None:
        self._answers.append((request.sent_s, request.first_token_s, request.last_token_s))

    def picture(self) -> str:
        """Sequences that decode, and requests that wait for their first token, over time; prompts below."""
        if not self._answers or not self._steps:
            return ""
        end = max(last for _, _, last in self._answers)
        times = [end * i / _POINTS for i in range(_POINTS + 1)]
        waiting = _level([(sent, first) for sent, first, _ in self._answers], times)
        decoding = _level([(first, last) for _, first, last in self._answers], times)
        x = Axis(0.0, end, 60, _WIDTH - 20)
        y = Axis(0.0, float(max(*waiting, *decoding, 1)) * 1.08, _HEIGHT - 60, 25)
        body = axes(x, y, "seconds", "requests")
        for name, levels, color in (
            ("decoding", decoding, COLORS[0]),
            ("waiting for a first token", waiting, COLORS[1]),
        ):
            body += path([(x.at(t), y.at(v)) for t, v in zip(times, levels, strict=True)], color, name)
        body += words(130, 17, "decoding", more=f'fill="{COLORS[0]}"')
        body += words(210, 17, "waiting for a first token", more=f'fill="{COLORS[1]}"')
        body += words(370, 17, "steps with prompts", more=f'fill="{COLORS[2]}"')
        for start, stop, _, prompts in self._steps[:: max(len(self._steps) // 4000, 1)]:
            if prompts:
                body += rect(x.at(start), _HEIGHT - 22, max(x.at(stop) - x.at(start), 0.4), 10, COLORS[2])
        return figure(_WIDTH, _HEIGHT, body, "the run over time")


def _level(spans: list[tuple[float, float]], times: list[float]) -> list[int]:
    """How many spans hold at each time."""
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    levels, now, place = [], 0, 0
    for time in times:
        while place < len(events) and events[place][0] <= time:
            now += events[place][1]
            place += 1
        levels.append(now)
    return levels


def lanes(prediction: Any) -> str:
    """A static batch: prefill, then decode, to scale."""
    parts = [(part.name, float(part.seconds)) for part in prediction.cost.children]
    whole, x, body = sum(seconds for _, seconds in parts) or 1.0, 0.0, ""
    for i, (name, seconds) in enumerate(parts):
        wide = 900.0 * seconds / whole
        body += rect(x, 0, wide, 30, COLORS[i], f"{name}: {number(1e3 * seconds)} ms")
        body += words(x + 4, 19, f"{name} {number(1e3 * seconds)} ms" if wide > 120 else "", more='fill="white"')
        x += wide
    return figure(900, 34, body, "prefill and decode")
