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
    priced = _Priced(steps, limits, most, load)
    tokens = max(mean_rounds(steps.rank.kept, output - 1), _LEAST_TOKENS)
    lockstep = replicas if moe else 1
    images = load.images.per_request if load.images else 0
    reading = front.request_s + front.prompt_token_s * (prompt - images * load.image_tokens) + front.image_s * images

    def at(running: float) -> tuple[float, float, float, float]:
        """(mean step, answers a second, prompts' share of time, time to first token without a queue)."""
        decode, extra = priced.at(running)
        # Prompts that replicas in lockstep take in the same step run side by side.
        prompts = most_of(lockstep, running / tokens)
        step = decode + extra * prompts
        rate = running / (tokens * step)
        others = most_of(lockstep, running / tokens, mine=1) - 1.0
        return step, rate, extra * prompts / step, reading + waits(running, step) + priced.own(running) + extra * others

    def waits(running: float, step: float) -> float:
        """For the step under way and those composed ahead, where others keep the engine busy. [s]"""
        in_step = np.isfinite(clients) and not load.request_rate
        aligned = max(step - reading, step / 2) if in_step else step / 2
        busy = min(clients - 1.0, 1.0) if np.isfinite(clients) else 1.0 - np.exp(-running)
        return busy * (aligned + (limits.depth - 1) * step)

    def too_many(running: float) -> bool:
        """Whether more sequences would decode at once than clients, or the rate asked for, keep busy."""
        _, rate, _, first = at(running)
        return rate > asked or running + rate * first > clients

    running = _boundary(too_many, most)
    if np.isfinite(asked) and not np.isfinite(clients) and 0.0 < running < most * (1 - 1e-6):
        together = most_of(lockstep, running / tokens) / (running / tokens)
        running = min(priced.at_random(asked, tokens, together, most), most * (1 - 1e-5))
        first, share = at(running)[3], at(running)[2]
        step, rate = running / (asked * tokens), asked
    else:
        step, rate, share, first = at(running)
    limited = "rate" if rate >= 0.999 * asked else "clients"
    full = running >= most * (1 - 1e-6) and (clients > most or rate < 0.999 * asked < float("inf"))
    _refuse_unseen(steps.rank.plan.pp, lockstep, full, cache < limits.max_num_seqs, share, clients, limited, load)
    if np.isfinite(clients):
        # A sequence sees the prompts of the others: its own came before.
        step -= priced.at(running)[1] * most_of(lockstep, running / tokens) / (clients * lockstep)
    if limited == "clients":
        burst = priced.burst(max(int(clients), 1), limits.max_num_batched_tokens, front)
        first = _over_rounds(load, clients, first, burst, step, tokens, priced.at(running))
        rate = clients / (first + tokens * step)
    itl = step if output > 1 else float("nan")
    tpot = itl * (tokens / (output - 1)) if output > 1 else itl
    whole = first + (tokens if output > 1 else 0.0) * step
    return SteadyState(
        first, tpot, itl, whole, rate * replicas, running, share, limited, priced.cost(running)
    )  # fmt: skip


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
    stages: int, lockstep: int, full: bool, by_cache: bool, share: float, clients: float, limited: str, load: Workload
) -> None:
    """Raise SpecError for loads whose steady state the closed form does not see."""
    why = ""
    if stages > 1:
        why = "micro-batches of a pipeline fill each other's gaps"
    elif full and by_cache:
        why = "the KV cache is full: requests wait for room, lose it and are computed again"
    elif full:
        why = "more requests come than there are seats: they queue"
    elif share > (_MOST_SHARE if lockstep == 1 else _MOST_SHARE_IN_LOCKSTEP):
        why = f"prompts take {share:.0%} of the time: they come in bursts that decodes wait for"
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
    return lengths / lengths.mean()


def relative_spread(load: Workload) -> float:
    """Standard deviation of output lengths over their mean."""
    law = load.lengths
    if isinstance(law, Uniform):
        return (law.high - law.low) / (law.high + law.low) / np.sqrt(3.0)
    own = np.sqrt(np.expm1(law.sigma**2)) if isinstance(law, Lognormal) else 0.0
    return float(np.hypot(own, 0.0 if load.ignore_eos else 1.0))


def _cache_seats(fullest: tuple[Rank, Room], block_size: int, prompt: float, output: float) -> float:
    """Sequences whose mean context fits: half of the output is there on average."""
    rank, room = fullest
    each = float(sequence_kv_bytes(rank, prompt + output / 2, block_size))
    return max(room.kv_available / each, 1.0)


class _Priced:
    """Steps of 1 to ``most`` decodes, alone and with a prompt, priced at once."""

    def __init__(self, steps: Steps, limits: SchedulerLimits, most: float, load: Workload):
        nodes = np.unique(np.rint(np.geomspace(1, max(min(most, limits.max_num_seqs), 1), _NODES))).astype(np.int64)
        prompt, output = load.mean_input_len, load.mean_output_len
        self._nodes, self._prompt = nodes, prompt
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
        return float(np.arange(len(chance)) @ chance / chance.sum())

    def own(self, running: float) -> float:
        """The steps that compute a prompt beside the decodes. [s]"""
        return self._between(self._own, running)

    def burst(self, prompts: int, budget: int, front: FrontEnd) -> float:
        """Mean time to first token of ``prompts`` that come at once: read one by one, computed a step full at a time.

        Those whose prompts are done decode beside the others.
        """
        together = min(max(budget / self._new, 1.0), prompts)
        before = np.arange(prompts)
        # One after the other, the decodes of a step shared by its prompts.
        each = np.interp(np.maximum(before, 1.0), self._nodes, self._extra)
        each = each + np.interp(before, self._nodes, self._alone) * (before > 0) / together
        read = front.request_s + front.prompt_token_s * self._prompt * (before + 1.0)
        passed = np.cumsum(each)
        ends = passed + np.maximum.accumulate(np.maximum(read + each - passed, 0.0))
        # A token comes when its step ends; where more than one step is needed, the first takes the first prompt alone.
        rest_of_step = (together - 1.0) / 2.0 * float(each.mean())
        return float(ends.mean()) + rest_of_step + (0.0 if together >= prompts else self.own(1))

    def _between(self, values: Array, running: float) -> float:
        return float(np.interp(running, self._nodes, values))

    def cost(self, running: float) -> Cost:
        """Both kinds of step at the nearest priced size."""
        place = int(np.argmin(np.abs(self._nodes - running)))

        def one(x: Any) -> float:
            x = np.asarray(x, float)
            return float(x.reshape(-1, len(self._nodes)).mean(0)[place] if x.size > 1 else x.reshape(-1)[0])

        return summed("step", [reduced(self._decode, one), reduced(self._mixed, one)])
