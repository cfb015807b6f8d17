"""Start one engine and measure batches and loads on it, each a row of the log."""

from __future__ import annotations

import importlib
import itertools
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from moesim.bench.engine.plan import Arrivals, arrivals_of
from moesim.bench.engine.settings import EngineSettings, memory_point, set_environment
from moesim.bench.engine.steps import COLUMNS, StepLog
from moesim.bench.environment import nvml
from moesim.bench.errors import BenchError, DeviceLost
from moesim.bench.log import MEMORY, REFUSED, Log
from moesim.bench.point import Point
from moesim.bench.power import LEAST_S, MEAN, Meter
from moesim.bench.session import Told

_TEMPERATURE = 1.0
"""Greedy decoding of random weights falls into cycles, and all tokens into the same experts."""
_ROUTING_DRAWS = 8
_OUT_OF_ROOM = ("out of memory", "No available memory for the cache blocks", "larger than the maximum number of tokens",
                "estimated maximum model length")  # fmt: skip


def measure_engine(
    settings: EngineSettings,
    points: Sequence[Point],
    log: Log,
    device: str,
    deadline: float,
    told: Told = lambda what, at: None,
) -> None:
    """Start an engine, note its memory, measure ``points`` until ``deadline`` (of ``time.monotonic``).

    Raises
    ------
    BenchError
        vLLM is missing, or will not start for another reason than memory; too little memory is a row of its own.
    """
    todo, place = [p for p in points if p.key not in log.done], memory_point(settings)
    if place.key in log.failed:
        raise BenchError(f"it did not start before, and is not tried again: {log.failed[place.key]}")
    if not todo and place.key in log.done:
        return
    told("begin", place)
    begun = time.time()
    try:
        engine = _Engine(settings, device)
    except BenchError:
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {str(error).strip()[:600]}"
        memory = any(reason in words for reason in _OUT_OF_ROOM)
        log.add(place, {"failed": words, "cause": MEMORY if memory else REFUSED, "at": begun})
        told("failed", place)
        if memory:
            return
        raise BenchError(f"vLLM does not start on '{settings.model}': {words}") from None
    log.add(place, {"memory": engine.memory(), "unstable": [], "start_s": time.time() - begun, "at": begun})
    told("measured", place)
    longest = 0.0
    for point in todo:
        if time.monotonic() + 1.5 * longest >= deadline:
            return
        told("begin", point)
        begin = time.monotonic()
        try:
            row = engine.batch(point) if point.table == "engine_batch" else engine.load(point)
        except Exception as error:
            # The engine's state is not known any more: the row says why, the next process goes on after it.
            log.add(point, {"failed": f"{type(error).__name__}: {str(error).strip()[:300]}", "at": time.time()})
            told("failed", point)
            raise DeviceLost(str(error)) from None
        longest = max(longest, time.monotonic() - begin)
        log.add(point, row)
        told("measured", point)


class _Engine:
    """vLLM in this process, stepped by hand."""

    def __init__(self, settings: EngineSettings, device: str):
        set_environment(settings.environment)
        try:
            vllm: Any = importlib.import_module("vllm")
        except ModuleNotFoundError as error:
            raise BenchError(f"engine runs need vLLM, and '{error.name}' is not installed") from None
        if settings.routing != "natural":
            _simulate_routing(settings.routing)
        self.llm = vllm.LLM(**settings.arguments(device))
        self.engine: Any = self.llm.llm_engine
        self.sampling: Any = vllm.SamplingParams
        self.steps, self.meter = StepLog(self.engine), Meter(nvml() if device == "cuda" else None)
        self.vocabulary = self.engine.vllm_config.model_config.get_vocab_size()
        self.ids, self.draw, self.warm = itertools.count(), random.Random(0), set[tuple[int, int]]()
        for batch in (1, 2, 8):
            self._run([(0.0, min(64, settings.max_model_len // 2), 3)] * min(batch, settings.max_num_seqs))

    def memory(self) -> dict[str, Any]:
        """What vLLM's own profile found, in bytes, and the cache it made of the rest."""
        config = self.engine.vllm_config
        found: dict[str, Any] = {
            "kv_blocks": config.cache_config.num_gpu_blocks,
            "block_size": config.cache_config.block_size,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "async_scheduling": bool(config.scheduler_config.async_scheduling),
            "cudagraph_mode": str(config.compilation_config.cudagraph_mode),
        }
        # Several ranks have their workers in processes of their own, which do not show this.
        worker: Any = getattr(self.engine.engine_core.engine_core.model_executor, "driver_worker", None)
        worker = getattr(worker, "worker", worker)
        for name, place in (
            ("weights_bytes", "model_runner.model_memory_usage"),
            ("peak_activation_bytes", "peak_activation_memory"),
            ("non_torch_bytes", "non_torch_memory"),
            ("cuda_graph_estimate_bytes", "cudagraph_memory_estimate"),
            ("kv_available_bytes", "available_kv_cache_memory_bytes"),
        ):
            value: Any = worker
            for part in place.split("."):
                value = getattr(value, part, None)
            if value is not None:
                found[name] = int(value)
        return found

    def batch(self, point: Point) -> dict[str, Any]:
        """Requests that arrive together: time to first token, gaps between tokens, every step."""
        batch, tokens_in, tokens_out = (int(point.columns[n]) for n in ("batch", "input_len", "output_len"))
        if (batch, tokens_in) not in self.warm:
            self._run([(0.0, tokens_in, 2)] * batch)
            self.warm.add((batch, tokens_in))
        asked = [(0.0, tokens_in, tokens_out)] * batch
        row = self._measured(asked)
        return row if point.columns["repetition"] or MEAN in row else row | self._drawn(asked)

    def load(self, point: Point) -> dict[str, Any]:
        """Requests as they arrive over time."""
        return self._measured(arrivals_of(point))

    def _measured(self, asked: Arrivals) -> dict[str, Any]:
        at = time.time()
        self.steps.begin()
        self.meter.begin()
        arrivals, answers, took = self._run(asked)
        drawn = self.meter.since()
        first = [tokens[0] - arrivals[name] for name, tokens in answers.items()]
        # Tokens that come together, as drafts that are kept do, are one gap apart from those before.
        gaps = [b - a for tokens in answers.values() for a, b in itertools.pairwise(dict.fromkeys(tokens))]
        each = [(t[-1] - t[0]) / (len(t) - 1) for t in answers.values() if len(t) > 1]
        whole = [t[-1] - arrivals[name] for name, t in answers.items()]
        tokens = sum(len(t) for t in answers.values())
        found = {
            **_summary("ttft_s", first), **_summary("itl_s", gaps), **_summary("tpot_s", each),
            **_summary("e2el_s", whole), "took_s": took, "output_throughput": tokens / took,
        }  # fmt: skip
        each_request = [[arrivals[n], t[0] - arrivals[n], t[-1] - arrivals[n], len(t)] for n, t in answers.items()]
        return {
            **found, **drawn, "requests": each_request,
            "preemptions": self.steps.preemptions, "steps": {"columns": COLUMNS, "rows": self.steps.rows},
            "unstable": [], "at": at,
        }  # fmt: skip

    def _drawn(self, asked: Arrivals) -> dict[str, float]:
        """What is drawn by a batch that is over before the meter tells: by the same one again and again."""
        if not self.meter.reads:
            return {}
        self.meter.begin()
        until = time.monotonic() + 1.2 * LEAST_S
        while time.monotonic() < until:
            self._run(asked)
        return self.meter.since()

    def _run(self, asked: Arrivals) -> tuple[dict[str, float], dict[str, list[float]], float]:
        """(arrival, times of tokens) of each request, and how long all took. [s from the start]"""
        arrivals: dict[str, float] = {}
        answers: dict[str, list[float]] = {}
        waiting = self._requests(asked)
        coming = next(waiting, None)
        while coming is not None and coming[0] == 0.0:
            # Requests that come together are handed over before the clock starts.
            coming = self._add(*coming, arrivals, answers) or next(waiting, None)
        start = time.perf_counter()
        while coming is not None or self.engine.has_unfinished_requests():
            now = time.perf_counter() - start
            while coming is not None and coming[0] <= now:
                coming = self._add(*coming, arrivals, answers) or next(waiting, None)
            if not self.engine.has_unfinished_requests():
                time.sleep(max(0.0, min(0.002, (coming[0] if coming else now) - now)))
                continue
            for output in self.engine.step():
                at = time.perf_counter() - start
                got = answers[output.request_id]
                got.extend([at] * (len(output.outputs[0].token_ids) - len(got)))
        return arrivals, answers, time.perf_counter() - start

    def _add(
        self, at: float, prompt: list[int], length: int, arrivals: dict[str, float], answers: dict[str, list[float]]
    ) -> None:
        name = str(next(self.ids))
        arrivals[name], answers[name] = at, []
        params = self.sampling(temperature=_TEMPERATURE, max_tokens=length, ignore_eos=True, detokenize=False)
        self.engine.add_request(name, {"prompt_token_ids": prompt}, params)

    def _requests(self, asked: Arrivals) -> Iterator[tuple[float, list[int], int]]:
        """Prompts are drawn before the clock starts."""
        made = [
            (at, [self.draw.randrange(10, self.vocabulary - 10) for _ in range(tokens_in)], tokens_out)
            for at, tokens_in, tokens_out in sorted(asked)
        ]
        return iter(made)


def _summary(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles under vLLM bench's words; nothing where there was nothing to measure."""
    if not values:
        return {}
    order = sorted(values)

    def at(share: float) -> float:
        return order[min(len(order) - 1, int(share * len(order)))]

    return {
        f"mean_{name}": statistics.fmean(order), f"median_{name}": statistics.median(order), f"p90_{name}": at(0.9),
        f"p99_{name}": at(0.99),
    }  # fmt: skip


def _simulate_routing(distribution: str) -> None:
    """Register a routing of ours with vLLM's simulator, in place of the model's own router.

    Drawn outside the timed steps: several draws for each number of tokens, which layers take in turn.
    """
    import torch

    from moesim.bench.kernels.routes import Chosen, routes

    library: Any = importlib.import_module("vllm.model_executor.layers.fused_moe.router.routing_simulator_router")
    drawn: dict[tuple[int, int, int], Iterator[Chosen]] = {}

    class Routed(library.RoutingStrategy):
        """Popularity falls with the expert's number, the same in every layer."""

        def route_tokens(self, hidden_states: Any, router_logits: Any, top_k: int, indices_type: Any = None) -> Any:
            tokens, experts = router_logits.shape
            key = (tokens, experts, top_k)
            if key not in drawn:
                draws = routes(str(hidden_states.device), *key, distribution, _ROUTING_DRAWS, seed=None)
                drawn[key] = itertools.cycle([(w, i.to(indices_type or torch.int32)) for w, i in draws])
            return next(drawn[key])

    library.RoutingSimulator.register_strategy("moesim", Routed())
    os.environ["VLLM_MOE_ROUTING_SIMULATION_STRATEGY"] = "moesim"
