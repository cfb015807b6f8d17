"""Every legal plan of a scenario on a number of GPUs, ranked, with the reason each loses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moesim.engines.settings import EngineSettings
from moesim.errors import DoesNotFit, SpecError, nearest
from moesim.explore.compare import operation_seconds
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.model_of import model_of
from moesim.inputs.scenario import Scenario, require_scenario
from moesim.metrics import LOAD_METRICS, STATIC_METRICS, unit_of
from moesim.models.plan import Plan
from moesim.outcome import OnGpu, Prediction
from moesim.prediction import predict
from moesim.units import bytes_text

if TYPE_CHECKING:
    import pandas as pd

BACKENDS = ("allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency")
"""What vLLM chooses among."""


@dataclass(frozen=True)
class Candidate:
    """A legal plan, its prediction or why it does not fit, and what separates it from the best."""

    scenario: Scenario
    plan: Plan
    prediction: OnGpu | None
    reason: str

    @property
    def fits(self) -> bool:
        return self.prediction is not None


class Plans(list[Candidate]):
    """Candidates, best first."""

    def to_frame(self) -> pd.DataFrame:
        """A row for each plan: every metric with its interval, and the reason it loses."""
        from moesim.explore.frames import frame

        units = {name: unit_of(name) for row in self.rows() for name in row if name.endswith(("_ms", "_throughput"))}
        return frame(self.rows(), units)

    def rows(self) -> list[dict[str, Any]]:
        """The same as plain data."""
        return [
            {"plan": one.plan.describe(), "gpus": one.plan.world, "fits": one.fits, "reason": one.reason,
             **({name: m.value for name, m in one.prediction.metrics.items() if m} if one.prediction else {}),
             **({f"{name}{end}": getattr(m, end[1:]) for name, m in one.prediction.metrics.items() if m
                 for end in ("_low", "_high")} if one.prediction else {})}
            for one in self
        ]  # fmt: skip


def plans(scenario: Scenario, gpus: int, metric: str = "output_throughput") -> Plans:
    """Legal plans that use ``gpus`` GPUs, best first by ``metric``, those that do not fit last.

    Parameters
    ----------
    scenario : Scenario
        Model, hardware, workload and routing; its own parallel settings are replaced.
    gpus : int
    metric : str
        A metric of a static batch, or of a run under load: throughputs rank from the highest, times from the lowest.

    Raises
    ------
    SpecError
        More GPUs than the hardware has, an unknown metric, or no legal plan.
    """
    require_scenario(scenario)
    if scenario.disaggregation is not None:
        raise SpecError("plans are those of one engine; leave disaggregation out")
    if scenario.offload is not None:
        raise SpecError("plans spread a model over GPUs, but an offloaded one runs on one; see moesim search")
    known = STATIC_METRICS if scenario.workload.arrivals == "batch" else LOAD_METRICS
    if metric not in known:
        raise SpecError(f"'{metric}' is not a metric; {nearest(metric, known, 'moesim predict --help')}")
    hardware = load_hardware(scenario.hardware)
    if gpus < 1:
        raise SpecError(f"{gpus} is not a number of GPUs; 1 or more is accepted")
    if gpus > hardware.gpus:
        raise SpecError(f"{hardware.title} has {hardware.gpus} GPUs; {gpus} are asked for")
    found: list[tuple[Scenario, OnGpu | None, str]] = []
    refusals: list[str] = []
    for changes in _combinations(scenario, gpus):
        try:
            candidate = scenario.with_(**changes)
        except SpecError as error:
            refusals.append(error.problems[0].message)
            continue
        try:
            prediction = predict(candidate)
            assert isinstance(prediction, OnGpu)
            found.append((candidate, prediction, ""))
        except SpecError as error:
            refusals.append(error.problems[0].message)
        except DoesNotFit as error:
            found.append((candidate, None, f"does not fit: {bytes_text(error.shortfall_bytes)} too much on each GPU"))
    if not found:
        raise SpecError(f"no plan on {gpus} GPUs is legal; the first was refused because {refusals[0]}")
    return _ranked(found, metric)


def _combinations(scenario: Scenario, gpus: int) -> Iterator[dict[str, Any]]:
    """TP x PP x DP = ``gpus``, with and without expert parallelism, each way to exchange tokens."""
    moe = model_of(scenario).moe
    for tp, pp in itertools.product(_divisors(gpus), repeat=2):
        if gpus % (tp * pp):
            continue
        dp = gpus // (tp * pp)
        for expert_parallel in (False, True) if moe and tp * dp > 1 else (False,):
            for backend in BACKENDS if expert_parallel and dp > 1 else (None,):
                yield {
                    "tensor_parallel_size": tp, "pipeline_parallel_size": pp, "data_parallel_size": dp,
                    "enable_expert_parallel": expert_parallel, "all2all_backend": backend,
                    "expert_tensor_parallel_size": 1,
                    **_kept(scenario.engine, expert_parallel, backend, pp),
                }  # fmt: skip


def _kept(engine: EngineSettings, expert_parallel: bool, backend: str | None, stages: int) -> dict[str, Any]:
    """The user's other parallel settings, where the plan has a part for them."""
    return {
        "enable_dbo": engine.enable_dbo and (backend or "").startswith("deepep"),
        "enable_eplb": engine.enable_eplb and expert_parallel,
        "num_redundant_experts": engine.num_redundant_experts if expert_parallel else 0,
        "pipeline_micro_batches": engine.pipeline_micro_batches if stages > 1 else None,
    }


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _ranked(found: list[tuple[Scenario, OnGpu | None, str]], metric: str) -> Plans:
    higher = metric.endswith("throughput")

    def order(item: tuple[Scenario, OnGpu | None, str]) -> tuple[bool, float]:
        prediction = item[1]
        value = prediction[metric] if prediction else 0.0
        return prediction is None, -value if higher else value

    found.sort(key=order)
    best = found[0][1]
    if best and best.metrics[metric] is None:
        raise SpecError(f"'{metric}' needs a second output token; output_len is 1")
    ranked = Plans()
    for scenario, prediction, shortfall in found:
        reason = shortfall
        if prediction and best and prediction is not best:
            reason = deciding_term(prediction, best)
        ranked.append(Candidate(scenario, Plan.of(scenario.engine), prediction, reason))
    return ranked


def deciding_term(loser: Prediction, best: Prediction) -> str:
    """The operation that costs the loser most over the best plan, of the whole batch's or run's time."""
    mine, theirs = operation_seconds(loser.cost), operation_seconds(best.cost)
    gap = {name: mine.get(name, 0.0) - theirs.get(name, 0.0) for name in mine.keys() | theirs.keys()}
    name = max(gap, key=lambda n: gap[n])
    total = loser.cost.seconds - best.cost.seconds
    text = f"{name} +{gap[name]:.3g} s" if gap[name] < 100 else f"{name} +{gap[name]:,.0f} s"
    return text if total <= 0 else f"{text} of {total:+.3g} s"
