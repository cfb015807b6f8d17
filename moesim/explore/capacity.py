"""How much load an engine takes before an SLO breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from typing import Any, ClassVar, Literal

from moesim.errors import Problem, SpecError
from moesim.inputs.scenario import Scenario, require_scenario
from moesim.outcome import Prediction, Served
from moesim.prediction import predict
from moesim.presented import Presented
from moesim.serving.report import Slo

_MOST_CLIENTS = 8192
_ROUNDS = 15
"""Requests of each client: the burst with which all begin is then fewer than the slowest tenth."""
_LEAST_REQUESTS = 60
_RATE_STEP = 0.02
"""Request rates are found to 2 %."""
_LOADS = 24
"""That a search takes, about."""
_STATISTICS = ("mean", "median", "p90", "p99")


@dataclass(frozen=True)
class Capacity(Presented):
    """The largest load that keeps an SLO, and the next one, which does not."""

    _text: ClassVar[str] = "capacity_text:capacity_text"

    of: str
    """``max_concurrency`` or ``request_rate``."""
    statistic: str
    slo: Slo
    value: float
    """0 where not even the smallest load keeps it."""
    prediction: Prediction | None
    next_value: float | None
    """The smallest load tried that breaks it; None where none did."""
    broken: tuple[str, ...]
    """What breaks there, in sentences."""


def capacity(
    scenario: Scenario, slo: Slo, of: Literal["concurrency", "rate"] | None = None, statistic: str = "p90",
    told: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Capacity:  # fmt: skip
    """Raise the load until the ``statistic`` of a latency leaves the SLO.

    Every load tried is simulated; twice as much at a time, then by halves.

    Raises
    ------
    SpecError
        A trace, or no limit to keep.
    DoesNotFit
        The model does not fit at any load.
    """
    require_scenario(scenario)
    load = scenario.workload
    if load.arrivals == "trace":
        raise SpecError([Problem("a trace has its own arrivals; give max_concurrency or request_rate", "workload")])
    if slo == Slo():
        raise SpecError([Problem("holds no limit; 'ttft:300 tpot:20' is one", "--slo")])
    if statistic not in _STATISTICS:
        raise SpecError([Problem(f"'{statistic}' is not a statistic; {', '.join(_STATISTICS)} are", "statistic")])
    by_rate = of == "rate" or (of is None and load.arrivals == "open_loop")
    tried: dict[float, tuple[Prediction | None, tuple[str, ...]]] = {}

    def breaks(value: float) -> tuple[str, ...]:
        if value not in tried:
            told(f"loads tried, {value:g} now", len(tried), _LOADS)
            tried[value] = _tried(_at(scenario, value, by_rate), slo, statistic)
        return tried[value][1]

    good, bad = (_rates if by_rate else _clients)(breaks)
    name = "request_rate" if by_rate else "max_concurrency"
    return Capacity(
        name, statistic, slo, good, tried[good][0] if good else None, bad, breaks(bad) if bad is not None else ()
    )


def _at(scenario: Scenario, value: float, by_rate: bool) -> Scenario:
    changes: dict[str, Any] = {"workload__batch_size": None}
    if by_rate:
        changes |= {"workload__request_rate": value, "workload__max_concurrency": None, "workload__num_prompts": None}
        return scenario.with_(**changes)
    count = max(_ROUNDS * int(value), _LEAST_REQUESTS)
    changes |= {"workload__request_rate": None, "workload__num_prompts": count}
    return scenario.with_(**changes, workload__max_concurrency=int(value))


def _tried(scenario: Scenario, slo: Slo, statistic: str) -> tuple[Prediction | None, tuple[str, ...]]:
    prediction = predict(scenario, slo)
    broken = []
    for name in ("ttft", "tpot", "e2el"):
        limit, value = 1e3 * getattr(slo, f"{name}_s"), prediction[f"{statistic}_{name}_ms"]
        if limit < float("inf") and isnan(value):
            message = f"an answer of one token has no {name.upper()}; give a longer output_len or another limit"
            raise SpecError([Problem(message, "--slo")])
        if value > limit:
            broken.append(f"{statistic} {name.upper()} is {value:.4g} ms, above {limit:g} ms")
    assert isinstance(prediction, Served)
    report = prediction.report
    if report.arrivals_set_pace and report.waiting.mean > report.running.mean:
        broken.append("requests come faster than they are answered")
    return prediction, tuple(broken)


def _clients(breaks: Any) -> tuple[float, float | None]:
    """(most clients that keep it, fewest found that do not)."""
    if breaks(1):
        return 0, 1
    good, bad = 1, 2
    while not breaks(bad):
        good, bad = bad, 2 * bad
        if bad > _MOST_CLIENTS:
            return good, None
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if breaks(middle) else (middle, bad)
    return good, bad


def _rates(breaks: Any) -> tuple[float, float | None]:
    """The same of requests a second, to ``_RATE_STEP``."""
    good, bad = 0.0, 0.25
    while not breaks(bad):
        good, bad = bad, 2 * bad
        if bad > _MOST_CLIENTS:
            return good, None
    while not good:
        if bad < 1e-3:
            return 0.0, bad
        lower = bad / 2
        good, bad = (0.0, lower) if breaks(lower) else (lower, bad)
    while bad / good > 1 + _RATE_STEP:
        middle = float(f"{(good * bad) ** 0.5:.4g}")
        if middle in (good, bad):
            break
        good, bad = (good, middle) if breaks(middle) else (middle, bad)
    return good, bad
