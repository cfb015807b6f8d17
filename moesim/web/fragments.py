"""Answers as HTML: what replaces the old one while a slider moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

from moesim.errors import DoesNotFit, SpecError
from moesim.explore.likelihood import ratio_interval
from moesim.inputs.scenario import Scenario
from moesim.outcome import Prediction, Served, Steady
from moesim.prediction import predict, predict_steady
from moesim.report.html.icicle import icicle
from moesim.report.html.page import sentence
from moesim.report.html.svg import Mark, intervals, stacked
from moesim.report.parts import memory_parts
from moesim.report.text import number
from moesim.units import bytes_text

_SHOWN = ("mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "output_throughput")
_COMPARED = ("mean_ttft_ms", "mean_tpot_ms", "output_throughput")
Predict = Callable[[Scenario], Prediction]


def estimated(scenario: Scenario) -> Prediction:
    """In closed form, at once."""
    return predict_steady(scenario, estimate=True)


def answer(scenarios: Mapping[str, Scenario | SpecError], how: str) -> str:
    """Each column's answer, and what the second changes.

    Parameters
    ----------
    how : str
        ``estimated`` or ``simulated``.
    """
    predictor: Predict = predict if how == "simulated" else estimated
    bodies, found = [], []
    for column, scenario in scenarios.items():
        body, prediction = _column(scenario, predictor)
        bodies.append(f'<section class="column" aria-label="column {column.upper()}">{body}</section>')
        found += [prediction] if prediction is not None else []
    compared = _compared(*found) if len(found) == 2 else ""
    told = "simulated" if how == "simulated" else "closed form; simulated when you pause"
    return f'<p class="how" data-how="{how}">{told}</p>{compared}<div class="columns">{"".join(bodies)}</div>'


def _column(scenario: Scenario | SpecError, predictor: Predict) -> tuple[str, Prediction | None]:
    try:
        if isinstance(scenario, SpecError):
            raise scenario
        prediction = predictor(scenario)
    except SpecError as error:
        items = "".join(f"<li>{escape(str(problem))}</li>" for problem in error.problems)
        return f'<ul class="problems" role="alert">{items}</ul>', None
    except DoesNotFit as error:
        ways = f"<p>Would fit: {escape('; '.join(error.ways_out))}</p>" if error.ways_out else ""
        return f'<p class="problems" role="alert">{escape(str(error))}</p>{ways}', None
    return _shown(prediction), prediction


def _shown(prediction: Prediction) -> str:
    found = prediction.metrics
    rows = [(name, m.value, m.low, m.high) for name in _SHOWN if (m := found.get(name)) is not None]
    cells = "".join(
        f"<tr><th scope=row>{name}</th><td>{number(value)}</td><td>{number(low)} to {number(high)}</td></tr>"
        for name, value, low, high in rows
    )
    memory = [Mark(name, value, bytes_text(value)) for name, value in memory_parts(prediction)]
    notes = "".join(f"<li>{escape(note)}</li>" for note in prediction.knowledge.notes[:8])
    run = f"<p>{prediction.report.answered:,} requests simulated.</p>" if isinstance(prediction, Served) else ""
    if isinstance(prediction, Steady) and prediction.state.doubt:
        run = f"<p>An estimate: {escape(prediction.state.doubt)}.</p>"
    return (
        f"<p class=answer>{escape(sentence(prediction))}</p><table>{cells}</table>"
        f"{intervals(rows, 'metrics with 90 % intervals')}<h3>Memory of each GPU</h3>{stacked(memory, 'memory')}"
        f"<h3>Where the time goes</h3>{icicle(prediction.cost)}{run}"
        f"<details><summary>how well it is known</summary><ul>{notes}</ul></details>"
    )


def _compared(first: Prediction, second: Prediction) -> str:
    said = []
    for name in _COMPARED:
        if first.metrics.get(name) is not None and second.metrics.get(name) is not None:
            ratio, low, high = ratio_interval(first, second, name)
            said.append(f"<b>{name}</b> x {ratio:.3g} ({low:.3g} to {high:.3g})")
    return f'<p class="compared">B over A, shared errors cancelled: {", ".join(said)}</p>'
