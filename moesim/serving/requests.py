"""Requests: what one asks for, and streams of them with lengths and arrivals as a workload says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesim.spec.request_trace import TracedRequest, read_lengths, read_requests
from moesim.spec.workload import FromFile, Lognormal, Uniform, Workload

Segment = tuple[int, int]
"""(number of a text, tokens of it): prompts that begin with equal segments share that prefix."""

_SHARED_TEXT = -1
_BLOCK = 4096
_REQUESTS_PER_CLIENT = 10
_REQUESTS_AT_A_RATE = 1000


@dataclass(slots=True, eq=False)
class Request:
    """One request and how far the engine is with it."""

    number: int
    prompt_len: int
    output_len: int
    sent_s: float = 0.0
    """When its client sent it. [s]"""
    segments: tuple[Segment, ...] = ()
    """Of the prompt; empty is a text of its own."""
    computed: int = 0
    """Tokens whose keys and values are, or are about to be, in the cache."""
    emitted: int = 0
    """Output tokens the scheduler knows of."""
    placeholders: int = 0
    """Output tokens under way (asynchronous scheduling)."""
    eligible_step: int = 0
    """The first step that may compute its next token: a pipeline must have handed the last one back."""
    blocks: list[Any] = field(default_factory=list)
    """KV blocks held: their numbers, or how many where identity does not matter."""
    keyed: int = 0
    """Full blocks of these known to the prefix cache."""
    running: bool = False
    loaded: int = 0
    """Tokens whose keys and values came from another engine; gone once the request loses its blocks."""
    preemptions: int = 0
    first_token_s: float = -1.0
    last_token_s: float = -1.0

    @property
    def known(self) -> int:
        """Prompt and output tokens the scheduler knows of."""
        return self.prompt_len + self.emitted

    @property
    def finished(self) -> bool:
        return self.emitted >= self.output_len


def of_replica(load: Workload, replicas: int) -> Workload:
    """The share of one of several engines that do not wait for each other."""
    share: dict[str, Any] = {}
    if load.max_concurrency is not None:
        share["max_concurrency"] = -(-load.max_concurrency // replicas)
    if load.request_rate is not None:
        share["request_rate"] = load.request_rate / replicas
    if load.num_prompts is not None:
        share["num_prompts"] = -(-load.num_prompts // replicas)
    return load.model_copy(update=share)


def request_count(load: Workload) -> int | None:
    """How many requests a run has; None is as many as the trace."""
    if load.num_prompts is not None or load.arrivals == "trace":
        return load.num_prompts
    return _REQUESTS_AT_A_RATE if load.arrivals == "open_loop" else _REQUESTS_PER_CLIENT * (load.max_concurrency or 1)


def requests(load: Workload, longest: int = 1 << 40) -> Iterator[Request]:
    """The workload's requests in order; ``sent_s`` is 0 where a client's last answer decides (closed loop).

    Equal seeds give equal requests. Drawn prompts and outputs are cut to ``longest`` tokens together, as max_model_len
    cuts them.
    """
    if load.arrivals == "trace":
        traced = read_requests(str(load.trace_file))
        yield from (_traced(i, item) for i, item in enumerate(itertools.islice(traced, load.num_prompts)))
        return
    random = np.random.default_rng(load.seed)
    count, done, clock = request_count(load) or 0, 0, 0.0
    while done < count:
        size = min(_BLOCK, count - done)
        prompts, outputs = lengths(load, size, random)
        gaps = np.zeros(size)
        if load.request_rate:
            gaps = random.gamma(load.burstiness, 1.0 / (load.request_rate * load.burstiness), size)
        for i in range(size):
            clock += float(gaps[i])
            prompt = min(int(prompts[i]), longest - 1)
            output = min(int(outputs[i]), longest - prompt)
            shared = int(prompt * load.cached_share)
            segments = ((_SHARED_TEXT, shared), (done + i, prompt - shared)) if shared else ()
            yield Request(done + i, prompt, output, clock, segments)
        done += size


def _traced(number: int, item: TracedRequest) -> Request:
    return Request(number, item.input_len, item.output_len, item.arrival_s, item.segments)


def lengths(load: Workload, size: int, random: np.random.Generator) -> tuple[Any, Any]:
    """(prompt lengths, output lengths) of ``size`` requests. [tokens]"""
    law = load.lengths
    if isinstance(law, FromFile):
        pairs = np.array(read_lengths(law.file))
        rows = random.integers(len(pairs), size=size)
        return pairs[rows, 0], pairs[rows, 1]
    mean_in, mean_out = load.input_len or 1, load.output_len or 1
    if isinstance(law, Uniform):
        prompts, outputs = (
            random.integers(max(int(mean * law.low), 1), max(int(mean * law.high), 1), size, endpoint=True)
            for mean in (mean_in, mean_out)
        )
    elif isinstance(law, Lognormal):
        prompts, outputs = (
            np.maximum(np.rint(random.lognormal(np.log(mean) - law.sigma**2 / 2, law.sigma, size)), 1).astype(int)
            for mean in (mean_in, mean_out)
        )
    else:
        prompts, outputs = np.full(size, mean_in), np.full(size, mean_out)
    if not load.ignore_eos:
        outputs = random.geometric(1.0 / np.maximum(outputs, 1))
    return prompts, outputs
