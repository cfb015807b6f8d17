"""The steady state of an engine under load, in closed form.

A step takes ``d(n)`` when n sequences only decode; each prompt adds ``delta(n)`` to the step (or steps) that computes
it. Replicas in lockstep take prompts side by side: the most of them counts, not their sum.

In a closed loop a prompt comes for every ``output - 1`` tokens of each sequence, so the mean step is
``d + delta n / (output - 1)``; a sequence sees all prompts but its own. Clients begin together and drift apart as
lengths differ, so that prompts share steps for many rounds. At a rate, sequences share the engine as customers share a
processor whose speed depends on their number: a product form gives how many there are, whatever the law of lengths.
Little's law ties rate, concurrency and latency together (docs/model/pipeline.md).

What it sees badly it says (``doubt``): full caches and seats, pipelines, prompts that take much of the time. The
simulation does see them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from moesim.cost.cost import Cost
from moesim.engines.scheduling import SchedulerLimits
from moesim.engines.speculation import mean_rounds
from moesim.inputs.workload import Lognormal, Uniform, Workload
from moesim.memory import Room, sequence_kv_bytes
from moesim.models.rank import Rank
from moesim.serving.priced_steps import PricedSteps, nodes_up_to
from moesim.serving.requests import request_count
from moesim.serving.simulation import FrontEnd
from moesim.steps.step import Steps

_MOST_SHARE, _MOST_SHARE_IN_LOCKSTEP = 0.25, 0.1
"""Of the time, spent on prompts, up to which requests are out of step with each other: found by comparing with
simulations of 200 shipped plans and loads (docs/load.md)."""
_MOST_READING = 0.7
"""Of the time in which the server reads prompts, up to which their queue is short."""
_LEAST_CLIENTS_IN_LOCKSTEP = 2.0
"""Clients a replica, below which some replicas compute a prompt while others have nothing to do."""
_ROUNDS = 40
_LEAST_TOKENS = 0.05
"""Stands for the decode steps of an answer of one token, which has none."""


@dataclass(frozen=True)
class SteadyState:
    """Means over requests, and what holds them back."""

    ttft_s: float
    tpot_s: float
    itl_s: float
    """Between two steps' tokens: a step, which gives several where tokens are drafted."""
    e2el_s: float
    request_rate: float
    """Answers a second of all replicas. [1/s]"""
    running: float
    """Sequences that decode at once on a replica."""
    prompt_share: float
    """Of the engine's time, spent on prompts."""
    limited_by: str
    """``clients``, ``rate``, or ``engine`` where more is asked for than it has seats or cache for."""
    idle_share: float
    """Of the time, an engine has nothing to do."""
    doubt: str
    """Why these means are an estimate that simulations were not compared with; else empty."""
    together: float
    """Sequences that decode at once while any do."""
    tokens: float
    """Decode steps of an answer."""
    priced: PricedSteps = field(repr=False)
    later_ttft_s: float = float("nan")
    """Mean over requests behind each client's first."""
    clients: float = float("inf")
    """Of a replica."""

    def ttft_quantile_s(self, chance: float, limits: SchedulerLimits, load: Workload, front: FrontEnd) -> float:
        """Time to first token that a share ``chance`` of requests keeps: an estimate. [s]

        Of clients that begin at once the last of the first round wait longest; of Poisson arrivals, waits beyond the
        prompt's own steps fall off exponentially.
        """
        own = min(self.priced.own(self.together), self.ttft_s)
        if not load.max_concurrency:
            return own - (self.ttft_s - own) * float(np.log1p(-chance))
        first_round, later = 1.0 / _rounds(load), max(self.later_ttft_s, own)
        if chance <= 1.0 - first_round:
            return max(later, self.ttft_s if self.limited_by == "engine" else 0.0)
        turn = front.reading_s(load.mean_input_len - load.picture_len, load.images.per_request if load.images else 0)
        clients = max(int(self.clients), 1)
        burst = self.priced.burst(clients, limits.max_num_batched_tokens, front.request_s, turn)
        # Those behind the last seat wait until answers before them are whole.
        for_seats = max(clients / max(self.together, 1.0) - 1.0, 0.0) * (self.e2el_s - self.ttft_s)
        seatless = for_seats if self.limited_by == "engine" else 0.0
        return max(float(np.quantile(burst, 1.0 - (1.0 - chance) / first_round)) + seatless, later)

    @cached_property
    def cost(self) -> Cost:
        """A mean step: its share of those that only decode, and of those with a prompt. [s]"""
        return self.priced.cost(self.together, self.tokens)


def cache_seats(fullest: tuple[Rank, Room], block_size: int, load: Workload) -> float:
    """Sequences whose mean context fits: half of the output is there on average.

    Parameters
    ----------
    fullest : (Rank, Room)
        The pipeline stage with least room for the cache.
    """
    rank, room = fullest
    each = float(sequence_kv_bytes(rank, load.mean_input_len + load.mean_output_len / 2, block_size))
    return max(room.kv_available / each, 1.0)


def steady_state(
    steps: Steps, limits: SchedulerLimits, seats: float, load: Workload, front: FrontEnd,
    priced: PricedSteps | None = None,
) -> SteadyState:  # fmt: skip
    """Latency and throughput once the run has forgotten how it began.

    Everything follows from how many sequences decode at once, ``n``: a prompt comes for every ``output - 1`` tokens of
    each, so the mean step is ``d(n) + delta(n) n / (output - 1)``. What is asked for decides ``n``.

    Parameters
    ----------
    seats : float
        Sequences of a replica that its cache holds.
    priced : PricedSteps, optional
        The engine's steps for requests of these lengths, priced before up to as many sequences as there can be.
    """
    at = _Balance(steps, limits, load, front, seats, priced)
    most, tokens, clients, asked, priced = at.most, at.tokens, at.clients, at.asked, at.priced
    running, idle = _boundary(at.too_many, most), 0.0
    # Where clients wait for their own answers alone, arrivals are not at random.
    at_random = np.isfinite(asked) and at.limited_by(running, at.mean(running)[1]) == "rate"
    if at_random and 0.0 < running < most * (1 - 1e-6):
        together = at.prompts(running) * tokens / running
        running, idle = priced.at_random(asked, tokens, together, most)
        running = min(running, most * (1 - 1e-5))
        first, share = at.mean(running)[3], at.mean(running)[2]
        step, rate = running / (asked * tokens), asked
    else:
        step, rate, share, first = at.mean(running)
    limited = at.limited_by(running, rate)
    doubt, later = _doubt(at, limits, load, running, rate, share, limited), first
    if np.isfinite(clients) and not at_random:
        # A sequence sees the prompts of the others: its own came before.
        step -= priced.at(running)[1] * at.prompts(running) / (clients * at.lockstep)
    if limited == "engine":
        # Those without a seat wait for one; arrivals that nothing caps wait ever longer.
        first = max(clients / rate - tokens * step, first)
    elif limited == "clients":
        burst = priced.burst(max(int(clients), 1), limits.max_num_batched_tokens, front.request_s, at.turn)
        first = _over_rounds(load, clients, first, float(burst.mean()), step, tokens, priced, running)
        rounds = _rounds(load)
        later = (rounds * first - max(float(burst.mean()), later)) / (rounds - 1) if rounds > 1 else first
        rate = clients / (first + tokens * step)
    if limited != "rate":
        idle = min(at.reading * rate / clients, 1.0) ** clients
    output = load.mean_output_len
    itl = step if output > 1 else float("nan")
    tpot = itl * (tokens / (output - 1)) if output > 1 else itl
    whole = first + (tokens if output > 1 else 0.0) * step
    together = running / max(1.0 - idle, 1e-6)
    return SteadyState(
        first, tpot, itl, whole, rate * at.replicas, running, share, limited, idle**at.lockstep, doubt, together,
        tokens, priced, later, clients,
    )  # fmt: skip


class _Balance:
    """What a replica's step takes, and a request waits for, when so many sequences decode at once."""

    def __init__(
        self, steps: Steps, limits: SchedulerLimits, load: Workload, front: FrontEnd, cache: float,
        priced: PricedSteps | None,
    ):  # fmt: skip
        plan, moe = steps.rank.plan, steps.rank.model.moe is not None
        self.replicas = plan.dp
        if not moe and load.max_concurrency:
            # Replicas that do not wait for each other: those without a client do nothing.
            self.replicas = min(plan.dp, load.max_concurrency)
        self.lockstep = self.replicas if moe else 1
        self.clients = load.max_concurrency / self.replicas if load.max_concurrency else float("inf")
        self.asked = load.request_rate / self.replicas if load.request_rate else float("inf")
        self.cache, self.most = cache, min(self.clients, limits.max_num_seqs, cache)
        self.tokens = max(mean_rounds(steps.rank.kept, load.mean_output_len - 1), _LEAST_TOKENS)
        """Decode steps of an answer."""
        self.turn = front.reading_s(
            load.mean_input_len - load.picture_len, load.images.per_request if load.images else 0
        )
        self.reading = front.request_s + self.turn
        self.stages, self.drafts = plan.pp, len(steps.rank.kept)
        self._depth, self._in_step = limits.depth, bool(load.max_concurrency) and not load.request_rate
        self._one_length = self._in_step and relative_spread(load) == 0.0
        self.priced = priced or PricedSteps(steps, limits, nodes_up_to(self.most), load)

    def prompts(self, running: float) -> float:
        """That replicas in lockstep take in a step: they run side by side, so the most of any counts."""
        if self._one_length:
            # Requests of one length that began together stay together: replicas take their prompts in the same steps.
            return running / self.tokens
        return most_of(self.lockstep, running / self.tokens)

    def mean(self, running: float) -> tuple[float, float, float, float]:
        """(mean step, answers a second, prompts' share of time, time to first token without a queue)."""
        decode, extra = self.priced.at(running)
        prompts = self.prompts(running)
        step = decode + extra * prompts
        rate = running / (self.tokens * step)
        others = self.prompts(running) if self._one_length else most_of(self.lockstep, running / self.tokens, 1) - 1.0
        own = self.priced.own(running)
        first = self.reading + self._queued(rate) + self._waits(running, step) + own + extra * others
        return step, rate, extra * prompts / step, first

    def full(self, running: float, rate: float) -> bool:
        """Whether more would run, were there seats or cache for them."""
        return running >= self.most * (1 - 1e-6) and (
            self.clients > self.most or rate < 0.999 * self.asked < float("inf")
        )

    def limited_by(self, running: float, rate: float) -> str:
        if self.full(running, rate):
            return "engine"
        return "rate" if rate >= 0.999 * self.asked else "clients"

    def too_many(self, running: float) -> bool:
        """Whether more sequences would decode at once than clients, or the rate asked for, keep busy."""
        _, rate, _, first = self.mean(running)
        return rate > self.asked or running + rate * first > self.clients

    def _queued(self, rate: float) -> float:
        """For the server that reads prompts one by one: Poisson arrivals, of which a client sees the others'. [s]"""
        others = 1.0 if np.isfinite(self.asked) else 1.0 - 1.0 / (self.clients * self.lockstep)
        busy = min(rate, self.asked) * self.lockstep * self.turn * others
        return self.turn * busy / (2.0 * (1.0 - busy)) if busy < 1.0 else float("inf")

    def _waits(self, running: float, step: float) -> float:
        """For the step under way and those composed ahead, where others keep the engine busy. [s]"""
        aligned = max(step - self.reading, step / 2) if self._in_step else step / 2
        # Clients alone keep it busy but for one's own absence; at a rate it is, whenever another runs.
        busy = 1.0 - np.exp(-running) if np.isfinite(self.asked) else min(max(self.clients - 1.0, 0.0), 1.0)
        return busy * (aligned + (self._depth - 1) * step)


def mean_step(steps: Steps, limits: SchedulerLimits, load: Workload, state: SteadyState) -> Cost:
    """``state.cost`` with operations of just that size. [s]"""
    running = max(round(state.running / max(1.0 - state.idle_share, 1e-6)), 1)
    tokens = max(mean_rounds(steps.rank.kept, load.mean_output_len - 1), _LEAST_TOKENS)
    return PricedSteps(steps, limits, np.array([running]), load).cost(running, tokens)


def most_of(replicas: int, mean: float, mine: int = 0) -> float:
    """Expected most prompts that any of ``replicas`` takes in a step, each a Poisson number; one has ``mine`` more."""
    if replicas == 1:
        return mean + mine
    k = np.arange(int(mean + 12 * np.sqrt(mean) + 24))
    log_pmf = k * np.log(max(mean, 1e-300)) - mean - np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    below = np.minimum(np.cumsum(np.exp(log_pmf)), 1.0)
    own = np.concatenate([np.zeros(mine), below])[: len(k)]
    return float((1.0 - own * below ** (replicas - 1)).sum())


def _doubt(
    at: _Balance, limits: SchedulerLimits, load: Workload, running: float, rate: float, share: float, limited: str
) -> str:
    """Why the closed form does not see this load's steady state as a simulation does; else empty."""
    clients, lockstep, reader = at.clients, at.lockstep, rate * at.lockstep * at.turn
    most_share = _MOST_SHARE if lockstep == 1 else _MOST_SHARE_IN_LOCKSTEP
    found = {
        "micro-batches of a pipeline fill each other's gaps": at.stages > 1,
        "the KV cache is full: requests wait for room, lose it and are computed again": (
            limited == "engine" and at.cache < limits.max_num_seqs
        ),
        "more requests come than there are seats: they queue": limited == "engine",
        f"prompts take {share:.0%} of the time: they come in bursts that decodes wait for": share > most_share,
        f"the server reads prompts and images {min(reader, 1.0):.0%} of the time: they queue for it": (
            reader > _MOST_READING
        ),
        "sequences and their drafts are more tokens than a step takes: they take turns": (
            running * (1 + at.drafts) > limits.max_num_batched_tokens
        ),
        "there are fewer requests than clients: the run ends before it is steady": (
            bool(load.max_concurrency) and (request_count(load) or load.max_concurrency) < load.max_concurrency
        ),
        f"{clients:.2g} clients are few for each of {lockstep} replicas in lockstep: they stand idle in turn": (
            lockstep > 1 and clients < _LEAST_CLIENTS_IN_LOCKSTEP
        ),
        "clients hold back the rate that is asked for: requests queue outside the engine": (
            bool(load.request_rate) and limited == "clients"
        ),
        f"arrivals of burstiness {load.burstiness:g} queue otherwise than Poisson ones": (
            bool(load.request_rate) and load.burstiness != 1.0
        ),
    }
    return next((why for why, so in found.items() if so), "")


def _boundary(too_many: Callable[[float], bool], most: float) -> float:
    """The largest number up to ``most`` that is not too many."""
    if not too_many(most):
        return most
    low, high = 0.0, most
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if too_many(middle) else (middle, high)
    return low


def _rounds(load: Workload) -> int:
    """Requests of each client of a closed loop."""
    return max(round((request_count(load) or 0) / max(load.max_concurrency or 1, 1)), 1)


def _over_rounds(
    load: Workload, clients: float, first: float, burst: float, step: float, tokens: float, priced: PricedSteps,
    running: float,
) -> float:  # fmt: skip
    """Mean time to first token of a closed loop whose clients all begin at once and drift apart.

    The first round is a burst. Later ones come as spread out as the burst left them and as answers' lengths differ:
    prompts that come close together share steps. Of Gaussian arrival times ``n / (2 sqrt(pi) sigma)`` others come a
    second around one of them. [s]
    """
    rounds = _rounds(load)
    decode, extra = priced.at(running)[0], priced.in_a_row(running)
    cycle = first + tokens * step
    spread = relative_spread(load) * tokens * step
    apart = clients / cycle * decode / max(1.0 - extra * clients / cycle, 0.1)
    total = max(burst, first)
    for number in range(1, rounds):
        deviation = np.sqrt(burst**2 / 12.0 + number * spread**2)
        a_second = max(clients / (2.0 * np.sqrt(np.pi) * max(deviation, 1e-9)), clients / cycle)
        # As many as a row of so many prompts leaves waiting where they come as fast as they are computed, and those
        # that come before their turn where they come faster.
        together = a_second * decode / max(1.0 - a_second * extra, clients**-0.5)
        behind = max(clients * extra - np.sqrt(12.0) * deviation, 0.0) / (2.0 * extra) if extra else 0.0
        total += first + priced.joined(max(min(together + behind, (clients - 1.0) / 2.0) - apart, 0.0), running)
    return total / rounds


def relative_spread(load: Workload) -> float:
    """Standard deviation of output lengths over their mean."""
    law = load.lengths
    if isinstance(law, Uniform):
        return (law.high - law.low) / (law.high + law.low) / np.sqrt(3.0)
    own = np.sqrt(np.expm1(law.sigma**2)) if isinstance(law, Lognormal) else 0.0
    return float(np.hypot(own, 0.0 if load.ignore_eos else 1.0))
