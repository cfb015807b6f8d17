"""One step through five lanes: GPU, copies to it, copies from it, CPU, disk.

A layer's turn begins when the one before has ended. What is on the GPU runs at once; missing experts come over the
link, one after the other, each computed when it is there, or run on the CPU meanwhile; guesses for the next layer
follow on the link behind what this layer needs. Durations may be arrays over steps and draws of the misses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

LANES = ("GPU", "host to GPU", "GPU to host", "CPU", "disk")


@dataclass(frozen=True)
class LayerWork:
    """What one layer asks of each lane, or equal layers at once along a first axis. Seconds, and numbers of experts."""

    name: str
    before_s: Any = 0.0
    """On the GPU, until the router has chosen."""
    expert_s: Any = 0.0
    """One expert on the GPU."""
    after_s: Any = 0.0
    """On the GPU, beside or after the experts: shared experts."""
    hits: Any = 0.0
    """Experts that are on the GPU already."""
    guessed: Any = 0.0
    """Experts that a guess brings while the layer before computes."""
    wasted: Any = 0.0
    """Guesses that nobody asks for; they take the link all the same."""
    fetched: Any = 0.0
    """Experts that are fetched once the router has chosen."""
    on_cpu: Any = 0.0
    copy_s: Any = 0.0
    """One expert over the link."""
    back_s: Any = 0.0
    """One evicted expert back."""
    disk_s: Any = 0.0
    """One missing expert from disk to main memory, on average, wherever it then runs."""
    cpu_s: Any = 0.0
    """One expert on the CPU."""
    stream_s: Any = 0.0
    """The whole layer over the link."""
    stream_disk_s: Any = 0.0
    whole_cpu_s: Any = 0.0
    """The whole layer on the CPU."""
    cache_cpu_s: Any = 0.0
    """Attention on the CPU, over a cache in main memory; the GPU waits."""

    def layer(self, index: int, name: str) -> LayerWork:
        """One of the equal layers: numbers of experts differ, seconds do not."""
        values = [getattr(self, field_name) for field_name in _FIELDS]
        for i in _COUNTS:
            if np.ndim(values[i]) == _LAYERED:
                values[i] = values[i][index]
        return LayerWork(name, *values)

    def mapped(self, change: Callable[[Any], Any]) -> LayerWork:
        """The same with ``change`` applied to every number."""
        return LayerWork(self.name, **{name: change(getattr(self, name)) for name in _FIELDS})


_LAYERED = 3
"""Axes of what differs from layer to layer: layers, steps, draws."""
_FIELDS = tuple(f.name for f in fields(LayerWork) if f.name != "name")
_COUNTS = tuple(_FIELDS.index(name) for name in ("hits", "guessed", "wasted", "fetched", "on_cpu"))


@dataclass(frozen=True)
class Rules:
    """How lanes may run beside each other."""

    overlapped: bool = True
    """Fetches run beside the GPU's work; guesses always do."""
    stream_ahead: bool = False
    """The next layer streams while this one computes."""
    full_duplex: bool = True


@dataclass
class Timeline:
    """When each lane was busy. Means where durations are arrays."""

    events: list[tuple[str, str, float, float]] = field(default_factory=list)
    """(lane, what, start, end). [s]"""
    end_s: float = 0.0

    def note(self, lane: str, what: str, start: Any, end: Any) -> None:
        first, last = float(np.mean(start)), float(np.mean(end))
        if last > first:
            self.events.append((lane, what, first, last))

    def busy(self) -> dict[str, float]:
        """Seconds each lane works."""
        found: dict[str, float] = dict.fromkeys(LANES, 0.0)
        for lane, _, start, end in self.events:
            found[lane] += end - start
        return found


def carries_over(work: LayerWork, rules: Rules) -> bool:
    """Whether a lane can still be busy for this layer when the next begins, or before it begins."""
    ahead = rules.stream_ahead and np.any(np.asarray(work.stream_s) > 0)
    behind = np.any(np.asarray(work.back_s) > np.asarray(work.copy_s))
    return bool(ahead or behind or np.any(np.asarray(work.guessed + work.wasted) > 0))


def schedule(layers: list[LayerWork], rules: Rules, timeline: Timeline | None = None) -> Any:
    """Seconds from the first layer's begin to the last one's end.

    No lane does two things at once, so the result is never below what any lane has to do for these layers.
    """
    state = _State(rules, timeline, _used(layers))
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        state.pass_layer(layer, following)
    return state.gpu


def _used(layers: list[LayerWork]) -> set[str]:
    """Fields that any layer fills: what nobody uses is not worked out layer by layer."""
    found: set[str] = set()
    for name in (
        "guessed",
        "wasted",
        "fetched",
        "on_cpu",
        "back_s",
        "disk_s",
        "stream_s",
        "whole_cpu_s",
        "cache_cpu_s",
    ):
        # Equal layers share their arrays.
        values = {id(v): v for v in (getattr(layer, name) for layer in layers)}
        if any(v.any() if isinstance(v, np.ndarray) else v for v in values.values()):
            found.add(name)
    return found


class _State:
    """When each lane is free, while layers pass."""

    def __init__(self, rules: Rules, timeline: Timeline | None, used: set[str]) -> None:
        self.rules, self.timeline, self.used = rules, timeline, used
        self.gpu: Any = 0.0
        self.link: Any = 0.0
        self.back: Any = 0.0
        self.cpu: Any = 0.0
        self.disk: Any = 0.0
        self.guess_there: Any = 0.0
        self.layer_there: Any = None

    def note(self, lane: str, what: str, start: Any, end: Any) -> None:
        if self.timeline is not None:
            self.timeline.note(lane, what, start, end)

    def pass_layer(self, layer: LayerWork, following: LayerWork | None) -> None:
        if "whole_cpu_s" in self.used and np.any(np.asarray(layer.whole_cpu_s) > 0):
            start = np.maximum(self.gpu, self.cpu)
            read = np.maximum(self.disk, start)
            self.disk = read + layer.stream_disk_s
            self.note("disk", layer.name, read, self.disk)
            there = np.where(np.asarray(layer.stream_disk_s) > 0, self.disk, start)
            self.cpu = self.gpu = np.maximum(start + layer.whole_cpu_s, there)
            self.note("CPU", layer.name, self.cpu - layer.whole_cpu_s, self.cpu)
            self._stream_next(following, start)
            return
        start = self._streamed(layer)
        chosen = start + layer.before_s
        self.note("GPU", f"{layer.name}: attention", start, chosen)
        if "cache_cpu_s" in self.used:
            begun = np.maximum(chosen, self.cpu)
            self.cpu = chosen = begun + layer.cache_cpu_s
            self.note("CPU", f"{layer.name}: attention", begun, chosen)
        self._stream_next(following, start)
        guess_there = self.guess_there
        if "on_cpu" in self.used and self.rules.overlapped:
            self._on_cpu(layer, chosen)
        here = self._resident(layer, chosen, guess_there)
        self.gpu = self._arrived(layer, chosen, here) if "fetched" in self.used else here
        self._guess(following, chosen)
        if "on_cpu" in self.used and not self.rules.overlapped:
            # Whoever waits for every copy begins on the CPU once the GPU's part is done.
            self._on_cpu(layer, self.gpu)
        if not self.rules.overlapped:
            self.note("GPU", f"{layer.name}: shared", self.gpu, self.gpu + layer.after_s)
            self.gpu = self.gpu + layer.after_s
        if "on_cpu" in self.used:
            self.gpu = np.where(np.asarray(layer.on_cpu) > 0, np.maximum(self.gpu, self.cpu), self.gpu)

    def _streamed(self, layer: LayerWork) -> Any:
        """When the layer can begin: its weights are there."""
        if "stream_s" not in self.used or not np.any(np.asarray(layer.stream_s) > 0):
            return self.gpu
        there = self._stream(layer, self.gpu) if self.layer_there is None else self.layer_there
        self.layer_there = None
        return np.maximum(self.gpu, there)

    def _stream_next(self, following: LayerWork | None, start: Any) -> None:
        if following is None or not self.rules.stream_ahead or "stream_s" not in self.used:
            return
        if np.any(np.asarray(following.stream_s) > 0):
            self.layer_there = self._stream(following, start)

    def _stream(self, layer: LayerWork, earliest: Any) -> Any:
        """When the layer's weights are there."""
        # A disk that reads ahead never rests.
        read = np.maximum(self.disk, 0.0 if self.rules.stream_ahead else earliest)
        self.disk = read + layer.stream_disk_s
        self.note("disk", layer.name, read, self.disk)
        start = np.maximum(self.link, np.where(np.asarray(layer.stream_disk_s) > 0, self.disk, earliest))
        self.link = start + layer.stream_s
        self.note("host to GPU", layer.name, start, self.link)
        return self.link

    def _on_cpu(self, layer: LayerWork, chosen: Any) -> None:
        some = np.asarray(layer.on_cpu) > 0
        start = np.maximum(self.cpu, chosen)
        end = start + layer.on_cpu * layer.cpu_s
        if "disk_s" in self.used:
            read = np.maximum(self.disk, chosen)
            self.disk = np.where(some, read + layer.on_cpu * layer.disk_s, self.disk)
            self.note("disk", f"{layer.name}: experts", read, self.disk)
            end = np.maximum(end, self.disk + layer.cpu_s)
        self.note("CPU", f"{layer.name}: experts", end - layer.on_cpu * layer.cpu_s, end)
        self.cpu = np.where(some, end, self.cpu)

    def _resident(self, layer: LayerWork, chosen: Any, guess_there: Any) -> Any:
        """When what is on the GPU already is done, guesses that arrived included."""
        x = layer.expert_s
        end = chosen + layer.hits * x + (layer.after_s if self.rules.overlapped else 0.0)
        self.note("GPU", f"{layer.name}: experts", chosen, end)
        if "guessed" not in self.used:
            return end
        later = np.maximum(end, guess_there) + layer.guessed * x
        later = np.where(np.asarray(layer.guessed) > 0, later, end)
        self.note("GPU", f"{layer.name}: arrived experts", later - layer.guessed * x, later)
        return later

    def _arrived(self, layer: LayerWork, chosen: Any, here: Any) -> Any:
        """When missing experts have come and are done; on one stream they come after what is there."""
        x, some = layer.expert_s, np.asarray(layer.fetched) > 0
        earliest = chosen if self.rules.overlapped else here
        there = self._fetched(layer, earliest)
        if "back_s" in self.used:
            there = self._written_back(layer, earliest, there)
        if self.rules.overlapped:
            # Each is computed as it comes; the last one when all are there.
            end = np.maximum(here + layer.fetched * x, there + np.minimum(layer.fetched, 1.0) * x)
        else:
            end = there + layer.fetched * x
        self.note("GPU", f"{layer.name}: arrived experts", end - layer.fetched * x, end)
        return np.where(some, end, here)

    def _fetched(self, layer: LayerWork, earliest: Any) -> Any:
        """When the last missing expert is there."""
        there = self._brought(layer, layer.fetched, earliest, "experts")
        return np.where(np.asarray(layer.fetched) > 0, there, earliest)

    def _brought(self, layer: LayerWork, count: Any, earliest: Any, what: str) -> Any:
        """When ``count`` of a layer's experts have come over the link, from disk before where they lie there."""
        some, moving = np.asarray(count) > 0, count * layer.copy_s
        there = np.maximum(self.link, earliest) + moving
        if "disk_s" in self.used:
            read = np.maximum(self.disk, earliest)
            self.disk = np.where(some, read + count * layer.disk_s, self.disk)
            self.note("disk", f"{layer.name}: {what}", read, self.disk)
            there = np.maximum(there + layer.disk_s, self.disk + layer.copy_s)
        self.note("host to GPU", f"{layer.name}: {what}", there - moving, there)
        self.link = np.where(some, there, self.link)
        return there

    def _written_back(self, layer: LayerWork, earliest: Any, there: Any) -> Any:
        """Evicted experts go the other way; where both ways share the link or one stream, what comes waits for them."""
        returned = (layer.fetched + layer.guessed) * layer.back_s
        start = np.maximum(self.back, earliest)
        self.back = start + returned
        self.note("GPU to host", f"{layer.name}: evicted", start, self.back)
        if self.rules.full_duplex and self.rules.overlapped:
            # Landing space is free once what lay there has left.
            self.link = np.maximum(self.link, self.back - layer.back_s)
            return there
        self.link = self.link + returned
        return there + returned

    def _guess(self, following: LayerWork | None, chosen: Any) -> None:
        """Guesses for the next layer follow on the link; a step's first layer has none."""
        self.guess_there = 0.0
        if following is None or not self.used & {"guessed", "wasted"}:
            return
        count = np.asarray(following.guessed + following.wasted)
        end = self._brought(following, count, chosen, "guesses")
        self.guess_there = np.where(count > 0, end, 0.0)
