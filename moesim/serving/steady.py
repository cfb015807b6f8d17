"""The steady state of an engine under load, in closed form.

A step takes ``d(n)`` when n sequences only decode; each prompt adds ``delta(n)`` to the step (or steps) that computes
it. Replicas in lockstep take prompts side by side: the most of them counts, not their sum.

In a closed loop a prompt comes for every ``output - 1`` tokens of each sequence, so the mean step is
``d + delta n / (output - 1)``; a sequence sees all prompts but its own. Clients begin together and drift apart as
lengths differ, so that prompts share steps for many rounds. At a rate, sequences share the engine as customers share a
processor whose speed depends on their number: a product form gives how many there are, whatever the law of lengths.
Little's law ties rate, concurrency and latency together (docs/model/pipeline.md).

What it does not see it refuses: full caches and seats, pipelines, prompts that take much of the time. The simulation
does see them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from moesim.cost.cost import Cost, reduced, summed
from moesim.engines.scheduling import SchedulerLimits
from moesim.engines.speculation import mean_rounds
from moesim.errors import Problem, SpecError
from moesim.inputs.workload import Lognormal, Uniform, Workload
from moesim.memory import Room, sequence_kv_bytes
from moesim.models.rank import Rank
from moesim.ops.load import Group
from moesim.serving.requests import request_count
from moesim.serving.simulation import FrontEnd
from moesim.steps.pipeline import whole_step
from moesim.steps.step import Steps

Array = np.ndarray[Any, Any]

_NODES = 24
_LENGTHS = 6
"""Prompts of different length that a mean is taken over: what a step takes jumps where it leaves the CUDA graphs."""
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


class SteadyState(NamedTuple):
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
    """``clients`` or ``rate``."""
    idle_share: float
    """Of the time, an engine has nothing to do."""
    cost: Cost
    """A mean step: its share of those that only decode, and of those with a prompt. [s]"""


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
    at = _Balance(steps, limits, load, front, _cache_seats(fullest, block_size, load))
    most, tokens, clients, asked, priced = at.most, at.tokens, at.clients, at.asked, at.priced
    running = _boundary(at.too_many, most)
    if np.isfinite(asked) and not np.isfinite(clients) and 0.0 < running < most * (1 - 1e-6):
        running = min(priced.at_random(asked, tokens, at.prompts(running) * tokens / running, most), most * (1 - 1e-5))
        first, share = at.mean(running)[3], at.mean(running)[2]
        step, rate = running / (asked * tokens), asked
    else:
        step, rate, share, first = at.mean(running)
    limited = "rate" if rate >= 0.999 * asked else "clients"
    _refuse_unseen(at, limits, load, running, rate, share, limited)
    if np.isfinite(clients):
        # A sequence sees the prompts of the others: its own came before.
        step -= priced.at(running)[1] * at.prompts(running) / (clients * at.lockstep)
    if limited == "clients":
        burst = priced.burst(max(int(clients), 1), limits.max_num_batched_tokens, front.request_s, at.turn)
        first = _over_rounds(load, clients, first, burst, step, tokens, priced.at(running))
        rate = clients / (first + tokens * step)
    idle = priced.idle if limited == "rate" else min(at.reading * rate / clients, 1.0) ** clients
    cost, output = priced.cost(running / max(1.0 - idle, 1e-6), tokens), load.mean_output_len
    itl = step if output > 1 else float("nan")
    tpot = itl * (tokens / (output - 1)) if output > 1 else itl
    whole = first + (tokens if output > 1 else 0.0) * step
    return SteadyState(
        first, tpot, itl, whole, rate * at.replicas, running, share, limited, idle**at.lockstep, cost
    )  # fmt: skip


class _Balance:
    """What a replica's step takes, and a request waits for, when so many sequences decode at once."""

    def __init__(self, steps: Steps, limits: SchedulerLimits, load: Workload, front: FrontEnd, cache: float):
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
        nodes = np.geomspace(1, max(min(self.most, limits.max_num_seqs), 1), _NODES)
        self.priced = _Priced(steps, limits, np.unique(np.rint(nodes)).astype(np.int64), load)

    def prompts(self, running: float) -> float:
        """That replicas in lockstep take in a step: they run side by side, so the most of any counts."""
        return most_of(self.lockstep, running / self.tokens)

    def mean(self, running: float) -> tuple[float, float, float, float]:
        """(mean step, answers a second, prompts' share of time, time to first token without a queue)."""
        decode, extra = self.priced.at(running)
        prompts = self.prompts(running)
        step = decode + extra * prompts
        rate = running / (self.tokens * step)
        others = most_of(self.lockstep, running / self.tokens, mine=1) - 1.0
        own = self.priced.own(running)
        first = self.reading + self._queued(rate) + self._waits(running, step) + own + extra * others
        return step, rate, extra * prompts / step, first

    def too_many(self, running: float) -> bool:
        """Whether more sequences would decode at once than clients, or the rate asked for, keep busy."""
        _, rate, _, first = self.mean(running)
        return rate > self.asked or running + rate * first > self.clients

    def _queued(self, rate: float) -> float:
        """For the server that reads prompts one by one: Poisson arrivals, of which a client sees the others'. [s]"""
        others = 1.0 - 1.0 / (self.clients * self.lockstep)
        busy = min(rate, self.asked) * self.lockstep * self.turn * others
        return self.turn * busy / (2.0 * (1.0 - busy)) if busy < 1.0 else float("inf")

    def _waits(self, running: float, step: float) -> float:
        """For the step under way and those composed ahead, where others keep the engine busy. [s]"""
        aligned = max(step - self.reading, step / 2) if self._in_step else step / 2
        busy = min(self.clients - 1.0, 1.0) if np.isfinite(self.clients) else 1.0 - np.exp(-running)
        return busy * (aligned + (self._depth - 1) * step)


def mean_step(steps: Steps, limits: SchedulerLimits, load: Workload, state: SteadyState) -> Cost:
    """``state.cost`` with operations of just that size. [s]"""
    running = max(round(state.running / max(1.0 - state.idle_share, 1e-6)), 1)
    tokens = max(mean_rounds(steps.rank.kept, load.mean_output_len - 1), _LEAST_TOKENS)
    return _Priced(steps, limits, np.array([running]), load).cost(running, tokens)


def most_of(replicas: int, mean: float, mine: int = 0) -> float:
    """Expected most prompts that any of ``replicas`` takes in a step, each a Poisson number; one has ``mine`` more."""
    if replicas == 1:
        return mean + mine
    k = np.arange(int(mean + 12 * np.sqrt(mean) + 24))
    log_pmf = k * np.log(max(mean, 1e-300)) - mean - np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    below = np.minimum(np.cumsum(np.exp(log_pmf)), 1.0)
    own = np.concatenate([np.zeros(mine), below])[: len(k)]
    return float((1.0 - own * below ** (replicas - 1)).sum())


def _refuse_unseen(
    at: _Balance, limits: SchedulerLimits, load: Workload, running: float, rate: float, share: float, limited: str
) -> None:
    """Raise SpecError for loads whose steady state the closed form does not see."""
    clients, asked, lockstep = at.clients, at.asked, at.lockstep
    full = running >= at.most * (1 - 1e-6) and (clients > at.most or rate < 0.999 * asked < float("inf"))
    reader = rate * lockstep * at.turn
    why = ""
    if at.stages > 1:
        why = "micro-batches of a pipeline fill each other's gaps"
    elif full and at.cache < limits.max_num_seqs:
        why = "the KV cache is full: requests wait for room, lose it and are computed again"
    elif full:
        why = "more requests come than there are seats: they queue"
    elif share > (_MOST_SHARE if lockstep == 1 else _MOST_SHARE_IN_LOCKSTEP):
        why = f"prompts take {share:.0%} of the time: they come in bursts that decodes wait for"
    elif reader > _MOST_READING:
        why = f"the server reads prompts and images {min(reader, 1.0):.0%} of the time: they queue for it"
    elif running * (1 + at.drafts) > limits.max_num_batched_tokens:
        why = "sequences and their drafts are more tokens than a step takes: they take turns"
    elif load.max_concurrency and (request_count(load) or load.max_concurrency) < load.max_concurrency:
        why = "there are fewer requests than clients: the run ends before it is steady"
    elif lockstep > 1 and clients < _LEAST_CLIENTS_IN_LOCKSTEP:
        why = f"{clients:.2g} clients are few for each of {lockstep} replicas in lockstep: they stand idle in turn"
    elif load.request_rate and limited == "clients":
        why = "clients hold back the rate that is asked for: requests queue outside the engine"
    elif load.request_rate and load.burstiness != 1.0:
        why = f"arrivals of burstiness {load.burstiness:g} queue otherwise than Poisson ones"
    if why:
        raise SpecError([Problem(f"{why}, which has no closed form; leave out --steady to simulate it", "workload")])


def _boundary(too_many: Callable[[float], bool], most: float) -> float:
    """The largest number up to ``most`` that is not too many."""
    if not too_many(most):
        return most
    low, high = 0.0, most
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if too_many(middle) else (middle, high)
    return low


def _over_rounds(
    load: Workload, clients: float, first: float, burst: float, step: float, tokens: float, priced: tuple[float, float]
) -> float:
    """Mean time to first token of a closed loop whose clients all begin at once and drift apart.

    The first round is a burst. Later ones come as spread out as the burst left them and as answers' lengths differ:
    prompts that come close together share steps. Of Gaussian arrival times ``n / (2 sqrt(pi) sigma)`` others come a
    second around one of them. [s]
    """
    count = request_count(load) or 0
    rounds = max(round(count / max(load.max_concurrency or 1, 1)), 1)
    decode, extra = priced
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
        total += first + extra * max(min(together + behind, (clients - 1.0) / 2.0) - apart, 0.0)
    return total / rounds


def relative_lengths(load: Workload) -> Array:
    """Prompt lengths over their mean, each standing for as many prompts as every other."""
    law, middles = load.lengths, (np.arange(_LENGTHS) + 0.5) / _LENGTHS
    if isinstance(law, Uniform):
        lengths = law.low + (law.high - law.low) * middles
    elif isinstance(law, Lognormal):
        lengths = np.exp(law.sigma * np.array([NormalDist().inv_cdf(x) for x in middles]))
    else:
        return np.ones(1)
    text = 1.0 - load.picture_len / load.mean_input_len
    return 1.0 + text * (lengths / lengths.mean() - 1.0)


def relative_spread(load: Workload) -> float:
    """Standard deviation of output lengths over their mean."""
    law = load.lengths
    if isinstance(law, Uniform):
        return (law.high - law.low) / (law.high + law.low) / np.sqrt(3.0)
    own = np.sqrt(np.expm1(law.sigma**2)) if isinstance(law, Lognormal) else 0.0
    return float(np.hypot(own, 0.0 if load.ignore_eos else 1.0))


def _cache_seats(fullest: tuple[Rank, Room], block_size: int, load: Workload) -> float:
    """Sequences whose mean context fits: half of the output is there on average."""
    rank, room = fullest
    each = float(sequence_kv_bytes(rank, load.mean_input_len + load.mean_output_len / 2, block_size))
    return max(room.kv_available / each, 1.0)


class _Priced:
    """Steps of some numbers of decodes, alone and with a prompt, priced at once."""

    def __init__(self, steps: Steps, limits: SchedulerLimits, nodes: Array, load: Workload):
        prompt, output = load.mean_input_len, load.mean_output_len
        self._nodes, self.idle = nodes, 0.0
        new, past = (
            np.maximum(np.rint(share * prompt * relative_lengths(load)), least).astype(np.int64)[:, None]
            for share, least in ((1.0 - load.cached_share, 1), (load.cached_share, 0))
        )
        self._new = float(new.mean())
        budget = np.maximum(limits.max_num_batched_tokens - nodes * (1 + len(steps.rank.kept)), 1)
        if limits.long_prefill_token_threshold:
            budget = np.minimum(budget, limits.long_prefill_token_threshold)
        chunks = -(-new // budget)
        size = np.ceil(new / chunks).astype(np.int64)
        before = (past + (chunks - 1) / 2 * size).astype(np.int64)
        context = np.full(len(nodes), int(prompt + output / 2))
        self._decode = whole_step(steps, "decode", steps.load((steps.rank.decoding(nodes, context),)), nodes)
        # A row a length of prompt; steps are priced as one array.
        decoding, contexts = (np.broadcast_to(x, chunks.shape).ravel() for x in (nodes, context))
        prefill = Group(np.ones_like(decoding), size.ravel(), before.ravel())
        mixed_load = steps.load((prefill, steps.rank.decoding(decoding, contexts)))
        if load.images is not None:
            # A chunk encodes as many images as its share of the prompt holds.
            mixed_load = replace(mixed_load, images=size.ravel() / self._new * load.images.per_request)
        self._mixed = whole_step(steps, "prefill", mixed_load, decoding + 1)
        alone = np.broadcast_to(self._decode.seconds, nodes.shape)
        mixed = np.broadcast_to(self._mixed.seconds, decoding.shape).reshape(chunks.shape)
        self._alone, self._own = alone, (chunks * mixed).mean(0)
        self._extra = (chunks * np.maximum(mixed - alone, 0.0)).mean(0)
        self._chunks = float(chunks.mean())

    def at(self, running: float) -> tuple[float, float]:
        """(a step that only decodes, what a prompt adds). [s]"""
        return self._between(self._alone, running), self._between(self._extra, running)

    def at_random(self, rate: float, tokens: float, together: float, most: float) -> float:
        """Mean sequences that decode at once where prompts come at random, ``rate`` a second.

        Processor sharing whose speed depends on how many share it: there are n with a probability in proportion to the
        product of ``rate tokens step(i) / i`` over i up to n, whatever the law of lengths. ``together`` is how many
        prompts replicas in lockstep take in a step, over one's own.
        """
        n = np.arange(1, int(most) + 1)
        busy = np.minimum(rate * together * np.interp(n, self._nodes, self._extra), 0.99)
        step = np.interp(n, self._nodes, self._alone) / (1.0 - busy)
        weight = np.concatenate([[0.0], np.cumsum(np.log(rate * tokens * step / n))])
        chance = np.exp(weight - weight.max())
        self.idle = float(chance[0] / chance.sum())
        return float(np.arange(len(chance)) @ chance / chance.sum())

    def own(self, running: float) -> float:
        """The steps that compute a prompt beside the decodes. [s]"""
        return self._between(self._own, running)

    def burst(self, prompts: int, budget: int, request_s: float, turn_s: float) -> float:
        """Mean time to first token of ``prompts`` that come at once: read one by one, computed a step full at a time.

        Those whose prompts are done decode beside the others.
        """
        together = min(max(budget / self._new, 1.0), prompts)
        before = np.arange(prompts)
        # One after the other, the decodes of a step shared by its prompts.
        each = np.interp(np.maximum(before, 1.0), self._nodes, self._extra)
        each = each + np.interp(before, self._nodes, self._alone) * (before > 0) / together
        read = request_s + turn_s * (before + 1.0)
        passed = np.cumsum(each)
        ends = passed + np.maximum.accumulate(np.maximum(read + each - passed, 0.0))
        # A token comes when its step ends; where more than one step is needed, the first takes the first prompt alone.
        rest_of_step = (together - 1.0) / 2.0 * float(each.mean())
        return float(ends.mean()) + rest_of_step + (0.0 if together >= prompts else self.own(1))

    def _between(self, values: Array, running: float) -> float:
        return float(np.interp(running, self._nodes, values))

    def cost(self, running: float, tokens: float) -> Cost:
        """Both kinds of step at the nearest priced size, as often as they come; an answer takes ``tokens`` steps.

        ``running`` is the mean while there is any.
        """
        place = int(np.argmin(np.abs(self._nodes - running)))
        mixed = min(self._chunks * running / tokens, 1.0 - 1e-6)

        def one(x: Any, share: float) -> float:
            x = np.asarray(x, float)
            return share * float(x.reshape(-1, len(self._nodes)).mean(0)[place] if x.size > 1 else x.reshape(-1)[0])

        kinds = ((self._decode, 1.0 - mixed), (self._mixed, mixed))
        return summed("step", [reduced(cost, lambda x, share=share: one(x, share)) for cost, share in kinds])
