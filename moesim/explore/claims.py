"""Claims of papers put to the simulator: prediction with interval, and a verdict with its reason.

A comparison is of two predictions; what both err by alike cancels: of each term of their intervals only the difference
counts. ``cannot hold`` is a bound that uses no fit, only bytes, arithmetic and datasheets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moesim.assembly import assemble
from moesim.cost.cost import Cost, leaf_seconds
from moesim.cost.gpu import GpuNumbers
from moesim.errors import DoesNotFit, MoesimError, Problem, SpecError
from moesim.explore.claim_formulas import FORMULAS
from moesim.inputs.claims_file import FOLDER, Claim, Question, Questions
from moesim.inputs.loading import from_data
from moesim.inputs.model_of import seen
from moesim.inputs.scenario import Scenario
from moesim.outcome import Prediction
from moesim.prediction import predict

RATIO, POINTS, WIDEST = 0.25, 8.0, 0.25
"""A verdict agrees within so much of a ratio or so many points of a percentage; wider intervals are told."""


@dataclass(frozen=True)
class Verdict:
    """What became of a claim."""

    claim: Claim
    question: Question
    word: str
    """``agrees``, ``disagrees``, ``cannot hold`` or ``not askable``."""
    value: float | None
    """Predicted, in the claim's unit; None where there is no number."""
    half_width: float | None
    """90 %, relative to the ratio behind the value."""
    reason: str

    @property
    def wide(self) -> bool:
        return self.half_width is not None and self.half_width > WIDEST


def verdicts(claims: list[Claim], questions: Questions) -> Iterator[Verdict]:
    """One for each claim, in order."""
    for claim in claims:
        question = questions.questions.get(claim.id)
        if question is None:
            question = Question(ask="not_askable", why="no question is written for it (questions.yaml)")
        yield _verdict(claim, question)


def _verdict(claim: Claim, question: Question) -> Verdict:
    if question.ask == "not_askable":
        return Verdict(claim, question, "not askable", None, None, question.why)
    try:
        value, width, text = _asked(question)
        reason = f"{text}; {question.why}".strip("; ")
        if _agrees(claim, question, value):
            return Verdict(claim, question, "agrees", value, width, reason)
        if question.bound:
            most = _of_ratio(_ratios(question, lambda found: _at_peak(found, question.metric)), question.how)
            if not _reached(claim, most):
                text = f"work at peak alone gives {most:.3g} {claim.unit}; {reason}"
                return Verdict(claim, question, "cannot hold", value, width, text)
    except DoesNotFit as error:
        return Verdict(claim, question, "disagrees", None, None, str(error))
    except MoesimError as error:
        raise SpecError(f"the question of '{claim.id}': {error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        message = f"the question of '{claim.id}' cannot be worked out: {type(error).__name__} at {error}"
        raise SpecError([Problem(message, "questions.yaml")]) from None
    return Verdict(claim, question, "disagrees", value, width, reason)


def _agrees(claim: Claim, question: Question, value: float) -> bool:
    """Whether a predicted value lies in the claimed range, or near enough."""
    if claim.low is None:
        return value > 0
    low, high = claim.low, claim.high if claim.high is not None else float("inf")
    if claim.unit == "cells":
        return value == low
    if question.how == "gap_percent":
        # So many per cent more is a ratio.
        value, low, high = (1 + x / 100 for x in (value, low, high))
    elif claim.unit == "%":
        return low - POINTS <= value <= high + POINTS
    return low * (1 - RATIO) <= value <= high * (1 + RATIO)


def _reached(claim: Claim, most: float) -> bool:
    """Whether a claim lies within what work at peak gives."""
    low = claim.low or 0.0
    if claim.unit != "%":
        return most >= low * (1 - RATIO)
    return most <= (claim.high or low) + POINTS if low < 0 else most >= low - POINTS


def _asked(question: Question) -> tuple[float, float | None, str]:
    """(value in the claim's unit, relative half-width, what was asked in words)."""
    if question.ask == "formula":
        value, text = FORMULAS[question.formula](question.values)
        return value, None, text
    if question.ask == "order":
        return _order(question)
    if question.ask == "cells":
        return _cells(question)
    if question.ask == "value":
        found = _predicted(question.base, question.other)
        value = _metric(found, question.metric)
        return value, _log_width(found, None, question.metric), f"{question.metric} {value:.4g}"
    if question.sides:
        found = [_predicted(question.base, side) for side in question.sides]
        values = [_metric(one, question.metric) for one in found]
        worst, best = (found[values.index(pick(values))] for pick in (max, min))
        ratio = max(values) / min(values)
        value = 100 * (ratio - 1) if question.how == "gap_percent" else ratio
        return (
            value,
            _log_width(worst, best, question.metric),
            f"{question.metric} {min(values):.4g} to {max(values):.4g}",
        )
    return _compared(question)


def _compared(question: Question) -> tuple[float, float | None, str]:
    """Other over base, averaged over points."""
    widths, said = [], []
    for base, other in _pairs(question):
        widths.append(_log_width(base, other, question.metric))
        said.append(f"{_metric(base, question.metric):.4g} -> {_metric(other, question.metric):.4g}")
    known = [width for width in widths if width is not None]
    value = _of_ratio(_ratios(question, lambda found: _metric(found, question.metric)), question.how)
    return value, max(known) if known else None, f"{question.metric} {', '.join(said)}"


def _pairs(question: Question) -> list[tuple[Prediction, Prediction]]:
    """Both sides at every point."""
    return [
        (_predicted(question.base, point), _predicted(question.base, {**point, **question.other}))
        for point in question.over
    ]


def _ratios(question: Question, value: Callable[[Prediction], float]) -> list[float]:
    return [value(other) / value(base) for base, other in _pairs(question)]


def _of_ratio(ratios: list[float], how: str) -> float:
    """A comparison's value, in the claim's unit."""
    ratio = float(np.mean(ratios))
    return {
        "change_percent": 100 * (ratio - 1), "lower_percent": 100 * (1 - ratio), "gap_percent": 100 * abs(ratio - 1),
        "ratio": ratio, "inverse_ratio": float(np.mean([1 / r for r in ratios])),
    }[how]  # fmt: skip


def _at_peak(found: Prediction, metric: str) -> float:
    """A metric if every operation took the larger of its bytes and its arithmetic at datasheet rates; any scale."""
    machine, seconds = assemble(seen(found.scenario)).steps.machine, 0.0
    gpu = GpuNumbers.of(machine.hardware)
    for leaf, taken in leaf_seconds(_part(found, metric)):
        if leaf.op is None or leaf.bound in {"host", "overlap"}:
            continue
        each = _mean(machine.seconds(leaf.name, leaf.op))
        flop, moved = (_mean(getattr(leaf.op, name, 0.0)) for name in ("flop", "hbm_bytes"))
        peak = max(flop / gpu.flop_per_s(getattr(leaf.op, "arithmetic", "bfloat16")), moved / gpu.hbm_bytes_per_s)
        seconds += float(np.sum(taken)) / each * peak if each > 0 else 0.0
    return 1.0 / seconds if metric.endswith("throughput") else seconds


def _mean(x: Any) -> float:
    return float(np.mean(np.asarray(x, float)))


def _order(question: Question) -> tuple[float, float | None, str]:
    """1 where the sides come out from best to worst as they are listed, else -1."""
    values = []
    for side in question.sides:
        try:
            values.append(_metric(_predicted(question.base, side), question.metric))
        except DoesNotFit:
            values.append(0.0 if question.metric.endswith("throughput") else float("inf"))
    falling = question.metric.endswith("throughput")
    steps = np.diff(values)
    right = bool((steps < 0).all() if falling else (steps > 0).all())
    return (1.0 if right else -1.0), None, f"{question.metric} {', '.join(f'{v:.4g}' for v in values)}"


def _cells(question: Question) -> tuple[float, float | None, str]:
    """How many of a grid do not fit."""
    missing = []
    for side in question.sides:
        try:
            _predicted(question.base, side)
        except DoesNotFit:
            missing.append("/".join(str(v) for v in side.values()))
    return float(len(missing)), None, f"out of memory: {', '.join(missing) or 'none'}"


_MADE: dict[str, Prediction] = {}


def scenario_of(base: dict[str, Any], changes: dict[str, Any]) -> Scenario:
    """A question's scenario; models may lie beside the questions. Raises SpecError."""
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    overrides = dict(changes)
    for where in (data, overrides):
        own = FOLDER / "models" / str(where.get("model", "-"))
        if own.is_dir():
            where["model"] = str(own)
    return from_data(data, "questions.yaml", overrides)


def _predicted(base: dict[str, Any], changes: dict[str, Any]) -> Prediction:
    key = repr((sorted(base.items(), key=str), sorted(changes.items(), key=str)))
    if key not in _MADE:
        _MADE[key] = predict(scenario_of(base, changes))
    return _MADE[key]


def _metric(found: Prediction, name: str) -> float:
    if name == "gpu_memory":
        room: Any = found.memory
        return room.weights + room.activations
    if name.startswith("seconds:"):
        wanted = name.removeprefix("seconds:").split(",")
        return sum(float(np.sum(s)) for leaf, s in leaf_seconds(found.cost) if leaf.name in wanted)
    return found[name]


def _part(found: Prediction, metric: str) -> Cost:
    """The part of a run that a metric is about."""
    phase = {"ttft": "prefill", "tpot": "decode", "itl": "decode"}
    wanted = next((name for key, name in phase.items() if key in metric), "")
    return next((part for part in found.cost.children if part.name == wanted), found.cost)


def _log_width(one: Prediction, other: Prediction | None, metric: str) -> float | None:
    """Half-width of the logarithm of a metric, or of a ratio of two: of terms they share only differences count."""
    if metric == "gpu_memory":
        return None
    mine = _terms(_part(one, metric))
    theirs = _terms(_part(other, metric)) if other is not None else {}
    return float(np.sqrt(sum((mine.get(k, 0.0) - theirs.get(k, 0.0)) ** 2 for k in mine.keys() | theirs.keys())))


def _terms(cost: Cost) -> dict[str, float]:
    seconds = float(np.sum(cost.seconds))
    return {name: float(np.sum(down) + np.sum(up)) / 2 / seconds for name, (down, up) in cost.spread.items()}


def paper_of(claim: Claim) -> str:
    """A short name of a claim's source: what ``--paper`` looks for."""
    return claim.source.split(",")[0].split("(")[0].strip()


def questions_path(path: Path | None) -> Path:
    """The questions beside a file of claims, or the project's."""
    beside = path.with_name("questions.yaml") if path else FOLDER / "questions.yaml"
    return beside if beside.is_file() else FOLDER / "questions.yaml"
