"""Prefill and decode on engines of their own, in closed form: two queues in a row, tied by Little's law.

Prompts wait for one of the prefill engines as in an M/D/1 queue each, their cache crosses the network, and answers
share decode engines whose steps no prompt holds up. An estimate that finds promising numbers of engines; a simulation
decides (``serving/disaggregated.py``).
"""

from __future__ import annotations

from typing import NamedTuple

from moesim.engines.speculation import mean_rounds
from moesim.inputs.workload import Workload
from moesim.serving.priced_steps import PricedSteps
from moesim.serving.simulation import FrontEnd

_ROUNDS = 40
_FULL = 0.98
"""Of the time that prefill engines compute: above it their queue has no mean."""


class Apart(NamedTuple):
    """Means over requests."""

    ttft_s: float
    tpot_s: float
    request_rate: float
    """Answers a second. [1/s]"""
    running: float
    """Sequences that decode at once on a decode engine."""
    keeps_up: bool
    """Whether it answers as fast as requests come."""
    prefill_busy: float
    """Of the time, a prefill engine computes."""


def apart_state(
    priced: PricedSteps, most: float, load: Workload, front: FrontEnd, engines: tuple[int, int], transfer_s: float
) -> Apart:
    """Latency and throughput of ``engines`` (prefill, decode).

    Parameters
    ----------
    most : float
        Sequences that a decode engine holds at once.
    transfer_s : float
        For a prompt's keys and values to cross the network. [s]
    """
    prefill, decode = engines
    tokens = max(mean_rounds((), load.mean_output_len - 1), 0.05)
    service, in_a_row = priced.own(1.0), min(priced.own(1.0), priced.in_a_row(1.0))
    read = front.request_s + front.prompt_token_s * load.mean_input_len
    clients = load.max_concurrency or float("inf")

    def at(running: float) -> tuple[float, float, float]:
        """(a step, answers a second, time to first token) with so many on each decode engine."""
        step = priced.at(running)[0]
        rate = decode * running / (tokens * step)
        busy = rate * in_a_row / prefill
        if busy >= _FULL:
            return step, rate, float("inf")
        others = 1.0 - 1.0 / clients
        return step, rate, read + service * (1.0 + others * busy / (2.0 * (1.0 - busy))) + transfer_s + step / 2.0

    def too_many(running: float) -> bool:
        _, rate, first = at(running)
        return rate > (load.request_rate or float("inf")) or decode * running + rate * first > clients

    low, high = 0.0, min(most, clients / decode)
    if too_many(high):
        for _ in range(_ROUNDS):
            middle = (low + high) / 2.0
            low, high = (low, middle) if too_many(middle) else (middle, high)
    running = max(low if low else high, 1e-6) if too_many(high) else high
    step, rate, first = at(running)
    if clients < float("inf") and not load.request_rate:
        # Whoever is not decoding waits for the first token.
        first = max(clients / rate - tokens * step, 0.0)
    keeps = load.request_rate is None or rate >= 0.98 * load.request_rate
    return Apart(first, step, rate, running, keeps, min(rate * in_a_row / prefill, 1.0))
