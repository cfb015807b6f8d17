"""The recommendation: a line of deployments by what they can conceivably be, priced until no other can be among the
best, the best simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.explore.pool import Pool, pool
from moesim.explore.recommend.answer import answered
from moesim.explore.recommend.asked import asked
from moesim.explore.recommend.estimate import Estimate, Excluded, estimates
from moesim.explore.recommend.line import Line
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.result import Recommendation
from moesim.explore.recommend.simulate import simulated
from moesim.explore.recommend.space import Deployment, Engine
from moesim.explore.recommend.standing import Standing
from moesim.inputs.scenario import Scenario

FINALISTS = 20
_BATCH = 8
"""Engines that a process prices in a row."""
_ROUND = 4
"""Deployments simulated before the others' statistics are corrected by them."""
Told = Callable[[str, int, int], None]
"""Told of what is done, how much of it, and of how much."""


def recommend(
    scenario: Scenario,
    *,
    minimize: str | None = None,
    maximize: str | None = None,
    where: Sequence[str] = (),
    models: Sequence[str] = (),
    hardware: Sequence[str] = (),
    gpus: int | tuple[int, int] = (1, 8),
    formats: Sequence[str] = (),
    drafts: Sequence[int] = (),
    settings: Mapping[str, Iterable[Any]] | None = None,
    apart: bool = True,
    prices: Path | None = None,
    usd_per_gpu_hour: float | None = None,
    whole_instances: bool = True,
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
    gpus : int or (int, int)
        Most GPUs in all, or the fewest and the most.
    formats : sequence of str, optional
        Weight formats, ``published`` being the checkpoint's own; that, fp8 and int4 where none is named.
    drafts : sequence of int, optional
        Numbers of drafted tokens, where the scenario speculates; 0 to 5 otherwise.
    settings : mapping of str to iterable, optional
        Other settings of an engine -> values to choose from, like ``{"kv_cache_dtype": ["auto", "fp8"]}``.
    apart : bool
        Try prefill and decode on engines of their own.
    prices, usd_per_gpu_hour : optional
        A table of prices, or one price for all, instead of hwspecs/prices.csv.
    whole_instances : bool
        Rent instances whole, as the table has them; else GPUs one by one at an instance's price over its GPUs.
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
        scenario, minimize, maximize, where, models, hardware, gpus, formats, drafts, settings or {}, apart, prices,
        usd_per_gpu_hour, whole_instances, quality,
    )  # fmt: skip
    if finalists < 1:
        raise SpecError([Problem(f"{finalists} is no number of finalists; 1 or more is accepted", "--simulate")])
    with pool(jobs, backend, scheduler) as workers:
        return _made(question, workers, finalists, told)


def _made(question: Question, workers: Pool, finalists: int, told: Told) -> Recommendation:
    line, standing = Line(question), Standing(question)
    _price(line, standing, workers, finalists, told)
    while len(standing.runs) < finalists:
        chosen = standing.next(min(_ROUND, finalists - len(standing.runs)))
        if not chosen:
            break
        for run in workers.map(partial(simulated, question), chosen):
            standing.runs[run.deployment] = run
            told("simulated", len(standing.runs), finalists)
        standing.learn()
        # What was learnt may leave fewer that keep the limits: the line goes on then.
        _price(line, standing, workers, finalists, told)
    line.close(standing.bound(finalists), finalists)
    return answered(line, standing)


def _price(line: Line, standing: Standing, workers: Pool, finalists: int, told: Told) -> None:
    """Price the line until no other deployment can be among the best."""
    while wave := line.next(standing.bound(finalists)):
        # Engines alike share most operations, which a process prices once.
        alike = sorted(wave.items(), key=lambda item: repr(item[0]))
        batches = [alike[i : i + _BATCH] for i in range(0, len(alike), _BATCH)]
        for results in workers.map(partial(_estimated, standing.question), batches):
            for found in results:
                if isinstance(found, Excluded):
                    line.exclude(found.reason, found.deployments, found.example)
                else:
                    standing.priced[found.deployment] = found
            told("priced", line.considered - len(line.places), line.considered)


def _estimated(question: Question, batch: Iterable[tuple[Engine, list[Deployment]]]) -> list[Estimate | Excluded]:
    return [found for engine, asked_for in batch for found in estimates(question, engine, asked_for)]
