"""Record which tokens of which requests the real vLLM V1 scheduler puts into each iteration.

A simulator of a scheduler is only as good as what it is compared with. This drives vLLM's in-process engine by hand on
a CPU, with a tiny model of random weights, and writes one JSON trace per workload and mode. Requests arrive by count of
iterations, never by the clock, so a trace can be replayed exactly. The traces hold no times: a CPU's say nothing.

vLLM switches asynchronous scheduling off on CPUs. The async traces use vLLM's own AsyncScheduler and its own loop over
a queue of two batches (EngineCore.step_with_batch_queue), with that loop chosen here; the model still runs at once.
"""

import argparse
import gc
import importlib
import json
import os
import random
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

Segments = list[list[int]]
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
FIXED = {"load_format": "dummy", "skip_tokenizer_init": True, "enforce_eager": True, "seed": 0, "dtype": "float32"}
DEFAULTS: dict[str, Any] = {
    "block_size": 16,
    "enable_chunked_prefill": True,
    "enable_prefix_caching": False,
    "long_prefill_token_threshold": 0,
    "max_long_partial_prefills": 1,
    "max_model_len": 1024,
    "max_num_batched_tokens": 128,
    "max_num_partial_prefills": 1,
    "max_num_seqs": 8,
    "num_gpu_blocks_override": 400,
    "prefill_schedule_interval": 1,
    "scheduler_reserve_full_isl": True,
    "scheduling_policy": "fcfs",
    "watermark": 0.0,
}
"""Every engine setting of vLLM 0.25 that changes what schedule() does; workloads change some."""
TOKENS_RULE = "segment [seed, n]: r = random.Random(seed), then r.randrange(10, 1000) n times"
ARRIVALS_RULE = (
    "arrives: added just before the first schedule() call, empty or not, that follows this many non-empty ones; "
    "with when_idle, only once every earlier request has finished and its last output is processed"
)


@dataclass
class Request:
    """One request: when it arrives (in non-empty iterations), what its prompt is made of, how much it writes."""

    arrives: int
    segments: Segments
    output_len: int
    when_idle: bool = False


Workload = tuple[list[Request], dict[str, Any]]
"""Requests in order of arrival, and the settings that differ from DEFAULTS."""


def in_order(requests: list[Request]) -> list[Request]:
    """Requests by arrival, the order in which vLLM must get them."""
    return sorted(requests, key=lambda request: request.arrives)


def drawn(seed: int, count: int, prompt: tuple[int, int], output: tuple[int, int], gap: float = 0) -> list[Request]:
    """Requests of random lengths with prompts of their own; gaps are exponential, of mean `gap` iterations."""
    draw, at, requests = random.Random(seed), 0.0, []
    for number in range(count):
        own = 10_000 * seed + number
        requests.append(Request(int(at), [[own, draw.randint(*prompt)]], draw.randint(*output)))
        at += draw.expovariate(1 / gap) if gap else 0
    return requests


def shared(seed: int, count: int, prefixes: list[int], tail: tuple[int, int], output: int, gap: float) -> list[Request]:
    """Requests that each begin with one of a few prefixes (given by length), taken in random order."""
    draw = random.Random(seed)
    requests = drawn(seed, count, tail, (2, output), gap)
    for request in requests:
        which = draw.randrange(len(prefixes))
        request.segments.insert(0, [100 * seed + which, prefixes[which]])
    return requests


def conversations(seed: int, count: int, turns: int, gap: int) -> list[Request]:
    """Conversations whose every turn repeats the prompt of the turn before and adds to it."""
    draw, requests = random.Random(seed), []
    for talk in range(count):
        prompt: Segments = []
        for turn in range(turns):
            prompt = [*prompt, [10_000 * seed + 100 * talk + turn, draw.randint(10, 70)]]
            requests.append(Request(3 * talk + gap * turn + draw.randint(0, 4), prompt, draw.randint(5, 30)))
    return in_order(requests)


def workloads() -> dict[str, Workload]:
    """The workloads to record, by name: each is there for one behaviour, the last ones for all at once."""
    few = [Request(0, [[n, length]], out) for n, (length, out) in enumerate([(37, 20), (5, 40), (120, 12), (64, 33)])]
    long = [Request(12 * n, [[200 + n, 250 + 130 * n]], 15) for n in range(6)]
    whole = [Request(9 * n + late, [[n % 3, (64, 70, 16)[n % 3]]], 6) for n in range(12) for late in (0, 0, 3)]
    bursts = [Request(25 * (n // 8), r.segments, r.output_len) for n, r in enumerate(drawn(14, 48, (5, 90), (5, 40)))]
    idle = [Request(60 * (n // 3), r.segments, r.output_len) for n, r in enumerate(drawn(20, 15, (5, 150), (3, 25)))]
    one = drawn(12, 40, (1, 100), (1, 1), 1.5)
    for request in one[::5]:
        request.output_len = 9
    mix = [*shared(15, 45, [40, 96, 150], (1, 90), 60, 4), *drawn(16, 25, (5, 200), (1, 70), 7)]
    brief = [*drawn(21, 16, (3, 32), (40, 90), 5), *drawn(22, 90, (3, 32), (1, 4), 1.2)]
    pressed = drawn(4, 16, (20, 90), (40, 160), 2)
    caching = {"enable_prefix_caching": True}
    tight = {"num_gpu_blocks_override": 40, "max_num_seqs": 12, "max_model_len": 512}
    small = {"num_gpu_blocks_override": 36, "max_num_seqs": 6, "max_model_len": 512}
    threshold = {"max_num_batched_tokens": 256, "long_prefill_token_threshold": 48}
    whole_only = {"enable_chunked_prefill": False, "max_num_batched_tokens": 300, "max_model_len": 300}
    pair = {"num_gpu_blocks_override": 6, "max_num_seqs": 2, "max_model_len": 80}
    full = {"max_num_batched_tokens": 16, "max_num_seqs": 16}
    no_reserve = tight | {"scheduler_reserve_full_isl": False}
    return {
        "closed_small": (few, {}),
        "long_prefills_mixed": (in_order(drawn(2, 6, (8, 30), (70, 120)) + long), {}),
        "queue_at_max_num_seqs": (drawn(3, 30, (5, 80), (5, 40), 2), {"max_num_seqs": 4}),
        "kv_pressure_preemption": (pressed, tight),
        "kv_pressure_prefix_caching": (pressed, tight | caching),
        "kv_pressure_while_finishing": (in_order(brief), tight | {"num_gpu_blocks_override": 20, "max_model_len": 300}),
        "kv_pressure_two_at_a_time": (drawn(29, 30, (10, 40), (4, 30), 4), pair),
        "prefix_hits": (shared(6, 40, [96, 100, 33, 160], (1, 60), 25, 3), caching),
        "whole_prompt_cached": (in_order(whole), caching),
        "prefix_eviction": (shared(8, 60, [96, 64, 80, 112, 70] * 2, (1, 30), 12, 4), caching | small),
        "poisson_arrivals": (drawn(9, 60, (3, 220), (2, 60), 4), {"max_num_seqs": 16}),
        "long_prefill_threshold": (drawn(10, 20, (20, 500), (5, 40), 4), threshold),
        "decodes_fill_budget": (drawn(11, 36, (2, 60), (10, 50), 1), full),
        "output_len_one": (one, {"max_num_batched_tokens": 64}),
        "multi_turn": (conversations(13, 6, 6, 30), caching),
        "bursts": (bursts, {"max_num_seqs": 12}),
        "mixture": (in_order(mix), caching | tight | {"num_gpu_blocks_override": 56, "max_num_seqs": 10}),
        "watermark": (pressed, tight | {"watermark": 0.15}),
        "no_full_prompt_reserve": (drawn(17, 12, (60, 300), (20, 80), 3), no_reserve),
        "whole_prefills_only": (drawn(18, 40, (5, 250), (3, 40), 3), whole_only),
        "model_len_reached": (drawn(19, 16, (20, 120), (5, 90), 4), {"max_model_len": 128}),
        "idle_gaps": (idle, caching),
    }


class Recorder:
    """Wraps one scheduler's methods and notes every iteration, in the order in which things happen."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.iterations: list[dict[str, Any]] = []
        self.events = ""
        self._pending: deque[dict[str, Any]] = deque()
        self._preempted: list[int] = []
        self._empty = 0
        self._schedule, self._update = scheduler.schedule, scheduler.update_from_output
        self._preempt = scheduler._preempt_request
        scheduler.schedule, scheduler.update_from_output = self.schedule, self.update
        scheduler._preempt_request = self.preempt

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Call the real schedule() and note its choice; a call that schedules nothing is only counted."""
        before, self._preempted = self._preempted, []
        output = self._schedule(*args, **kwargs)
        if not output.total_num_scheduled_tokens:
            self._empty += 1
            self._preempted = before + self._preempted
            return output
        cached = output.scheduled_cached_reqs
        computed = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        computed |= {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        iteration: dict[str, Any] = {
            "tokens": {str(number(name)): [n, computed[name]] for name, n in output.num_scheduled_tokens.items()},
            "preempted": self._preempted,
            "finished": [],
            "free_blocks": self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
        }
        if self._empty:
            iteration["empty_calls_before"] = self._empty
        if before:
            iteration["preempted_in_empty_calls"] = before
        self._empty, self._preempted = 0, []
        self.iterations.append(iteration)
        self._pending.append(iteration)
        self.events += "s"
        return output

    def update(self, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the real update_from_output() and note which requests it finished."""
        result = self._update(scheduled, *args, **kwargs)
        if scheduled.total_num_scheduled_tokens:
            outputs = [output for client in result.values() for output in client.outputs]
            done = [number(output.request_id) for output in outputs if output.finish_reason is not None]
            self._pending.popleft()["finished"] = done
            self.events += "u"
        return result

    def preempt(self, request: Any, *args: Any) -> None:
        """Note a preemption in the order in which the scheduler decides them."""
        self._preempted.append(number(request.request_id))
        self._preempt(request, *args)


def number(name: str) -> int:
    """The request's number in its name, to which vLLM adds a random ending of its own."""
    return int(name.split("-", maxsplit=1)[0])


def tokens_of(segments: Segments) -> list[int]:
    """The prompt that segments stand for; a longer segment of the same seed begins with the shorter one."""
    prompt: list[int] = []
    for seed, length in segments:
        draw = random.Random(seed)
        prompt += [draw.randrange(10, 1000) for _ in range(length)]
    return prompt


def drive(engine: Any, recorder: Recorder, requests: list[Request], sampling: Any) -> None:
    """Step the engine until all is done, adding requests as they come due; an idle engine gets the next ones at once.

    Writes into each request when it was really added, which is earlier than planned after an idle engine.
    """
    ahead = deque(enumerate(requests))
    while ahead or engine.has_unfinished_requests():
        made, due = len(recorder.iterations), ahead[0][1].arrives if ahead else 0
        idle = due > made and not engine.has_unfinished_requests()
        while ahead and ahead[0][1].arrives <= (due if idle else made):
            name, request = ahead.popleft()
            request.arrives, request.when_idle = made, idle
            params = sampling(temperature=1.0, max_tokens=request.output_len, ignore_eos=True, detokenize=False)
            engine.add_request(str(name), {"prompt_token_ids": tokens_of(request.segments)}, params)
        engine.step()


def record(model: str, workload: Workload, asynchronous: bool) -> dict[str, Any]:
    """Run one workload through a new engine and return its trace."""
    vllm = importlib.import_module("vllm")
    requests, changes = workload
    options = DEFAULTS | changes
    if asynchronous:
        options["scheduler_cls"] = "vllm.v1.core.sched.async_scheduler.AsyncScheduler"
    llm = vllm.LLM(model=model, **FIXED, **options)
    core = llm.llm_engine.engine_core.engine_core
    if asynchronous:
        core.batch_queue_size, core.batch_queue = 2, deque(maxlen=2)
        core.step_fn = core.step_with_batch_queue
    scheduler = core.scheduler
    recorder = Recorder(scheduler)
    drive(llm.llm_engine, recorder, requests, vllm.SamplingParams)
    how = "genuine engine, model run on a CPU, in-process, stepped by hand"
    if asynchronous:
        how += "; AsyncScheduler and EngineCore.step_with_batch_queue with a queue of two, chosen by hand"
    return {
        "meta": {
            "engine": f"vllm {vllm.__version__}",
            "how": f"{how}; num_gpu_blocks includes one null block that is never free",
            "model": Path(model).name,
            "scheduler": type(scheduler).__name__,
            "tokens": TOKENS_RULE,
            "arrivals": ARRIVALS_RULE,
        },
        "settings": {name: value for name, value in vars(scheduler.scheduler_config).items() if name in DEFAULTS}
        | {
            "policy": scheduler.policy.value,
            "max_num_scheduled_tokens": scheduler.max_num_scheduled_tokens,
            "max_model_len": scheduler.max_model_len,
            "block_size": scheduler.block_size,
            "num_gpu_blocks": scheduler.kv_cache_manager.block_pool.num_gpu_blocks,
            "enable_prefix_caching": scheduler.cache_config.enable_prefix_caching,
            "async_scheduling": asynchronous,
        },
        "requests": [
            {"id": name, "arrives": asked.arrives, "segments": asked.segments, "output_len": asked.output_len}
            | ({"when_idle": True} if asked.when_idle else {})
            for name, asked in enumerate(requests)
        ],
        "iterations": recorder.iterations,
        "events": recorder.events,
    }


def text(trace: dict[str, Any]) -> str:
    """The trace as JSON, one request and one iteration a line, so that differences can be read."""
    compact = partial(json.dumps, separators=(",", ":"))
    parts = []
    for key, value in trace.items():
        many = isinstance(value, list)
        parts.append(f'"{key}":' + ("[\n" + ",\n".join(map(compact, value)) + "\n]" if many else compact(value)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def summary(trace: dict[str, Any]) -> str:
    """What a trace contains, to see that it shows what its name says."""
    preempted, cached, running = list[str](), [0, 0], set[str]()
    for step in trace["iterations"]:
        stopped = [str(name) for name in step.get("preempted_in_empty_calls", []) + step["preempted"]]
        preempted += stopped
        running -= set(stopped)
        for name, (_, before) in step["tokens"].items():
            cached[name in preempted] += before > 0 and name not in running
        running |= step["tokens"].keys()
    most = max(map(preempted.count, preempted), default=0)
    counts = f"{len(trace['iterations'])} iterations, {len(preempted)} preemptions (at most {most} of one request)"
    return f"{counts}, {cached[0]} new and {cached[1]} resumed requests began with cached blocks"


def main() -> None:
    """Record every workload (or those named) in both modes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where to write the traces")
    parser.add_argument("--model", required=True, help="folder with the tiny model's config.json")
    parser.add_argument("--only", nargs="*", help="names of workloads (default: all)")
    args = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.only or workloads():
        for asynchronous in (False, True):
            trace = record(args.model, workloads()[name], asynchronous)
            path = args.folder / f"{name}.{'async' if asynchronous else 'sync'}.json"
            path.write_text(text(trace), encoding="utf-8")
            print(f"{path.name}: {summary(trace)}", flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
