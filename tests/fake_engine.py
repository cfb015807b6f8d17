"""An engine that stands in for vLLM, and a machine that stands in for one with an H100."""

from __future__ import annotations

import time
import types

STEP_S = 0.002
HERE = {
    "device": "cuda",
    "cpu": "Xeon",
    "cores": 8,
    "gpus": 1,
    "compute_capability": "9.0",
    "gpu": "NVIDIA H100 80GB HBM3",
    "driver": "580",
    "versions": {"vllm": "0.25.1"},
}


class FakeScheduler:
    """Whole prompts in their first step, one token a step afterwards; the fifth step preempts somebody."""

    def __init__(self):
        self.requests, self.steps = {}, 0

    def schedule(self):
        self.steps += 1
        new = [r for r in self.requests.values() if r.done == 0]
        old = [r for r in self.requests.values() if r.done]
        if self.steps == 5 and old:
            self._preempt_request(old[0], 0.0)
        return types.SimpleNamespace(
            scheduled_new_reqs=[types.SimpleNamespace(req_id=r.name, num_computed_tokens=0) for r in new],
            scheduled_cached_reqs=types.SimpleNamespace(
                req_ids=[r.name for r in old], num_computed_tokens=[r.prompt + r.done - 1 for r in old]
            ),
            num_scheduled_tokens={r.name: r.prompt if r.done == 0 else 1 for r in self.requests.values()},
            total_num_scheduled_tokens=len(self.requests),
        )

    def update_from_output(self, chosen, output):
        for name in chosen.num_scheduled_tokens:
            self.requests[name].done += 1
        return {}

    def _preempt_request(self, request, at):
        pass


class FakeEngine:
    def __init__(self):
        self.scheduler = FakeScheduler()
        driver = types.SimpleNamespace(
            model_runner=types.SimpleNamespace(model_memory_usage=13 << 30), peak_activation_memory=1 << 30,
            available_kv_cache_memory_bytes=50 << 30, cudagraph_memory_estimate=0,
        )  # fmt: skip
        executor = types.SimpleNamespace(driver_worker=driver)
        core = types.SimpleNamespace(scheduler=self.scheduler, model_executor=executor)
        self.engine_core = types.SimpleNamespace(engine_core=core)
        self.vllm_config = types.SimpleNamespace(
            model_config=types.SimpleNamespace(get_vocab_size=lambda: 1000),
            cache_config=types.SimpleNamespace(num_gpu_blocks=25_000, block_size=16),
            scheduler_config=types.SimpleNamespace(max_num_batched_tokens=8192, async_scheduling=True),
            compilation_config=types.SimpleNamespace(cudagraph_mode="FULL_DECODE_ONLY"),
        )

    def add_request(self, name, prompt, params):
        ids = prompt["prompt_token_ids"]
        assert all(10 <= token < 990 for token in ids)
        request = types.SimpleNamespace(name=name, prompt=len(ids), done=0, length=params.max_tokens)
        self.scheduler.requests[name] = request

    def has_unfinished_requests(self):
        return bool(self.scheduler.requests)

    def step(self):
        chosen = self.scheduler.schedule()
        time.sleep(STEP_S)
        self.scheduler.update_from_output(chosen, None)
        answers = [
            types.SimpleNamespace(request_id=r.name, outputs=[types.SimpleNamespace(token_ids=[0] * r.done)])
            for r in self.scheduler.requests.values()
        ]
        self.scheduler.requests = {n: r for n, r in self.scheduler.requests.items() if r.done < r.length}
        return answers
