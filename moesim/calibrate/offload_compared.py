"""Published runs of offloading systems beside what the code predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from moesim.assembly import assemble
from moesim.calibrate.offload import hit_rate_curves
from moesim.errors import DoesNotFit
from moesim.inputs.loading import from_data
from moesim.inputs.offload_fits import offload_fits
from moesim.inputs.offload_runs import PublishedRun, published, rows_of, runs
from moesim.memory import weight_bytes
from moesim.offload import eager
from moesim.offload.hit_rates import hit_rate
from moesim.offload.locality import Locality
from moesim.offload.memory import expert_bytes
from moesim.offload.policies import drawn_requests, hits
from moesim.offload.tiers import Tiers
from moesim.outcome import Prediction
from moesim.prediction import predict

_STEPS, _CHAINS = 1500, 64
INDEPENDENT = ((8, 2, 0.0), (8, 2, 1.0), (64, 8, 0.0), (64, 8, 0.8), (64, 8, 1.25), (128, 8, 1.0))
"""(experts, top-k, Zipf exponent) for which simulated caches are held against closed forms."""


@dataclass(frozen=True)
class Compared:
    """A published figure and the prediction of it."""

    name: str
    system: str
    gpu: str
    fits: str
    """What was fitted on it; empty where nothing was."""
    judged: bool
    measured: float
    predicted: float
    low: float
    high: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def compared_runs() -> tuple[list[Compared], list[Compared], list[Compared]]:
    """(seconds of every published run, seconds to the first token, bytes on the GPU where a run states them)."""
    first, memory, known = [], [], runs()
    for run in known:
        if run.ttft_s is None and run.gpu_memory is None:
            continue
        found, head = predict(run.scenario), (run.name, run.system, run.gpu)
        if run.ttft_s is not None:
            first.append(Compared(*head, "", False, run.ttft_s, *_seconds(found, "mean_ttft_ms")))
        if run.gpu_memory is not None:
            assert isinstance(found.memory, Tiers)
            peak = found.memory.gpu
            memory.append(Compared(*head, "", False, run.gpu_memory, peak, peak, peak))
    return compared_times(known), first, memory


def compared_times(known: Sequence[PublishedRun]) -> list[Compared]:
    """Seconds of each run; infinite where it ran and we say that it does not fit."""
    time = []
    for run in known:
        try:
            found = _seconds(predict(run.scenario), run.metric)
        except DoesNotFit:
            found = (float("inf"),) * 3
        time.append(Compared(run.name, run.system, run.gpu, run.fits, run.judged, run.measured_s, *found))
    return time


def _seconds(found: Prediction, name: str) -> tuple[float, float, float]:
    metric = found.metrics[name]
    assert metric is not None
    return metric.value / 1e3, metric.low / 1e3, metric.high / 1e3


def compared_sizes() -> list[Compared]:
    """Bytes of all weights in several formats."""
    data = published()
    table, found = rows_of("offload-calibration.csv"), []
    for size in data["sizes"]:
        formats = {key: size[key] for key in ("experts_format", "attention_format")}
        parts = assemble(_scenario(data, "rtx-a6000", {"system": "mixtral-offloading", **formats}))
        predicted = weight_bytes(parts.rank)
        measured = float(table[size["row"] - 1]["value"]) * 2**30
        name = f"{formats['experts_format']} experts, {formats['attention_format']} attention"
        found.append(Compared(name, "model size", "", "", False, measured, predicted, predicted, predicted))
    return found


def compared_expert() -> list[Compared]:
    """One 16-bit expert of Mixtral: over the link, on the GPU, on the CPU."""
    data = published()
    rows, table = data["expert"], rows_of("offload-calibration.csv")
    parts = assemble(_scenario(data, rows["gpu"], {"system": "fiddler", "host_memory": "pinned"}))
    steps: Any = parts.steps
    ffn, around = parts.rank.model.moe, steps.around
    assert ffn is not None
    each = expert_bytes(parts.rank, ffn)
    on_gpu = eager.expert_cost(steps.machine, around, parts.rank, ffn, np.asarray(1.0)).seconds
    flop = 2.0 * ffn.expert_parameters(parts.rank.model.hidden_size)
    predicted = {
        "copy_row": ("one expert over PCIe", around.copy_seconds(each)),
        "gpu_row": ("one expert on the GPU", float(on_gpu)),
        "cpu_row": ("one expert on the CPU", float(around.cpu_seconds(each, flop))),
    }
    measured = {key: float(table[rows[key] - 1]["value"]) / 1e3 for key in predicted}
    return [
        Compared(name, "fiddler", rows["gpu"], "", False, measured[key], value, value, value)
        for key, (name, value) in predicted.items()
    ]


def _scenario(data: dict[str, Any], gpu: str, offload: dict[str, Any]) -> Any:
    settings = {
        "model": data["model"], "hardware": gpu, "workload": data["workload"], "routing": {"kind": "locality"},
        "offload": offload,
    }  # fmt: skip
    return from_data(settings, "runs.yaml")


@cache
def simulated_against_closed() -> list[tuple[str, str, float]]:
    """(requests, policy, largest difference of hit rates over cache sizes) for independent requests."""
    found = []
    for experts, top_k, skew in INDEPENDENT:
        locality = Locality.zipf(experts, top_k, 0.0, skew)
        requests = drawn_requests(locality, 1, _CHAINS, _STEPS)
        popular = np.asarray(locality.inclusion)
        sizes = [n for n in (experts // 8, experts // 4, experts // 2, 3 * experts // 4) if n >= top_k]
        for policy in ("lru", "static"):
            gap = [abs(hits(policy, requests, n, popular) - hit_rate(policy, locality, n)) for n in sorted(set(sizes))]
            found.append((f"{experts} experts, top {top_k}, Zipf {skew:g}", policy, max(gap)))
    return found


def hit_rate_errors() -> dict[str, tuple[float, float]]:
    """Model -> (root mean square error, largest error) of LRU hit rates over all cache sizes."""
    from moesim.calibrate.locality import predicted

    found = {}
    for name, curve in hit_rate_curves().items():
        entry = offload_fits()["locality"][name]
        numbers = (entry["persistence"], entry["skew"], curve.slots, entry["drift"])
        error = predicted(curve.experts, curve.top_k, *numbers) - curve.hit_rates
        found[name] = (float(np.sqrt((error**2).mean())), float(np.abs(error).max()))
    return found


def lfu_below_lru() -> dict[str, bool]:
    """Model -> whether LFU was published to hit less than LRU with two tokens' worth of slots."""
    return {row["model"]: row["lfu_below_lru"] == "yes" for row in rows_of("lfu-below-lru.csv")}


def other_policies(model: str) -> dict[str, float]:
    """Hit rates of every policy, with twice the slots that a token asks for, from the locality fitted on LRU."""
    entry = offload_fits()["locality"][model]
    numbers = (entry["persistence"], entry["skew"], entry["drift"])
    locality = Locality.zipf(entry["experts"], entry["top_k"], *numbers)
    slots = 2.0 * entry["top_k"]
    return {policy: hit_rate(policy, locality, slots) for policy in ("lru", "lfu", "fifo", "static", "belady")}
