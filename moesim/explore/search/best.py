"""The best ways to run a model on a machine under constraints, and the front where nothing is better in everything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.errors import Problem, SpecError, nearest
from moesim.explore.constraints import Constraint, parsed, value_text
from moesim.explore.plans import deciding_term
from moesim.explore.search.evaluate import METRICS, Figures, Pricer, changes_of
from moesim.explore.search.space import space, ways_of
from moesim.explore.search.untried import Gap, gaps
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.model_of import model_of
from moesim.inputs.quality_file import Quality, higher_is_better, quality_known
from moesim.inputs.scenario import Scenario
from moesim.prediction import predict
from moesim.units import bytes_text

if TYPE_CHECKING:
    import pandas as pd

_ROUNDS, _MOST_GAPS = 3, 40
_MARGIN = 1e-3
"""Added to a limit that is suggested, so that its rounded figure is kept."""


@dataclass(frozen=True)
class Configuration:
    """One way to run the model and what it gives. SI units."""

    settings: dict[str, Any]
    """Of a scenario's ``offload``."""
    gpus: int
    """How many run it."""
    values: dict[str, float | None]
    """Metric -> value; None where the quality table says nothing."""
    shortfalls: dict[str, float]
    """Tier -> bytes it lacks on this machine."""
    on_front: bool = False
    """No other that fits is at least as good in time, GPU memory and quality, and better in one."""

    @property
    def fits(self) -> bool:
        return not self.shortfalls

    def scenario(self, asked: Scenario) -> Scenario:
        """What ``predict`` takes: the scenario that was asked about, run this way."""
        return asked.with_(**changes_of(self.settings, self.gpus))


@dataclass(frozen=True)
class SearchResult:
    """Configurations, those that keep all constraints first, best first."""

    minimized: str
    constraints: tuple[Constraint, ...]
    quality: str | None
    """The quality metric of the front."""
    configurations: tuple[Configuration, ...]
    kept: int
    """How many of them fit and keep every constraint."""
    advice: tuple[str, ...]
    """Where none does: which constraint to relax, by how much."""
    refused: tuple[str, ...] = ()
    """Why some systems or numbers of GPUs were not tried."""
    at_best: float | None = None
    """What an amount between those tried could reach of what is minimised; None where none could be better."""

    def to_frame(self) -> pd.DataFrame:
        """A row for each configuration; units in ``attrs["units"]``."""
        from moesim.explore.frames import frame

        return frame(self.rows(), METRICS)

    def rows(self) -> list[dict[str, Any]]:
        """The same as plain data: settings, values in SI units, whether it fits and keeps every limit."""
        return [
            {**c.settings, "gpus": c.gpus, **c.values, "fits": c.fits, "kept": i < self.kept, "on_front": c.on_front}
            for i, c in enumerate(self.configurations)
        ]

    @property
    def best(self) -> Configuration | None:
        return self.configurations[0] if self.kept else None


def search(
    scenario: Scenario, minimize: str = "tpot", where: Sequence[str] = (), systems: Sequence[str] = (),
    quality: Path | None = None, gpus: Sequence[int] = (1,),
) -> SearchResult:  # fmt: skip
    """Try every system, precision and amount on the GPU that this machine allows, nothing off it among them.

    Parameters
    ----------
    scenario : Scenario
        Model, hardware, host, workload and routing; of its ``offload`` only bandwidths and a
        remote GPU are kept.
    minimize : str
        A metric: tpot, ttft, gpu_memory, main_memory, disk, output_throughput, or one of the quality table's.
        Throughput, and metrics whose name holds ``accuracy`` or ``score``, are maximised.
    where : sequence of str
        Constraints, like ``gpu_memory <= 16 GiB``.
    systems : sequence of str
        Names of systems; all that ship by default.
    quality : Path, optional
        A table of quality by format, instead of the project's own.
    gpus : sequence of int
        Numbers of GPUs to try: sliced or with layers on one after the other, as the system does.

    Raises
    ------
    SpecError
        An unknown metric or system, a constraint that cannot be read, or a bad table.
    """
    model = model_of(scenario)
    table = quality_known(scenario, quality)
    of_quality = tuple(dict.fromkeys(metric for _, _, metric in table))
    known = METRICS | dict.fromkeys(of_quality, "")
    if minimize not in known:
        known_text = nearest(minimize, known, "moesim search --help")
        raise SpecError([Problem(f"'{minimize}' is not a metric; {known_text}", "--minimize")])
    if minimize == "tpot" and scenario.workload.output_len == 1:
        raise SpecError([Problem("one token comes out: there is no time between tokens; minimise ttft", "--minimize")])
    constraints = tuple(parsed(text, known) for text in ((where,) if isinstance(where, str) else where))
    hardware = load_hardware(scenario.hardware)
    refusals: list[str] = []
    pricer = Pricer(scenario, refusals)

    def priced(tried: Iterable[tuple[int, dict[str, Any]]]) -> list[Configuration]:
        return [
            _configuration(settings, many, gives, table, of_quality)
            for many, ways in ways_of(tried)
            for settings, gives in zip(ways, pricer.figures(ways, many), strict=False)
        ]

    found = priced((many, way) for many in gpus for way in space(model, hardware, tuple(systems), many))
    if not found:
        why = f": {refusals[0]}" if refusals else ""
        raise SpecError([Problem(f"no system can run this scenario{why}", "search")])
    best_high = higher_is_better(minimize) if minimize in of_quality else minimize.endswith("throughput")
    order = _Order(minimize, -1.0 if best_high else 1.0, constraints)
    # Only what is priced moves with the amount; quality goes by formats.
    left = order.gaps(found) if minimize in METRICS else []
    for _ in range(_ROUNDS):
        if not left:
            break
        found += priced((gap.gpus, gap.settings | {gap.amount: x}) for gap in left[:_MOST_GAPS] for x in gap.between())
        left = order.gaps(found)
    axis = next((c.metric for c in constraints if c.metric in of_quality), of_quality[0] if of_quality else None)
    found = sorted(_with_front(found, axis), key=order)
    kept = sum(_keeps(c, constraints) for c in found)
    advice = () if kept else _advice(found, constraints)
    at_best = order.sign * left[0].at_best if left and kept else None
    return SearchResult(
        minimize, constraints, axis, tuple(found), kept, advice, tuple(dict.fromkeys(refusals)), at_best
    )


def why_lost(asked: Scenario, other: Configuration, first: Configuration, minimized: str) -> str:
    """What the first does better, and the operation that costs the other most more."""
    mine, theirs = other.values[minimized], first.values[minimized]
    if mine is None or theirs is None:
        return f"{minimized} not known"
    same = abs(mine - theirs) <= 1e-6 * abs(theirs)
    more = "as good, with more of the GPU's memory" if same else f"{minimized} {mine / theirs - 1:+.1%}"
    if same or minimized not in {"tpot", "ttft", "output_throughput"}:
        return more
    slower, faster = (predict(one.scenario(asked)) for one in (other, first))
    if slower.cost.seconds <= faster.cost.seconds:
        return more
    return f"{more}: {deciding_term(slower, faster)}"


@dataclass(frozen=True)
class _Order:
    """What is better: first what fits and keeps every limit, then the value, then less of the GPU's memory."""

    minimize: str
    sign: float
    constraints: tuple[Constraint, ...]

    def value(self, c: Configuration) -> float:
        value = c.values[self.minimize]
        return float("inf") if value is None else self.sign * value

    def __call__(self, c: Configuration) -> tuple[bool, float, float]:
        return not _keeps(c, self.constraints), self.value(c), c.values["gpu_memory"] or 0.0

    def gaps(self, found: list[Configuration]) -> list[Gap]:
        """Between amounts tried, where something better might be."""
        best = min(found, key=self)
        reached = self.value(best) if _keeps(best, self.constraints) else float("inf")
        return gaps(found, self.value, self._could_keep, reached)

    def _could_keep(self, a: Configuration, b: Configuration) -> bool:
        """Whether something between them might be within every limit: every metric as good as the better one's."""
        return (a.fits or b.fits) and all(
            limit.keeps(a.values[limit.metric]) or limit.keeps(b.values[limit.metric]) for limit in self.constraints
        )


def _enough(constraint: Constraint, value: float) -> str:
    """A limit that ``value`` keeps, in the digits shown."""
    room = 1 + _MARGIN if constraint.upper else 1 - _MARGIN
    return f"{constraint.metric} {constraint.sign[0]}= {value_text(value * room, constraint.unit)}"


def _configuration(
    settings: dict[str, Any], gpus: int, gives: Figures, table: Quality, of_quality: tuple[str, ...]
) -> Configuration:
    values: dict[str, float | None] = {name: getattr(gives, name) for name in METRICS}
    for metric in of_quality:
        # A skipped expert changes quality in a way no table of formats holds.
        known = not settings.get("skipped_share")
        key = (settings["experts_format"], settings["attention_format"], metric)
        values[metric] = table.get(key) if known else None
    return Configuration(settings, gpus, values, gives.shortfalls)


def _keeps(configuration: Configuration, constraints: Sequence[Constraint]) -> bool:
    return configuration.fits and all(c.keeps(configuration.values[c.metric]) for c in constraints)


def _with_front(found: list[Configuration], quality: str | None) -> list[Configuration]:
    """Mark what no other beats in time a token, GPU memory and quality together."""
    worse = -1.0 if quality and higher_is_better(quality) else 1.0

    def place(c: Configuration) -> tuple[float, float, float] | None:
        value = c.values[quality] if quality else 0.0
        if not c.fits or value is None:
            return None
        return (c.values["tpot"] or c.values["ttft"] or 0.0, c.values["gpu_memory"] or 0.0, worse * value)

    places = sorted({p for c in found if (p := place(c)) is not None})
    best: set[tuple[float, float, float]] = set()
    front = np.empty((0, 3))
    for one in places:
        if not (front <= one).all(1).any():
            front = np.vstack([front, one])
            best.add(one)
    return [replace(c, on_front=place(c) in best) for c in found]


def _advice(found: list[Configuration], constraints: Sequence[Constraint]) -> tuple[str, ...]:
    """The least that one constraint, or else several, would have to give way."""
    said = []
    fitting = [c for c in found if c.fits]
    if not fitting:
        closest = min(found, key=lambda c: sum(c.shortfalls.values()))
        lacks = ", ".join(f"{bytes_text(b)} of {tier}" for tier, b in closest.shortfalls.items())
        return (f"nothing fits this machine; closest is {closest.settings['system']}, which lacks {lacks}",)
    for constraint in constraints:
        others = [c for c in constraints if c is not constraint]
        rest = [c for c in fitting if _keeps(c, others) and c.values[constraint.metric] is not None]
        if rest:
            values = [c.values[constraint.metric] or 0.0 for c in rest]
            said.append(
                f"relax {constraint} to {_enough(constraint, min(values) if constraint.upper else max(values))}"
            )
    if said:
        return tuple(said)
    closest = min(fitting, key=lambda c: sum(k.excess(c.values[k.metric]) for k in constraints))
    needs = [_enough(k, v) for k in constraints if (v := closest.values[k.metric]) is not None and not k.keeps(v)]
    unknown = [k.metric for k in constraints if closest.values[k.metric] is None]
    if unknown:
        return (f"the quality table says nothing of {', '.join(unknown)} for what would fit",)
    return (f"no single constraint is enough; closest: {' and '.join(needs)} ({closest.settings['system']})",)
