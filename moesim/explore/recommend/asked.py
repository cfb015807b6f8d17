"""A user's question checked: every problem at once, defaults filled in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from moesim.engines.settings import EngineSettings, QuantizationName
from moesim.errors import Problem, SpecError, nearest
from moesim.explore.recommend.measures import limit, objective
from moesim.explore.recommend.question import Question
from moesim.explore.recommend.space import Space
from moesim.explore.sweeps.sweep import options
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.hardware import Hardware
from moesim.inputs.loading import setting
from moesim.inputs.prices_file import SHIPPED, Price, prices_of, read_prices
from moesim.inputs.quality_file import Quality, quality_known
from moesim.inputs.scenario import Scenario
from moesim.models.catalogue import load_model

T = TypeVar("T")
FORMATS = ("published", "fp8", "int4")
_MOST_GPUS = 1024
_DRAFTS = (0, 1, 2, 3, 4, 5)
_MOST_DRAFTS = 32
_ELSEWHERE = {
    "tensor_parallel_size": "the plan", "pipeline_parallel_size": "the plan", "data_parallel_size": "the plan",
    "enable_expert_parallel": "the plan", "all2all_backend": "the plan", "quantization": "--formats",
    "speculative_config": "--drafts", "hf_overrides": "a scenario file", "enable_eplb": "nothing",
}  # fmt: skip
"""Settings of an engine that are no axis, and what decides them."""
_OWN = tuple(name for name in EngineSettings.model_fields if name not in _ELSEWHERE)


def asked(
    scenario: Scenario,
    minimize: str | None,
    maximize: str | None,
    where: Sequence[str],
    models: Sequence[str],
    hardware: Sequence[str],
    gpus: int | tuple[int, int],
    formats: Sequence[str],
    drafts: Sequence[int],
    settings: Mapping[str, Iterable[Any]],
    apart: bool,
    prices: Path | None,
    usd_per_gpu_hour: float | None,
    whole_instances: bool,
    quality: Path | None,
) -> Question:
    """See ``recommend``. Raises SpecError."""
    problems: list[Problem] = []

    def tried(act: Callable[[], T], at: str = "") -> T | None:
        try:
            return act()
        except SpecError as error:
            problems.extend(Problem(p.message, p.where or at) for p in error.problems)
        return None

    _check_base(scenario, problems)
    given = [models] if isinstance(models, str) else list(models) or [scenario.model]
    # A model is one model by whatever name.
    known = {tried(lambda name=name: load_model(name), "--model"): name for name in reversed(given)}
    names = [name for model, name in reversed(known.items()) if model is not None]
    table = tried(lambda: read_prices(prices or SHIPPED)) or []
    cards = _cards(hardware, table, tried)
    fewest, most = (1, gpus) if isinstance(gpus, int) else gpus
    if not 1 <= fewest <= most <= _MOST_GPUS:
        problems.append(Problem(f"{fewest}-{most} is no range of GPUs; from 1 to {_MOST_GPUS} is accepted", "--gpus"))
    found: dict[str, Quality] = {}
    for name in names:
        found[name] = tried(lambda name=name: quality_known(scenario.model_copy(update={"model": name}), quality)) or {}
    metrics = tuple(dict.fromkeys(metric for rows in found.values() for _, _, metric in rows))
    wanted, most_wanted = _objective(minimize, maximize, metrics, tried, problems) or ("", False)
    limits = [tried(lambda text=text: limit(text, metrics)) for text in ([where] if isinstance(where, str) else where)]
    space = Space(
        tuple(names), _formats(formats, problems), tuple(dict.fromkeys(cards)), fewest, most,
        _drafts(scenario, drafts, problems), apart and scenario.workload.arrivals != "batch",
        _settings(scenario, settings, problems),
    )  # fmt: skip
    rents = _prices(cards, prices, usd_per_gpu_hour, whole_instances)
    of_money = any(name.startswith("usd") for name in (wanted, *(one.metric for one in limits if one)))
    if of_money and cards and not rents:
        problems.append(Problem(f"no price is known of {', '.join(cards)}; give --price-per-gpu-hour", "--prices"))
    _check_measures(scenario, [wanted, *(one.metric for one in limits if one)], problems)
    if problems:
        raise SpecError(problems)
    kept = tuple(one for one in limits if one is not None)
    return Question(scenario, space, wanted, most_wanted, kept, rents, found)


def _check_measures(scenario: Scenario, measures: Sequence[str], problems: list[Problem]) -> None:
    """An answer of one token has no time between tokens."""
    if scenario.workload.output_len != 1:
        return
    problems += [
        Problem(f"an answer of one token has no {name}; give a longer output_len", "workload")
        for name in dict.fromkeys(measures)
        if name.endswith(("_tpot", "_itl"))
    ]


def _check_base(scenario: Scenario, problems: list[Problem]) -> None:
    load = scenario.workload
    if load.trace_file or load.lengths.kind == "file":
        message = "a trace and a file of lengths are simulated alone; give max_concurrency or request_rate and lengths"
        problems.append(Problem(message, "workload"))
    if load.arrivals == "batch":
        message = (
            "a static batch is one step of an engine, not a load; give --users (max_concurrency) or --request-rate"
        )
        problems.append(Problem(message, "workload"))
    for name in ("disaggregation", "offload", "policies"):
        if getattr(scenario, name) is not None:
            problems.append(Problem(f"{name} is not varied here; leave it out", name))


def _cards(hardware: Sequence[str], table: list[Price], tried: Any) -> list[str]:
    """GPUs by their own names: those named, or those with a price whose kernels are known."""
    names = [hardware] if isinstance(hardware, str) else list(hardware)
    if names:
        found = [(name, tried(lambda name=name: load_hardware(name), "--hardware")) for name in names]
        return [card.name if _ships(card) else name for name, card in found if card is not None]
    return [name for name in dict.fromkeys(price.gpu for price in table) if load_hardware(name).has_sms]


def _ships(card: Hardware) -> bool:
    """Whether a card's own name finds it: a user's file, and one that is changed, are found by theirs alone."""
    try:
        return load_hardware(card.name) == card
    except SpecError:
        return False


def _objective(
    minimize: str | None, maximize: str | None, metrics: tuple[str, ...], tried: Any, problems: list[Problem]
) -> tuple[str, bool] | None:
    if minimize and maximize:
        problems.append(Problem("one thing can be at its best; make the other a limit (--where)", "--maximize"))
        return None
    if maximize:
        return tried(lambda: objective(maximize, metrics, "--maximize"))
    return tried(lambda: objective(minimize or "cost", metrics, "--minimize"))


def _formats(formats: Sequence[str], problems: list[Problem]) -> tuple[str | None, ...]:
    found: list[str | None] = []
    for name in [formats] if isinstance(formats, str) else formats or FORMATS:
        if name != "published" and name not in get_args(QuantizationName):
            known = nearest(name, ("published", *get_args(QuantizationName)), "moesim schema")
            problems.append(Problem(f"'{name}' is not a weight format; {known}", "--formats"))
        found.append(None if name == "published" else name)
    return tuple(dict.fromkeys(found))


def _drafts(scenario: Scenario, drafts: Sequence[int], problems: list[Problem]) -> tuple[int, ...]:
    if scenario.engine.speculative_config is None:
        if any(drafts):
            message = "needs a speculative_config with how many drafts are accepted, which is measured, not predicted"
            problems.append(Problem(message, "--drafts"))
        return (0,)
    rates = scenario.engine.speculative_config.acceptance_rates
    most = len(rates) if rates is not None else _MOST_DRAFTS
    why = " (acceptance_rates says no more)" if rates is not None else ""
    problems += [
        Problem(f"{number} drafts are not predicted; from 0 to {most} are accepted{why}", "--drafts")
        for number in drafts
        if not 0 <= number <= most
    ]
    return tuple(dict.fromkeys(n for n in drafts or _DRAFTS if n <= most))


def _settings(
    scenario: Scenario, axes: Mapping[str, Iterable[Any]], problems: list[Problem]
) -> tuple[tuple[tuple[str, Any], ...], ...]:
    """Every combination of other settings of an engine, each value as it is read from a file."""
    found: list[list[tuple[str, Any]]] = []
    for name, values in axes.items():
        section, _, leaf = (setting(name) or name).partition(".")
        if section != "engine" or "." in leaf or leaf in _ELSEWHERE:
            way = f"{_ELSEWHERE[leaf]} decides it" if leaf in _ELSEWHERE else nearest(name, _OWN, "moesim schema")
            problems.append(Problem(f"'{name}' is not a setting of an engine that is varied here; {way}", "--axis"))
            continue
        read: list[tuple[str, Any]] = []
        for value in options(values):
            try:
                read.append((leaf, getattr(scenario.with_(**{f"engine__{leaf}": value}).engine, leaf)))
            except SpecError as error:
                problems.extend(Problem(p.message, "--axis") for p in error.problems)
        found.append([pair for i, pair in enumerate(read) if pair not in read[:i]])
        if not found[-1] and not problems:
            problems.append(Problem(f"'{name}' has no values to choose from", "--axis"))
    return tuple(itertools.product(*found))


def _prices(cards: Sequence[str], table: Path | None, one: float | None, whole: bool) -> dict[str, tuple[Price, ...]]:
    """Of every GPU that has any."""
    if one is not None:
        return {card: (Price(card, "as given", "", one, "", "given"),) for card in cards}
    found = {card: prices_of(load_hardware(card).name, table) for card in cards}
    return {
        card: tuple(price if whole else replace(price, gpus=1) for price in prices)
        for card, prices in found.items()
        if prices
    }
