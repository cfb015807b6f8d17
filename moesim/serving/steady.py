"""The steady state of an engine under load, in closed form.

Requests out of step: prompts come at random moments. A step takes ``d`` when it only decodes; each prompt adds
``delta`` to the step (or steps) that computes it. With ``rate`` prompts a second the mean step is the fixed point
``L = d + delta rate L``, so a token takes ``L = d / (1 - rate delta)``; Little's law ties rate, concurrency and
latency together (formula card, section 7). A prompt waits for the step under way, for the one composed ahead of it,
and shares its own with those that came meanwhile.

It does not see requests that fall into step: equal lengths, short runs, or a prompt burst longer than the spread of
answers. The simulation does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from moesim.cost.cost import Cost, reduced, summed
from moesim.engines.vllm.scheduler import SchedulerLimits
from moesim.inputs.workload import Workload
from moesim.memory import Room, sequence_kv_bytes
from moesim.models.rank import Rank
from moesim.ops.load import Group
from moesim.serving.requests import request_count
from moesim.serving.simulation import FrontEnd
from moesim.steps.pipeline import whole_step
from moesim.steps.step import Steps

Array = np.ndarray[Any, Any]

_NODES = 24
_ROUNDS = 40
_LEAST_TOKENS = 0.05
"""Stands for the decode steps of an answer of one token, which has none."""


class SteadyState(NamedTuple):
    """Means over requests, and what holds them back."""

    ttft_s: float
    tpot_s: float
    e2el_s: float
    request_rate: float
    """Answers a second of all replicas. [1/s]"""
    running: float
    """Sequences that decode at once on a replica."""
    prompt_share: float
    """Of the engine's time, spent on prompts."""
    limited_by: str
    """``clients``, ``rate``, ``seats``, ``cache`` or ``overload``."""
    cost: Cost
    """A mean step and the prompt's own. [s]"""


def steady_state(
    steps: Steps, limits: SchedulerLimits, block_size: int, fullest: tuple[Rank, Room], load: Workload,
    front: FrontEnd,
) -> SteadyState:  # fmt: skip
    """Latency and throughput once the run has forgotten how it began.

    Everything follows from how many sequences decode at once, ``n``: a prompt comes for every ``output - 1`` tokens of
    each, so the mean step is ``d(n) + delta(n) n / (output - 1)``. What is asked for decides ``n``.

    Parameters
    ----------
    fullest : (Rank, Room)
        The pipeline stage with least room for the cache.
    """
    replicas, moe = steps.rank.plan.dp, steps.rank.model.moe is not None
    if not moe and load.max_concurrency:
        # Replicas that do not wait for each other: those without a client do nothing.
        replicas = min(replicas, load.max_concurrency)
    prompt, output = load.mean_input_len, load.mean_output_len
    clients = load.max_concurrency / replicas if load.max_concurrency else float("inf")
    asked = load.request_rate / replicas if load.request_rate else float("inf")
    cache = _cache_seats(fullest, block_size, prompt, output)
    most = min(clients, limits.max_num_seqs, cache)
    priced = _Priced(steps, limits, most, prompt, prompt * load.cached_share, output)
    tokens = max(output - 1, _LEAST_TOKENS)
    lockstep = replicas if moe else 1
    reading = front.request_s + front.prompt_token_s * prompt

    def at(running: float) -> tuple[float, float, float, float]:
        """(mean step, answers a second, prompts' share of time, time to first token without a queue)."""
        decode, extra = priced.at(running)
        # Prompts that replicas in lockstep take in the same step run side by side.
        prompts = most_of(lockstep, running / tokens)
        step = decode + extra * prompts
        rate = running / (tokens * step)
        in_step = np.isfinite(clients) and not load.request_rate
        aligned = max(step - reading, step / 2) if in_step else step / 2
        own = priced.own(running) + extra * (most_of(lockstep, running / tokens, mine=1) - 1.0)
        return step, rate, extra * prompts / step, reading + aligned + (limits.depth - 1) * step + own

    def too_many(running: float) -> bool:
        """Whether more sequences would decode at once than clients, or the rate asked for, keep busy."""
        _, rate, _, first = at(running)
        return rate > asked or running + rate * first > clients

    running = _boundary(too_many, most)
    step, rate, share, first = at(running)
    limited = "rate" if np.isfinite(asked) else "clients"
    if running >= most * (1 - 1e-6):
        if rate < 0.999 * asked < float("inf"):
            limited, first = "overload", float("nan")
        elif clients > most:
            limited = "cache" if cache < limits.max_num_seqs else "seats"
            first = max(clients / rate - tokens * step, first)
    elif limited == "clients":
        late = priced.burst(int(clients), limits.max_num_batched_tokens) - first
        first += _burst_share(load) * max(late, 0.0)
        rate = clients / (first + tokens * step)
    tpot = step if output > 1 else float("nan")
    whole = first + (output - 1) * step
    return SteadyState(first, tpot, whole, rate * replicas, running, share, limited, priced.cost(running))


def most_of(replicas: int, mean: float, mine: int = 0) -> float:
    """Expected most prompts that any of ``replicas`` takes in a step, each a Poisson number; one has ``mine`` more."""
    if replicas == 1:
        return mean + mine
    k = np.arange(int(mean + 12 * np.sqrt(mean) + 24))
    log_pmf = k * np.log(max(mean, 1e-300)) - mean - np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    below = np.minimum(np.cumsum(np.exp(log_pmf)), 1.0)
    own = np.concatenate([np.zeros(mine), below])[: len(k)]
    return float((1.0 - own * below ** (replicas - 1)).sum())


def _boundary(too_many: Callable[[float], bool], most: float) -> float:
    """The largest number up to ``most`` that is not too many."""
    if not too_many(most):
        return most
    low, high = 0.0, most
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if too_many(middle) else (middle, high)
    return low


def _burst_share(load: Workload) -> float:
    """Share of a closed loop's requests that its clients send at once at the beginning."""
    count = request_count(load)
    return min((load.max_concurrency or 0) / count, 1.0) if count else 0.0


def _cache_seats(fullest: tuple[Rank, Room], block_size: int, prompt: float, output: float) -> float:
    """Sequences whose mean context fits: half of the output is there on average."""
    rank, room = fullest
    each = float(sequence_kv_bytes(rank, prompt + output / 2, block_size))
    return max(room.kv_available / each, 1.0)


class _Priced:
    """Steps of 1 to ``most`` decodes, alone and with a prompt, priced at once."""

    def __init__(self, steps: Steps, limits: SchedulerLimits, most: float, prompt: float, cached: float, output: float):
        nodes = np.unique(np.rint(np.geomspace(1, max(min(most, limits.max_num_seqs), 1), _NODES))).astype(np.int64)
        self._nodes = nodes
        new, past = max(round(prompt - cached), 1), int(cached)
        self._new = new
        budget = np.maximum(limits.max_num_batched_tokens - nodes, 1)
        if limits.long_prefill_token_threshold:
            budget = np.minimum(budget, limits.long_prefill_token_threshold)
        chunks = -(-new // budget)
        size = np.ceil(new / chunks).astype(np.int64)
        before = (past + (chunks - 1) / 2 * size).astype(np.int64)
        context = np.full(len(nodes), int(prompt + output / 2))
        decodes = Group.decode(nodes, context)
        self._decode = whole_step(steps, "decode", steps.load((decodes,)), nodes)
        mixed_load = steps.load((Group(np.ones_like(nodes), size, before), decodes))
        self._mixed = whole_step(steps, "prefill", mixed_load, nodes + 1)
        alone = np.broadcast_to(self._decode.seconds, nodes.shape)
        mixed = np.broadcast_to(self._mixed.seconds, nodes.shape)
        self._alone, self._extra, self._own = alone, chunks * np.maximum(mixed - alone, 0.0), chunks * mixed

    def at(self, running: float) -> tuple[float, float]:
        """(a step that only decodes, what a prompt adds). [s]"""
        return self._between(self._alone, running), self._between(self._extra, running)

    def own(self, running: float) -> float:
        """The steps that compute a prompt beside the decodes. [s]"""
        return self._between(self._own, running)

    def burst(self, prompts: int, budget: int) -> float:
        """Mean time to first token of ``prompts`` that come together: one after the other, a step's worth at a time."""
        together = min(max(budget / self._new, 1.0), prompts)
        return self.own(1) + self._between(self._extra, prompts / 2) * (prompts + together - 2) / 2

    def _between(self, values: Array, running: float) -> float:
        return float(np.interp(running, self._nodes, values))

    def cost(self, running: float) -> Cost:
        """Both kinds of step at the nearest priced size."""
        place = int(np.argmin(np.abs(self._nodes - running)))

        def one(x: Any) -> float:
            x = np.asarray(x, float)
            return float(x.reshape(-1)[place if x.size > 1 else 0])

        return summed("step", [reduced(self._decode, one), reduced(self._mixed, one)])
