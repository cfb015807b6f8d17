"""Streams of requests with lengths and arrivals as a workload says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from moesim.engines.request import Request
from moesim.inputs.request_trace import TracedRequest, read_lengths, read_requests
from moesim.inputs.workload import FromFile, Lognormal, Uniform, Workload

_SHARED_TEXT = -1
_BLOCK = 4096
_REQUESTS_PER_CLIENT = 10
_REQUESTS_AT_A_RATE = 1000


def shares(load: Workload, replicas: int) -> list[tuple[Workload, int]]:
    """A workload as engines that do not wait for each other see it: (one engine's part, how many have such a one).

    Clients, requests and rates are shared out; an engine without a client or a request does not appear.
    """
    clients, count = load.max_concurrency, request_count(load)
    used = min([replicas, *(n for n in (clients, count) if n is not None)])
    found: dict[tuple[int | None, int | None], int] = {}
    begun = 0
    for i in range(used):
        mine = None if clients is None else clients // used + (i < clients % used)
        # Requests go where clients are.
        weight = (begun, begun + mine, clients) if mine is not None and clients else (i, i + 1, used)
        asked = None if count is None else count * weight[1] // weight[2] - count * weight[0] // weight[2]
        begun += mine or 0
        found[mine, asked] = found.get((mine, asked), 0) + 1
    rate = load.request_rate / used if load.request_rate else None
    return [
        (load.model_copy(update={"max_concurrency": mine, "num_prompts": asked, "request_rate": rate}), many)
        for (mine, asked), many in found.items()
    ]


def request_count(load: Workload) -> int | None:
    """How many requests a run has; None is as many as the trace."""
    if load.num_prompts is not None or load.arrivals == "trace":
        return load.num_prompts
    return _REQUESTS_AT_A_RATE if load.arrivals == "open_loop" else _REQUESTS_PER_CLIENT * (load.max_concurrency or 1)


def requests(load: Workload, longest: int = 1 << 40, part: tuple[int, int] = (0, 1)) -> Iterator[Request]:
    """The workload's requests in order; ``sent_s`` is 0 where a client's last answer decides (closed loop).

    Equal seeds give equal requests. Drawn prompts and outputs are cut to ``longest`` tokens together, as max_model_len
    cuts them. ``part`` (i, n) takes every n-th request of a trace, from the i-th on.
    """
    if load.arrivals == "trace":
        traced = itertools.islice(read_requests(str(load.trace_file)), part[0], load.num_prompts, part[1])
        yield from (_traced(i, item) for i, item in enumerate(traced))
        return
    random = np.random.default_rng(load.seed)
    count, done, clock = request_count(load) or 0, 0, 0.0
    images = load.images.per_request if load.images else 0
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
            yield Request(done + i, prompt, output, clock, images, load.image_tokens, segments)
        done += size


def _traced(number: int, item: TracedRequest) -> Request:
    return Request(number, item.input_len, item.output_len, item.arrival_s, segments=item.segments)


def lengths(load: Workload, size: int, random: np.random.Generator) -> tuple[Any, Any]:
    """(prompt lengths, images among them, output lengths) of ``size`` requests. [tokens]"""
    law = load.lengths
    if isinstance(law, FromFile):
        pairs = np.array(read_lengths(law.file))
        rows = random.integers(len(pairs), size=size)
        return pairs[rows, 0], pairs[rows, 1]
    mean_in, mean_out = (load.input_len or 1) - load.picture_len, load.output_len or 1
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
    return load.picture_len + prompts, outputs
