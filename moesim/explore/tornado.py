"""Which parameter of the hardware, the model, the engine or the load moves a metric most, per cent by per cent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any, ClassVar

from moesim.assembly import assemble
from moesim.errors import DoesNotFit, Problem, SpecError, nearest
from moesim.explore.frames import frame
from moesim.explore.pool import pool
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.changed import FIELDS, parted
from moesim.inputs.scenario import Scenario, require_scenario
from moesim.metrics import LOAD_METRICS, STATIC_METRICS
from moesim.models.catalogue import config_of
from moesim.prediction import predict
from moesim.presented import Presented
from moesim.serving.under_load import memory_side

_MODEL = (
    "num_hidden_layers", "num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok",
    "moe_intermediate_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip
"""Fields of a config.json that are numbers of something."""
_LOAD = ("input_len", "output_len", "batch_size", "max_concurrency", "request_rate")
_HARDWARE = tuple(name for name in FIELDS if name not in {"dense", "memory", "power", "dense_fp32"})


_LEAST = 0.005
"""Elasticity below which a parameter does not matter."""


@dataclass(frozen=True)
class Arm:
    """One parameter moved down and up."""

    parameter: str
    values: tuple[float, float, float]
    """Less, as it is, more."""
    changes: tuple[float | None, float | None]
    """Relative change of the metric under less and under more; None where that cannot be predicted."""
    problem: str = ""

    @property
    def elasticity(self) -> float:
        """Per cent of the metric for a per cent of the parameter: the slope between the two ends, in logarithms."""
        points = [(self.values[1], 1.0)]
        points += [(self.values[i], 1.0 + c) for i, c in ((0, self.changes[0]), (2, self.changes[1])) if c is not None]
        (low, first), (high, last) = min(points), max(points)
        return log(last / first) / log(high / low) if high > low and first > 0 and last > 0 else 0.0

    @property
    def moves(self) -> bool:
        """Whether the metric changes at all."""
        return abs(self.elasticity) >= _LEAST


@dataclass(frozen=True)
class Tornado(Presented):
    """Every parameter's arm, the largest elasticity first."""

    _text: ClassVar[str] = "tornado_text:tornado_text"

    scenario: Scenario
    metric: str
    value: float
    by: float
    arms: tuple[Arm, ...]

    def to_frame(self) -> Any:
        """A row for each parameter."""
        return frame(
            [
                {"parameter": arm.parameter, "less": arm.values[0], "value": arm.values[1], "more": arm.values[2],
                 "change_under_less": arm.changes[0], "change_under_more": arm.changes[1],
                 "elasticity": arm.elasticity, "problem": arm.problem}
                for arm in self.arms
            ],
            {},
        )  # fmt: skip


def check_metric(scenario: Scenario, metric: str) -> None:
    """Raise SpecError where a prediction of the scenario will not have the metric, before it is made."""
    load = scenario.workload
    known = STATIC_METRICS if load.arrivals == "batch" else LOAD_METRICS
    if load.output_len == 1:
        known = tuple(name for name in known if not any(part in name for part in ("tpot", "itl", "decode_step")))
    if metric not in known:
        found = nearest(metric, known, "moesim predict --help")
        raise SpecError([Problem(f"'{metric}' is not a metric of this prediction; {found}", "--metric")])


def tornado(
    scenario: Scenario, metric: str = "mean_tpot_ms", by: float = 0.1, jobs: int = 1,
    told: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Tornado:  # fmt: skip
    """Move every parameter down and up by a share of it, one at a time, and predict again.

    Parameters
    ----------
    metric : str
        A metric of the prediction.
    by : float
        The share; whole numbers move by one at least.

    Raises
    ------
    SpecError
        An unknown metric or a share that is none; what ``predict`` raises of the scenario itself.
    """
    require_scenario(scenario)
    if not 0.0 < by < 1.0:
        raise SpecError([Problem(f"{by:g} is no share of a parameter; above 0 and below 1 is accepted", "--by")])
    check_metric(scenario, metric)
    before = predict(scenario)
    value, found = before[metric], list(_parameters(scenario, by))
    ends = [change for _, _, changes in found for change in changes]
    results = []
    with pool(jobs) as workers:
        for result in workers.map(partial(_metric, scenario, metric), ends):
            results.append(result)
            told("parameters moved", len(results), len(ends))
    arms = []
    for i, (name, values, _) in enumerate(found):
        low, high = results[2 * i : 2 * i + 2]
        problem = next((x for x in (low, high) if isinstance(x, str)), "")
        changes = tuple(None if isinstance(x, str) else x / value - 1.0 for x in (low, high))
        arms.append(Arm(name, values, (changes[0], changes[1]), problem))
    arms.sort(key=lambda arm: (-abs(arm.elasticity), arm.parameter))
    return Tornado(scenario, metric, value, by, tuple(arms))


def _metric(scenario: Scenario, metric: str, change: dict[str, Any] | None) -> float | str:
    if change is None:
        return "has no value beside its own"
    try:
        return predict(scenario.with_(**change))[metric]
    except SpecError as error:
        return error.problems[0].message
    except DoesNotFit as error:
        return str(error)


_Parameter = tuple[str, tuple[float, float, float], tuple[dict[str, Any] | None, dict[str, Any] | None]]


def _parameters(scenario: Scenario, by: float) -> Iterator[_Parameter]:
    yield from _of_hardware(scenario, by)
    config = config_of(scenario.model, scenario.engine.hf_overrides)
    for name in _MODEL:
        value = config.get(name)
        if isinstance(value, int) and value > 1:
            grain = _grain(name, value, config)
            yield _whole(f"model {name}", value, by, partial(_overridden, scenario, name), grain)
    for name in _LOAD:
        value = getattr(scenario.workload, name)
        if isinstance(value, int) and value > 1:
            yield _whole(f"load {name}", value, by, lambda x, name=name: {f"workload__{name}": x})
        elif isinstance(value, float):
            less, more = value * (1 - by), value * (1 + by)
            yield f"load {name}", (less, value, more), ({name: less}, {name: more})
    tokens = assemble(memory_side(scenario)).limits.max_num_batched_tokens
    yield _whole("engine max_num_batched_tokens", tokens, by, lambda x: {"max_num_batched_tokens": x})


def _grain(name: str, value: int, config: dict[str, Any]) -> int:
    """By how much a field can change and its shapes stay whole."""
    if name == "num_attention_heads":
        return int(config.get("num_key_value_heads") or 1)
    if name == "num_key_value_heads":
        return value
    return min(value & -value, 128) if "size" in name else 1


def _of_hardware(scenario: Scenario, by: float) -> Iterator[_Parameter]:
    hardware, apart = load_hardware(scenario.hardware), parted(scenario.hardware)
    name, factors = apart if apart else (scenario.hardware, {})
    for field in _HARDWARE:
        part = hardware.links if field in {"link", "host_link", "nic"} else hardware.gpu
        figure = getattr(part, {"link": "gpu_to_gpu", "host_link": "host"}.get(field, field))
        if figure is None:
            continue
        ends = []
        for factor in (1 - by, 1 + by):
            changed = factors | {field: factors.get(field, 1.0) * factor}
            text = ", ".join(f"{key}*{value:.9g}" for key, value in changed.items())
            ends.append({"hardware": f"{name}[{text}]"})
        value = figure.value
        yield f"GPU {field}", (value * (1 - by), value, value * (1 + by)), (ends[0], ends[1])


def _whole(name: str, value: int, by: float, change: Callable[[int], dict[str, Any]], grain: int = 1) -> _Parameter:
    """A whole number, moved by whole grains, one at least."""
    step = max(round(value * by / grain), 1) * grain
    less = value - step
    return name, (less, value, value + step), (change(less) if less > 0 else None, change(value + step))


def _overridden(scenario: Scenario, name: str, value: int) -> dict[str, Any]:
    return {"hf_overrides": {**scenario.engine.hf_overrides, name: value}}
