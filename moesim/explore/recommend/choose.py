"""The recommendation: a line of deployments by what they can conceivably be, priced until no other can be among the
best, the best simulated.

A deployment leaves the line for a reason that is counted: its weights are more than its GPUs hold, a floor breaks a
limit, its best conceivable value is worse than the twentieth best found. Waves have one size whatever the number of
processes, so that the answer does not depend on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from moesim.errors import Problem, SpecError
from moesim.explore.constraints import value_text
from moesim.explore.plans import deciding_term
from moesim.explore.pool import Pool, pool
from moesim.explore.recommend import bounds
from moesim.explore.recommend.asked import asked
from moesim.explore.recommend.chances import chances
from moesim.explore.recommend.estimate import Estimate, Excluded, estimates
from moesim.explore.recommend.measures import higher
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.result import Exclusions, Finalist, Recommendation
from moesim.explore.recommend.simulate import Simulated, broken, simulated, unit_of
from moesim.explore.recommend.space import Deployment, Engine, deployments, engines
from moesim.inputs.model_of import model_of
from moesim.inputs.scenario import Scenario
from moesim.metrics import LATENCIES, THROUGHPUTS
from moesim.models.model import Model
from moesim.outcome import OnGpu
from moesim.units import bytes_text

FINALISTS = 20
_WAVE = 64
"""Engines priced before the bound is drawn again."""
_NEAR = 0.3
"""Of a limit, by which an estimate may exceed it and be simulated all the same, behind those that keep it."""
_MOST_RATIO = 2.0
"""By which simulations correct others' estimates, at most, either way."""
_ROUND = 4
"""Deployments simulated before the others' statistics are corrected by them."""
Told = Callable[[str, int, int], None]
"""Told of what is done, how much of it, and of how much."""


class _Place(NamedTuple):
    """In the line: the best that the objective can be, smaller being better, then a deployment's latency."""

    best: float
    latency: float
    deployment: Deployment


def recommend(
    scenario: Scenario,
    *,
    minimize: str | None = None,
    maximize: str | None = None,
    where: Sequence[str] = (),
    models: Sequence[str] = (),
    hardware: Sequence[str] = (),
    gpus: tuple[int, int] = (1, 8),
    formats: Sequence[str] = (),
    drafts: Sequence[int] = (),
    apart: bool = True,
    prices: Path | None = None,
    usd_per_gpu_hour: float | None = None,
    quality: Path | None = None,
    finalists: int = FINALISTS,
    jobs: int = 1,
    backend: str = "processes",
    scheduler: str | None = None,
    told: Told = lambda what, done, of: None,
) -> Recommendation:
    """What to rent for a load: models, formats, GPUs, how many of them and on which plan.

    Parameters
    ----------
    scenario : Scenario
        The workload, and what does not vary: routing, engine settings, a speculative_config whose number of drafts is
        tried.
    minimize, maximize : str, optional
        A measure: cost (dollars an hour), usd_per_million_tokens, gpus, ttft, tpot, energy, throughput, ...; the cost
        at its lowest where neither is given.
    where : sequence of str
        Limits, like ``p99_ttft <= 1 s``, ``watts <= 3 kW``, ``perplexity <= 5``.
    models, hardware : sequence of str, optional
        Names to choose from; the scenario's model, and every GPU with a price.
    gpus : (int, int)
        Fewest and most GPUs in all.
    formats : sequence of str, optional
        Weight formats, ``published`` being the checkpoint's own; that, fp8 and int4 where none is named.
    drafts : sequence of int, optional
        Numbers of drafted tokens, where the scenario speculates; 0 to 5 otherwise.
    apart : bool
        Try prefill and decode on engines of their own.
    prices, usd_per_gpu_hour : optional
        A table of prices, or one price for all, instead of hwspecs/prices.csv.
    quality : Path, optional
        A table of quality by model and format.
    finalists : int
        How many are simulated.
    jobs, backend, scheduler :
        Processes, and where they run (``moesim.explore.pool``).
    told : callable, optional
        Told of progress: (what, done, of how many).

    Raises
    ------
    SpecError
        A question that cannot be answered as it stands: every problem.
    """
    question = asked(
        scenario, minimize, maximize, where, models, hardware, gpus, formats, drafts, apart, prices,
        usd_per_gpu_hour, quality,
    )  # fmt: skip
    if finalists < 1:
        raise SpecError([Problem(f"{finalists} is no number of finalists; 1 or more is accepted", "--simulate")])
    with pool(jobs, backend, scheduler) as workers:
        return _Choice(question, workers, finalists, told).made()


class _Choice:
    """A choice under way."""

    def __init__(self, question: Question, workers: Pool, finalists: int, told: Told):
        self.question, self.workers, self.finalists, self.told = question, workers, finalists, told
        self.sign = -1.0 if higher(question.objective) else 1.0
        self.why: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.priced: dict[Deployment, Estimate] = {}
        self.runs: dict[Deployment, Simulated] = {}
        self.models: dict[tuple[str, str | None], Model] = {}
        self.line = self._line()
        self.considered = len(self.line) + sum(self.why.values())
        self.ratios: dict[Any, float] = {}

    def made(self) -> Recommendation:
        self._price()
        while len(self.runs) < self.finalists:
            chosen = self._next(min(_ROUND, self.finalists - len(self.runs)))
            if not chosen:
                break
            for run in self.workers.map(partial(simulated, self.question), chosen):
                self.runs[run.deployment] = run
                self.told("simulated", len(self.runs), self.finalists)
            self._learn()
            # What was learnt may leave fewer that keep the limits: the line goes on then.
            self._price()
        return self._result()

    # The line

    def _line(self) -> list[_Place]:
        found = []
        for engine in engines(self.question.space, self.question.scenario):
            model, many = self._model(engine), list(deployments(self.question.space, engine))
            if not bounds.fits(engine, model):
                need = f"{engine.model} {engine.quantization or 'as published'} needs {_gib(model)} at least"
                self._exclude("weights exceed the memory of all GPUs", len(many), f"{need}, {_where(many[0])} has less")
                continue
            for deployment in many:
                if not self._refused(deployment, model):
                    best = self._optimistic(self.question.objective, deployment, model)
                    latency = self._optimistic("mean_e2el", deployment, model)
                    found.append(_Place(self.sign * best, latency, deployment))
        return sorted(found, key=lambda place: (place.best, place.latency, repr(place.deployment)))

    def _model(self, engine: Engine) -> Model:
        key = engine.model, engine.quantization
        if key not in self.models:
            scenario = self.question.scenario.model_copy(update={"model": engine.model})
            self.models[key] = model_of(scenario).under(engine.quantization)
        return self.models[key]

    def _optimistic(self, measure: str, deployment: Deployment, model: Model) -> float:
        price = self.question.usd_per_gpu_hour.get(deployment.engine.gpu)
        return bounds.optimistic(measure, deployment, model, self.question.scenario.workload, price)

    def _refused(self, deployment: Deployment, model: Model) -> bool:
        """Whether a floor, or a figure that is known without pricing, breaks a limit."""
        quality = self.question.quality_values(deployment.engine) if self.question.quality_metrics else {}
        for limit in self.question.limits:
            known = limit.metric in quality
            best = quality[limit.metric] if known else self._optimistic(limit.metric, deployment, model)
            if (known or limit.upper != higher(limit.metric)) and not limit.keeps(best):
                shown = "is not known" if best is None else f"is {value_text(best, unit_of(limit.metric))} at best"
                self._exclude(f"cannot keep {limit}", 1, f"{limit.metric} {shown} on {_where(deployment)}")
                return True
        return False

    def _exclude(self, reason: str, count: int, example: str) -> None:
        if count:
            self.why[reason] += count
            self.examples.setdefault(reason, example)

    # Prices

    def _price(self) -> None:
        """Price the line until no other deployment can be among the best."""
        while self.line:
            bound = self._bound()
            cut = next((i for i, place in enumerate(self.line) if place.best > bound), len(self.line))
            if not cut:
                return
            wave = self._wave(self.line[:cut])
            batches = [list(batch) for batch in wave.items()]
            for results in self.workers.map(partial(_estimated, self.question), batches):
                for found in results:
                    if isinstance(found, Excluded):
                        self._exclude(found.reason, found.deployments, found.example)
                    else:
                        self.priced[found.deployment] = found
                self.told("priced", self.considered - len(self.line), self.considered)

    def _wave(self, places: Sequence[_Place]) -> dict[Engine, list[Deployment]]:
        """The next engines of the line with all their deployments in it, which leave it."""
        found: dict[Engine, list[Deployment]] = {}
        for place in places:
            engine = place.deployment.engine
            if engine in found or len(found) < _WAVE:
                found.setdefault(engine, []).append(place.deployment)
        self.line = [p for i, p in enumerate(self.line) if i >= len(places) or p.deployment.engine not in found]
        return found

    def _bound(self) -> float:
        """The objective of the last one that would be simulated; infinite while there are fewer."""
        values = sorted(self.sign * self._value(one, self.question.objective) for one in self._keeping())
        return values[self.finalists - 1] if len(values) >= self.finalists else float("inf")

    def _keeping(self) -> Iterator[Estimate]:
        """What keeps every limit: as simulated, or as estimated and corrected."""
        for deployment, one in self.priced.items():
            run = self.runs.get(deployment)
            if run is not None:
                kept = not run.problem and not broken(run.values, self.question.limits)
            else:
                kept = all(limit.keeps(self._value(one, limit.metric)) for limit in self.question.limits)
            if kept:
                yield one

    def _value(self, one: Estimate, measure: str) -> float:
        """A measure as simulated, or as estimated, corrected by what simulations said of others."""
        run = self.runs.get(one.deployment)
        if run is not None and measure in run.values:
            return run.values[measure].value
        if measure in self.question.quality_metrics:
            value = self.question.quality_values(one.deployment.engine)[measure]
            return float("nan") if value is None else value
        value = one.values.get(measure)
        if value is None:
            return float("inf") * self.sign
        return value * self.ratios.get(self._kind(one, measure), 1.0)

    # Simulations

    def _next(self, many: int) -> list[Deployment]:
        """The most promising that were not simulated; where none keeps the limits, those nearest to."""
        left = [one for one in self.priced.values() if one.deployment not in self.runs]
        near = [(excess, self._order(one), one) for one in left if (excess := self._excess(one)) <= _NEAR]
        if not near and not any(self._kept(run) for run in self.runs.values()):
            near = [(self._excess(one), self._order(one), one) for one in left]
        return [one.deployment for _, _, one in sorted(near, key=lambda item: item[:2])[:many]]

    def _order(self, one: Estimate) -> tuple[float, float, str]:
        latency = self._value(one, "mean_e2el")
        return self.sign * self._value(one, self.question.objective), latency, repr(one.deployment)

    def _excess(self, one: Estimate) -> float:
        return sum(limit.excess(self._value(one, limit.metric)) for limit in self.question.limits)

    def _kept(self, run: Simulated) -> bool:
        return not run.problem and not broken(run.values, self.question.limits)

    @staticmethod
    def _kind(one: Estimate, measure: str) -> tuple[str, str, str]:
        """Deployments whose statistics differ from closed forms alike: by who waits for whom."""
        engine = one.deployment.engine
        how = "lockstep" if engine.dp > 1 else "stages" if engine.pp > 1 else "one"
        return measure, "apart" if one.deployment.prefill else how, one.limited_by

    def _learn(self) -> None:
        """What a simulation gives over what the closed form estimates, for every statistic: the median of all runs."""
        seen: dict[Any, list[float]] = {}
        for run in self.runs.values():
            one = self.priced[run.deployment]
            for measure, metric in run.values.items():
                base = one.values.get(measure)
                simulated_alone = measure.rpartition("_")[2] in LATENCIES or measure in THROUGHPUTS
                if base and simulated_alone and metric.value:
                    seen.setdefault(self._kind(one, measure), []).append(metric.value / base)
        self.ratios = {
            key: min(max(median(ratios), 1.0 / _MOST_RATIO), _MOST_RATIO) for key, ratios in seen.items()
        }  # fmt: skip

    # The answer

    def _result(self) -> Recommendation:
        limits, question = self.question.limits, self.question
        bound = self._bound()
        if self.line:
            place, unit = self.line[0], unit_of(question.objective)
            best, last = (value_text(self.sign * value, unit) for value in (place.best, bound))
            example = f"{best} at best on {_where(place.deployment)}, the last of the best has {last}"
            self._exclude(f"{question.objective} cannot be among the best {self.finalists}", len(self.line), example)
        runs = [run for run in self.runs.values() if not run.problem]
        for run in self.runs.values():
            if run.problem:
                self._exclude("refused when simulated", 1, f"{_where(run.deployment)}: {run.problem}")

        def order(run: Simulated) -> Any:
            failed = sum(limit.excess(m.value if (m := run.values.get(limit.metric)) else None) for limit in limits)
            value = run.values[question.objective].value
            return failed, self.sign * value, run.values["mean_e2el"].value, repr(run.deployment)

        runs.sort(key=order)
        sure = chances(question, runs)
        finalists = tuple(self._finalist(run, runs[0], sure.best[i], sure.kept[i]) for i, run in enumerate(runs))
        exclusions = [Exclusions(reason, many, self.examples[reason]) for reason, many in self.why.most_common()]
        advice = () if finalists and finalists[0].keeps else self._advice(runs)
        return Recommendation(
            question, self.considered, len(self.priced), tuple(exclusions), finalists, self._front(), sure.worth, advice
        )

    def _finalist(self, run: Simulated, first: Simulated, chance: float, kept: float) -> Finalist:
        assert run.scenario is not None and run.prediction is not None
        lost = broken(run.values, self.question.limits)
        reason = "" if run is first and not lost else "; ".join(lost) or self._lost(run, first)
        return Finalist(
            run.deployment, run.scenario, run.engines_like_it, run.prediction, run.values, lost, chance, kept, reason
        )

    def _lost(self, run: Simulated, first: Simulated) -> str:
        """What the first does better, and the operation that costs most more."""
        measure = self.question.objective
        mine, theirs = run.values[measure].value, first.values[measure].value
        if abs(mine - theirs) > 1e-6 * abs(theirs):
            more = f"{measure} {mine / theirs - 1:+.1%}" if theirs else f"{measure} {mine:.4g}"
        else:
            more = f"as good, e2el {run.values['mean_e2el'].value / first.values['mean_e2el'].value - 1:+.1%}"
        if isinstance(run.prediction, OnGpu) and isinstance(first.prediction, OnGpu):
            same = run.deployment.gpus == first.deployment.gpus and run.prediction.cost.seconds
            if same and run.prediction.cost.seconds > first.prediction.cost.seconds:
                more += f": {deciding_term(run.prediction, first.prediction)}"
        return more

    def _front(self) -> tuple[Estimate, ...]:
        """Nothing that keeps the limits is both cheaper (or smaller) and faster."""
        price = "usd_per_hour" if self.question.usd_per_gpu_hour else "gpus"
        corrected = [
            Estimate(one.deployment, {name: self._value(one, name) for name in one.values}, one.limited_by)
            for one in self._keeping()
        ]
        corrected.sort(key=lambda one: (one.values.get(price, float("inf")), one.values["mean_e2el"]))
        found: list[Estimate] = []
        for one in corrected:
            if not found or one.values["mean_e2el"] < 0.999 * found[-1].values["mean_e2el"]:
                found.append(one)
        return tuple(found)

    def _advice(self, runs: Sequence[Simulated]) -> tuple[str, ...]:
        """The least that each limit alone would have to give way, of what was simulated."""
        if not runs:
            return ("nothing of what was considered runs; more GPUs, narrower formats or other hardware may",)
        found = []
        for limit in self.question.limits:
            others = tuple(other for other in self.question.limits if other is not limit)
            values = [
                r.values[limit.metric].value for r in runs if not broken(r.values, others) and limit.metric in r.values
            ]
            if values and not any(limit.keeps(value) for value in values):
                near = min(values) if limit.upper else max(values)
                enough = value_text(near * (1.001 if limit.upper else 0.999), limit.unit)
                found.append(f"relax {limit} to {limit.metric} {limit.sign[0]}= {enough}")
        if not found:
            lost = "; ".join(broken(runs[0].values, self.question.limits))
            found.append(f"no single limit is enough; nearest is {_where(runs[0].deployment)}: {lost}")
        return tuple(found)


def _estimated(question: Question, batch: Iterable[Any]) -> list[Estimate | Excluded]:
    engine, asked_for = batch
    return estimates(question, engine, asked_for)


def _gib(model: Model) -> str:
    return bytes_text(bounds.weights(model).held)


def _where(deployment: Deployment) -> str:
    engine = deployment.engine
    stored = f" {engine.quantization}" if engine.quantization else ""
    drafts = f", {engine.drafts} drafts" if engine.drafts else ""
    return f"{deployment.gpus} x {engine.gpu} ({deployment.describe()}{stored}{drafts})"
