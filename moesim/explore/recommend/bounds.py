"""What no engine can beat: floors from a model's bytes and arithmetic, a datasheet's peaks and a price list.

No fit enters. A token passes the bytes of its active weights and their arithmetic, shared at best by all GPUs of an
engine (a pipeline's stages follow one another); a prompt passes its arithmetic; a step of k drafts gives k + 1 tokens
at most.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from moesim.explore.recommend.measures import higher
from moesim.explore.recommend.space import Deployment, Engine
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.workload import Workload
from moesim.models.model import Model
from moesim.ops.formats import bytes_per_weight

_ARITHMETIC = ("bfloat16", "fp8", "int8", "nvfp4")


class Weights(NamedTuple):
    """What a model in a format holds, and a token of it passes. [B, B, FLOP, FLOP]"""

    held: float
    passed: float
    flop: float
    head_flop: float
    """Of ``flop``, what a prompt passes once alone."""

    def prompt_flop(self, tokens: float) -> float:
        """Arithmetic of a prompt, whose last token alone passes the head. [FLOP]"""
        return self.flop * tokens - self.head_flop * max(tokens - 1.0, 0.0)


@lru_cache(maxsize=256)
def weights(model: Model) -> Weights:
    """At no more than the narrowest of its formats for every matrix."""
    narrowest = min(bytes_per_weight(name) for name in (*model.formats, model.head_weights))
    embedding = model.embedding_parameters
    held = narrowest * (model.parameters - embedding - model.other_parameters)
    flop = model.flop_per_token
    passed = narrowest * (flop / 2.0 if model.moe is None else model.active_parameters)
    return Weights(held, passed, flop, 2.0 * model.vocab_size * model.hidden_size)


class Floor(NamedTuple):
    """Of an engine; shares of it that a deployment's load has do not matter."""

    ttft_s: float
    tpot_s: float


def fits(engine: Engine, model: Model) -> bool:
    """Whether the weights alone are no more than all memory of the engine's GPUs."""
    return weights(model).held <= engine.world * load_hardware(engine.gpu).gpu.memory.value


def floor(engine: Engine, model: Model, load: Workload) -> Floor:
    """No time to a first token, and no time per token, is shorter. [s]"""
    hardware, need = load_hardware(engine.gpu), weights(model)
    peak = max(hardware.peak_flop_per_s(name) for name in _ARITHMETIC)
    shared = engine.tp * engine.dp
    new = load.mean_input_len * (1.0 - load.cached_share) * _shortest(load)
    token = max(need.passed / (shared * hardware.gpu.hbm_bandwidth.value), need.flop / (shared * peak))
    return Floor(max(need.prompt_flop(new) / (engine.world * peak), token), token / (engine.drafts + 1))


def _shortest(load: Workload) -> float:
    """Of prompt lengths over their mean: means are bounded by means, single requests by the shortest."""
    return 1.0 if load.lengths.kind == "fixed" else 0.0


def most_requests_per_s(deployment: Deployment, model: Model, load: Workload) -> float:
    """No deployment answers more: what is asked for, and the arithmetic of a request on all its GPUs at peak. [1/s]"""
    hardware, need = load_hardware(deployment.engine.gpu), weights(model)
    peak = max(hardware.peak_flop_per_s(name) for name in _ARITHMETIC)
    new = load.mean_input_len * (1.0 - load.cached_share)
    work = need.prompt_flop(new) + need.flop * max(load.mean_output_len - 1.0, 0.0)
    by_work = deployment.gpus * peak / work
    low = floor(deployment.engine, model, load)
    by_clients = (load.max_concurrency or float("inf")) / (low.ttft_s + (load.mean_output_len - 1.0) * low.tpot_s)
    return min(by_work, by_clients, load.request_rate or float("inf"))


def optimistic(measure: str, deployment: Deployment, model: Model, load: Workload, usd_per_hour: float | None) -> float:
    """The best that a measure can conceivably be; without meaning for those that nothing bounds."""
    if measure == "gpus":
        return float(deployment.gpus)
    if measure.startswith("usd") and usd_per_hour is None:
        return float("inf")
    if measure == "usd_per_hour":
        return usd_per_hour or 0.0
    low = floor(deployment.engine, model, load)
    name = measure.rpartition("_")[2]
    if name in {"ttft", "tpot", "itl", "e2el"}:
        whole = low.ttft_s + (load.mean_output_len - 1.0) * low.tpot_s * _shortest(load)
        return {"ttft": low.ttft_s, "tpot": low.tpot_s, "itl": low.tpot_s, "e2el": whole}[name]
    rate = most_requests_per_s(deployment, model, load)
    out, every = rate * load.mean_output_len, rate * (load.mean_output_len + load.mean_input_len)
    if measure.startswith("usd"):
        tokens = out if measure.endswith("output_tokens") else every
        return (usd_per_hour or 0.0) / 3600.0 / tokens * 1e6
    rates = {
        "request_throughput": rate, "output_throughput": out, "total_token_throughput": every,
        "output_throughput_per_gpu": out / deployment.gpus,
    }  # fmt: skip
    return rates.get(measure, float("inf") if higher(measure) else 0.0)
