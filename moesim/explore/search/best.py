"""The best ways to run a model on a machine under constraints, and the front where nothing is better in everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.errors import Problem, SpecError, nearest
from moesim.explore.constraints import Constraint, parsed, value_text
from moesim.explore.search.evaluate import METRICS, Figures, figures
from moesim.explore.search.space import space
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.model_of import model_of
from moesim.inputs.quality_file import Quality, higher_is_better, quality_known
from moesim.inputs.scenario import Scenario
from moesim.units import bytes_text

if TYPE_CHECKING:
    import pandas as pd

_MARGIN = 1e-3
"""Added to a limit that is suggested, so that its rounded figure is kept."""


@dataclass(frozen=True)
class Configuration:
    """One way to run the model and what it gives. SI units."""

    settings: dict[str, Any]
    """Of a scenario's ``offload``."""
    values: dict[str, float | None]
    """Metric -> value; None where the quality table says nothing."""
    shortfalls: dict[str, float]
    """Tier -> bytes it lacks on this machine."""
    on_front: bool = False
    """No other that fits is at least as good in time, GPU memory and quality, and better in one."""

    @property
    def fits(self) -> bool:
        return not self.shortfalls


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

    def to_frame(self) -> pd.DataFrame:
        """A row for each configuration; units in ``attrs["units"]``."""
        from moesim.explore.frames import frame

        return frame(self.rows(), METRICS)

    def rows(self) -> list[dict[str, Any]]:
        """The same as plain data: settings, values in SI units, whether it fits and keeps every limit."""
        return [
            {**c.settings, **c.values, "fits": c.fits, "kept": i < self.kept, "on_front": c.on_front}
            for i, c in enumerate(self.configurations)
        ]

    @property
    def best(self) -> Configuration | None:
        return self.configurations[0] if self.kept else None


def search(
    scenario: Scenario, minimize: str = "tpot", where: Sequence[str] = (), systems: Sequence[str] = (),
    quality: Path | None = None,
) -> SearchResult:  # fmt: skip
    """Try every system, precision and amount on the GPU that this machine allows.

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
    tried = space(model, load_hardware(scenario.hardware), tuple(systems))
    refusals: list[str] = []
    priced = figures(scenario, tried, refusals)
    found = [_configuration(settings, gives, table, of_quality) for settings, gives in priced]
    if not found:
        why = f": {refusals[0]}" if refusals else ""
        raise SpecError([Problem(f"no system can run this scenario{why}", "search")])
    axis = next((c.metric for c in constraints if c.metric in of_quality), of_quality[0] if of_quality else None)
    found = _with_front(found, axis)
    best_high = higher_is_better(minimize) if minimize in of_quality else minimize.endswith("throughput")
    sign = -1.0 if best_high else 1.0

    def order(c: Configuration) -> tuple[bool, float, float]:
        value = c.values[minimize]
        return not _keeps(c, constraints), float("inf") if value is None else sign * value, c.values["gpu_memory"] or 0

    found.sort(key=order)
    kept = sum(_keeps(c, constraints) for c in found)
    advice = () if kept else _advice(found, constraints)
    return SearchResult(minimize, constraints, axis, tuple(found), kept, advice)


def _enough(constraint: Constraint, value: float) -> str:
    """A limit that ``value`` keeps, in the digits shown."""
    room = 1 + _MARGIN if constraint.upper else 1 - _MARGIN
    return f"{constraint.metric} {constraint.sign[0]}= {value_text(value * room, constraint.unit)}"


def _configuration(
    settings: dict[str, Any], gives: Figures, table: Quality, of_quality: tuple[str, ...]
) -> Configuration:
    values: dict[str, float | None] = {name: getattr(gives, name) for name in METRICS}
    for metric in of_quality:
        # A skipped expert changes quality in a way no table of formats holds.
        known = not settings.get("skipped_share")
        key = (settings["experts_format"], settings["attention_format"], metric)
        values[metric] = table.get(key) if known else None
    return Configuration(settings, values, gives.shortfalls)


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

    front: list[tuple[float, float, float]] = []
    places = sorted({p for c in found if (p := place(c)) is not None})
    for one in places:
        if not any(all(a <= b for a, b in zip(other, one, strict=True)) for other in front):
            front.append(one)
    best = set(front)
    return [Configuration(c.settings, c.values, c.shortfalls, place(c) in best) for c in found]


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
