"""A physical oracle: what no prediction may say, whatever the scenario. Floors come from the model's and the GPU's data
sheets, not from the operations that are priced.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from typing import Any

from moesim import DoesNotFit, SpecError, paths, predict, predict_steady
from moesim.cost.cost import Cost, leaf_seconds
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.model_of import model_of
from moesim.inputs.scenario import Scenario
from moesim.models.catalogue import catalogue
from moesim.models.model import Model
from moesim.models.plan import Plan
from moesim.ops.experts import FusedExperts
from moesim.ops.gemm import Gemm
from moesim.outcome import Offloaded, Prediction, Served, Static, Steady

CLOSE = 1e-6
_STORED = 0.5
"""Bytes that a weight takes at least where a format is not 16 bits wide."""


def violations(found: Prediction) -> list[str]:
    """Every law that a prediction breaks, in words."""
    return [*_numbers(found), *_sums(found.cost), *_orders(found), *_floors(found), *_counts(found)]


def _numbers(found: Prediction) -> Iterator[str]:
    for name, metric in found.metrics.items():
        if metric is None:
            continue
        if not all(math.isfinite(x) for x in (metric.low, metric.value, metric.high)):
            yield f"{name} is {metric}"
        elif not metric.low <= metric.value * (1 + CLOSE) or not metric.value <= metric.high * (1 + CLOSE):
            yield f"{name} is outside its own interval: {metric}"
        elif metric.low < 0 or (metric.value <= 0 and not name.startswith("std")):
            yield f"{name} is not positive: {metric}"


def _sums(cost: Cost) -> Iterator[str]:
    """Every node that says so is the sum of its parts."""
    if cost.children:
        total = sum(child.total for child in cost.children)
        if cost.bound == "sum" and not math.isclose(total, cost.seconds, rel_tol=CLOSE, abs_tol=1e-12):
            yield f"the parts of {cost.name} take {total:g} s, and it {cost.seconds:g} s"
        for child in cost.children:
            yield from _sums(child)
    if not math.isfinite(cost.seconds):
        yield f"{cost.name} takes {cost.seconds} s"


def _orders(found: Prediction) -> Iterator[str]:
    metric = found.metrics
    for statistic in ("mean", "median", "p90", "p99"):
        first, last = metric.get(f"{statistic}_ttft_ms"), metric.get(f"{statistic}_e2el_ms")
        if first is None or last is None:
            continue
        for end in ("low", "value", "high"):
            if getattr(first, end) > getattr(last, end) * (1 + 1e-3):
                yield f"{statistic} TTFT's {end} {getattr(first, end):g} is above E2E's {getattr(last, end):g}"
    for name in ("ttft", "tpot", "itl", "e2el"):
        levels = [metric.get(f"{statistic}_{name}_ms") for statistic in ("median", "p90", "p99")]
        values = [level.value for level in levels if level is not None]
        if values != sorted(values):
            yield f"quantiles of {name} fall: {values}"


def _floors(found: Prediction) -> Iterator[str]:
    """Weights come out of a memory, arithmetic is done, keys and values are read."""
    scenario, load = found.scenario, found.scenario.workload
    if isinstance(found, Offloaded) or scenario.disaggregation is not None or scenario.variant is not None:
        return
    model, hardware, plan = model_of(scenario), load_hardware(scenario.hardware), Plan.of(scenario.engine)
    if model.has_encoder:
        return
    gpus = plan.tp * plan.pp * plan.dp
    rate = max(value.value for name in type(hardware.gpu).model_fields if name.startswith("dense_")
               and (value := getattr(hardware.gpu, name)) is not None)  # fmt: skip
    weights = _least_weights(scenario, model)
    moved = weights / (gpus * hardware.gpu.hbm_bandwidth.value)
    drafts = scenario.engine.drafts
    kept = 1 + (drafts.num_speculative_tokens if drafts is not None else 0)
    token = found.metrics.get("mean_tpot_ms")
    if token is not None and token.value < 1e3 * moved / kept * (1 - CLOSE):
        yield f"a token takes {token.value:g} ms; its weights alone {1e3 * moved / kept:g} ms"
    first = found.metrics["mean_ttft_ms"]
    prompt = (1 - load.cached_share) * (load.input_len or 1) if isinstance(found, Static) else 1
    computed = 2.0 * (_read_parameters(model) - model.hidden_size) * prompt / (gpus * rate)
    least = max(computed, moved if isinstance(found, Static) else 0.0)
    if first is not None and first.value < 1e3 * least * (1 - CLOSE):
        yield f"the first token takes {first.value:g} ms; its prompt at least {1e3 * least:g} ms"
    if isinstance(found, Static) and load.size > 1:
        # All prompts of the batch are through before its last token is.
        whole = load.size * computed
        if found.cost.seconds < whole * (1 - CLOSE):
            yield f"the batch takes {found.cost.seconds:g} s; its prompts at least {whole:g} s"


def _read_parameters(model: Model) -> float:
    """Parameters that a token passes: embeddings are looked up, not read."""
    return max(model.active_parameters - model.embedding_parameters, 1)


def _least_weights(scenario: Scenario, model: Model) -> float:
    wide = scenario.engine.quantization in (None, "none") and model.formats <= {"bfloat16"}
    return _read_parameters(model) * (2.0 if wide else _STORED)


def _counts(found: Prediction) -> Iterator[str]:
    load = found.scenario.workload
    rate, tokens = found["request_throughput"], found["output_throughput"]
    if tokens < rate * (1 - CLOSE):
        yield f"{tokens:g} output tokens a second of {rate:g} answers"
    if found["total_token_throughput"] <= tokens:
        yield "all tokens are no more than those put out"
    if isinstance(found, (Static, Offloaded)) and not load.images:
        expected = load.size * (load.output_len or 1) / found.cost.seconds
        if isinstance(found, Static) and not math.isclose(tokens, expected, rel_tol=1e-3):
            yield f"{tokens:g} tokens/s, and {expected:g} by the batch's duration"
    if isinstance(found, (Served, Steady)) and load.max_concurrency is not None:
        # Little's law: clients who wait for their answers are no more than there are.
        waiting = rate * found["mean_e2el_ms"] / 1e3
        if waiting > load.max_concurrency * (1 + 1e-6):
            yield f"{waiting:g} clients wait of {load.max_concurrency}"
    if isinstance(found, Served):
        yield from _of_run(found)


def _of_run(found: Served) -> Iterator[str]:
    report, scenario = found.report, found.scenario
    apart = scenario.disaggregation
    engines = scenario.engine.data_parallel_size if apart is None else apart.prefill_replicas + apart.decode_replicas
    if report.busy_s > engines * report.duration_s * (1 + CLOSE) + 1e-9:
        yield f"{engines} engines were busy for {report.busy_s:g} s of a run of {report.duration_s:g} s"
    if report.busy_s < max(report.decode_s + report.mixed_s, 0.0) / scenario.engine.pipeline_parallel_size / 2 - 1e-9:
        yield f"engines were busy for {report.busy_s:g} s, and their steps took {report.decode_s + report.mixed_s:g} s"
    if not 0 <= report.kv_used.mean <= 1 + CLOSE:
        yield f"{report.kv_used.mean:g} of the cache is used"
    if report.answered > (scenario.workload.num_prompts or math.inf):
        yield f"{report.answered} answers to {scenario.workload.num_prompts} requests"
    if not math.isclose(
        found["output_throughput"] * report.duration_s, report.output_tokens, rel_tol=CLOSE, abs_tol=1e-6
    ):
        yield "tokens over the duration are not the throughput"


def compared(less: Prediction, more: Prediction, what: str) -> list[str]:
    """What breaks where ``more`` asks no less of everything than ``less``: it may not be faster.

    But for kernels whose tile hangs on the number of tokens: measured, one in fourteen of the experts' times falls by
    more than a hundredth where tokens are added, and one in four of the products'; half of those by more than 4 %.
    """
    faster = less.cost.seconds - more.cost.seconds
    # Of a pipeline the tree shows one stage's kernels, and those of the others as waiting.
    stages = less.scenario.engine.pipeline_parallel_size
    tuned = 0.0 if what == "bandwidth" else stages * max(_tiled_s(less) - _tiled_s(more), 0.0)
    if faster > tuned + CLOSE * less.cost.seconds:
        return [f"{what}: {less.cost.seconds:g} s becomes {more.cost.seconds:g} s"]
    return []


def _tiled_s(found: Prediction) -> float:
    """Time in kernels whose tile hangs on how many tokens there are."""
    return sum(seconds for leaf, seconds in leaf_seconds(found.cost) if _tiled(leaf.op))


def _tiled(op: Any) -> bool:
    return isinstance(op, (FusedExperts, Gemm))


# A seeded grid of scenarios that may be valid.

_CARDS = ("h100-sxm", "h200-sxm", "a100-sxm-80gb", "b200", "h20-141gb", "l40s", "rtx-4090", "dgx-h100", "mi300x",
          "gb200", "rtx-pro-6000", "a100-pcie-80gb", "l4", "tpu-v6e")  # fmt: skip
_FORMATS = (None, None, None, "none", "fp8", "fp8_block", "int4", "nvfp4", "mxfp4", "int8")
_SYSTEMS = tuple(path.stem for path in sorted(paths.SYSTEMS.glob("*.yaml")) if path.stem != "custom")


def drawn(rng: random.Random) -> tuple[dict[str, Any], bool]:
    """(a scenario as a program says it, whether its steady state is asked); it may be refused, or not fit."""
    kind = rng.choice(("static", "static", "static", "served", "steady", "offload", "speculative"))
    engine: dict[str, Any] = {
        "tensor_parallel_size": rng.choice((1, 1, 2, 4, 8)),
        "pipeline_parallel_size": rng.choice((1, 1, 1, 2)),
        "data_parallel_size": rng.choice((1, 1, 1, 2, 4)),
        "enable_expert_parallel": rng.random() < 0.3,
        "quantization": rng.choice(_FORMATS),
        "enforce_eager": rng.random() < 0.1,
        "kv_cache_dtype": rng.choice(("auto", "auto", "fp8")),
    }
    load: dict[str, Any] = {"input_len": _around(rng, 4000), "output_len": _around(rng, 400)}
    data: dict[str, Any] = {"model": rng.choice(catalogue()), "hardware": rng.choice(_CARDS), "engine": engine,
                            "workload": load}  # fmt: skip
    if kind in {"static", "speculative"}:
        load["batch_size"] = _around(rng, 256)
    elif kind == "offload":
        load["batch_size"] = rng.choice((1, 1, 1, 2, 4))
        engine |= {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "data_parallel_size": 1,
                   "enable_expert_parallel": False, "quantization": None, "kv_cache_dtype": "auto"}  # fmt: skip
        data["hardware"] = rng.choice(("rtx-4090", "rtx-3090", "rtx-a6000", "a100-sxm-80gb", "t4", "rtx-4070"))
        data["offload"] = {"system": rng.choice(_SYSTEMS)}
    elif rng.random() < 0.5:
        load |= {"max_concurrency": _around(rng, 64)}
        load["num_prompts"] = min(4 * load["max_concurrency"], 200)
    else:
        load |= {"request_rate": round(rng.uniform(0.05, 20), 3), "num_prompts": rng.randint(1, 100)}
    if kind == "speculative":
        engine["speculative_config"] = {
            "method": rng.choice(("ngram", "eagle", "eagle3", "mtp")), "num_speculative_tokens": rng.randint(1, 6),
            "acceptance_rate": round(rng.uniform(0, 1), 2),
        }  # fmt: skip
    if rng.random() < 0.2:
        data["routing"] = rng.choice(({"kind": "uniform"}, {"kind": "zipf", "s": round(rng.uniform(0, 2), 2)},
                                      {"kind": "balanced"}))  # fmt: skip
    return data, kind == "steady"


def _around(rng: random.Random, most: int) -> int:
    """From 1 to ``most``, small ones as likely as large ones."""
    return max(round(most ** rng.random()), 1)


def asked(data: dict[str, Any], steady: bool) -> Prediction:
    """The prediction. Raises SpecError, DoesNotFit."""
    scenario = Scenario(**data)
    return predict_steady(scenario) if steady else predict(scenario)


def harder(data: dict[str, Any], rng: random.Random) -> tuple[str, dict[str, Any]] | None:
    """(what is changed, the same scenario with more to do or less to do it with) of a static batch."""
    load = data["workload"]
    if "batch_size" not in load or "offload" in data:
        return None
    change = rng.choice(("batch", "prompt", "answer", "bandwidth"))
    if change == "bandwidth":
        return change, data | {"hardware": f"{data['hardware']}[hbm_bandwidth*0.7]"}
    name = {"batch": "batch_size", "prompt": "input_len", "answer": "output_len"}[change]
    return change, data | {"workload": load | {name: load[name] + max(load[name] // 2, 1)}}


def broken_laws(many: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Laws that any of so many valid scenarios breaks, with the scenario."""
    rng, valid = random.Random(seed), 0
    broken: list[tuple[str, dict[str, Any]]] = []
    while valid < many:
        data, steady = drawn(rng)
        try:
            found = asked(data, steady)
        except (SpecError, DoesNotFit):
            continue
        valid += 1
        broken += [(law, data) for law in violations(found)]
        if (more := harder(data, rng)) is not None:
            try:
                broken += [(law, data) for law in compared(found, asked(more[1], False), more[0])]
            except (SpecError, DoesNotFit):
                continue
    return broken


def main(many: int, seed: int) -> int:
    """Tell every law that is broken."""
    wrong, step = 0, 250
    for done in range(0, many, step):
        broken = broken_laws(min(step, many - done), seed + done)
        wrong += len(broken)
        for law, data in broken:
            print(f"{law}\n    {data}", flush=True)
    print(f"{many:,} scenarios, {wrong} laws broken")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**31)))
