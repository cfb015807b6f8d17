"""A recommendation as text and as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moesim.explore.recommend.flags import METRICS, FlagEffect, mattering
from moesim.explore.recommend.measures import unit_of
from moesim.explore.recommend.result import Finalist, Recommendation
from moesim.inputs.vllm_command import docker_command, serve_command
from moesim.metrics import Metric
from moesim.report.text import number, workload_words

_LABELS = {"mean_ttft_ms": "TTFT", "p99_ttft_ms": "p99 TTFT", "mean_tpot_ms": "TPOT", "output_throughput": "tok/s"}
_FRONT = 8
_LIKELIER = 0.05
"""More of a chance, for which a deployment that is not the first is named."""
_SURE = 0.9
"""Chance of keeping every limit that is called safe."""


def recommendation_text(found: Recommendation, top: int = 10, flags: Sequence[FlagEffect] = ()) -> str:
    """The answer in a sentence, the finalists, what was excluded and why, how sure it is, what to run."""
    lines = [_question(found), "", *_answer(found), ""]
    lines += [*_table(found, top), ""] if found.finalists else []
    lines += _considered(found)
    lines += ["", *_sure(found)] if found.best else []
    lines += ["", *_front(found)] if len(found.front) > 1 else []
    if found.best is not None:
        lines += ["", *_flags(flags), *_commands(found.best)]
    return "\n".join(lines)


def _question(found: Recommendation) -> str:
    space, load = found.question.space, found.question.scenario.workload
    goal = f"{found.question.objective} at its {'highest' if found.question.higher else 'lowest'}"
    limits = "".join(f", {limit}" for limit in found.question.limits)
    return f"{' or '.join(space.models)}: {workload_words(load)}; {goal}{limits}, {space.fewest} to {space.most} GPUs"


def _answer(found: Recommendation) -> list[str]:
    best = found.best
    if best is None:
        said = "nothing keeps every limit" if found.finalists else "nothing of what was considered can be"
        return [said, *(f"  {text}" for text in found.advice)]
    values = best.values
    said = [f"{deployed(best)}:"]
    if (price := values.get("usd_per_hour")) is not None:
        per_token = values["usd_per_million_tokens"]
        rent = found.question.price(best.deployment)
        where = rent.describe() if rent else ""
        whole = f", {rent.gpus} GPUs rented whole" if rent and best.deployment.gpus % rent.gpus else ""
        said.append(f"${price.value:.4g} an hour ({where}{whole}), ${per_token.value:.3g} a million tokens,")
    said.append(f"p99 TTFT {_metric(values, 'p99_ttft')}, TPOT {_metric(values, 'mean_tpot')},")
    said.append(f"{values['output_throughput'].value:,.0f} output tok/s, {values['watts'].value:,.0f} W")
    return [" ".join(said)]


def _price(one: Finalist) -> str:
    price = one.values.get("usd_per_hour")
    return f"{one.deployment.gpus} GPUs" if price is None else f"${price.value:.4g} an hour"


def deployed(one: Finalist) -> str:
    """GPUs, plan, format and drafts in words."""
    engine = one.deployment.engine
    stored = f", {engine.quantization}" if engine.quantization else ""
    plan = f" as {one.deployment.describe()}" if one.deployment.gpus > 1 else ""
    return f"{engine.model} on {one.deployment.gpus} x {engine.gpu}{plan}{stored}{engine.extras}"


def _metric(values: dict[str, Metric], name: str) -> str:
    metric = values.get(name)
    if metric is None:
        return "-"
    low, high = (1e3 * x for x in (metric.low, metric.high))
    return f"{number(1e3 * metric.value)} ms ({number(low)} to {number(high)})"


def _table(found: Recommendation, top: int) -> list[str]:
    """One line a finalist."""
    models = len({one.deployment.engine.model for one in found.finalists}) > 1
    shown = found.finalists[:top]
    names = [_name(one, models) for one in shown]
    width = max((len(name) for name in names), default=4)
    head = (
        f"{'simulated':{width}} {'GPUs':>4} {'$/h':>7} {'$/M tok':>8} {'TTFT ms':>8} {'p99':>7} {'TPOT ms':>8} "
        f"{'tok/s':>8} {'best':>5}  why not the first"
    )
    lines = [head]
    for name, one in zip(names, shown, strict=True):
        v = one.values
        price = [_cell(v.get(key), 1.0) for key in ("usd_per_hour", "usd_per_million_tokens")]
        times = [_cell(v.get(key), 1e3) for key in ("mean_ttft", "p99_ttft", "mean_tpot")]
        lines.append(
            f"{name:{width}} {one.deployment.gpus:>4} {price[0]:>7} {price[1]:>8} {times[0]:>8} {times[1]:>7} "
            f"{times[2]:>8} {v['output_throughput'].value:>8,.0f} {one.chance:>5.0%}  {one.reason}".rstrip()
        )
    return lines


def _name(one: Finalist, models: bool) -> str:
    engine = one.deployment.engine
    model = f"{engine.model} " if models else ""
    return f"{model}{engine.gpu} {one.deployment.describe()} {engine.quantization or 'as published'}{engine.extras}"


def _cell(metric: Metric | None, factor: float) -> str:
    return "-" if metric is None else number(factor * metric.value)


def _considered(found: Recommendation) -> list[str]:
    excluded = sum(one.count for one in found.exclusions)
    lines = [
        f"{found.considered:,} configurations considered: {found.priced:,} priced in closed form, "
        f"{len(found.finalists)} of them simulated, {excluded:,} excluded by a bound"
    ]
    return lines + [f"  {one.count:>8,} {one.reason}; {one.example}" for one in found.exclusions]


def _sure(found: Recommendation) -> list[str]:
    best = found.best
    assert best is not None
    lines = [
        f"the first is the best with a chance of {best.chance:.0%}, and keeps every limit with {best.chance_kept:.0%} "
        "(errors that two share are drawn once)"
    ]
    likelier = max(found.finalists, key=lambda one: one.chance)
    if likelier.chance > best.chance + _LIKELIER:
        lines.append(
            f"likelier the best, though not by its central value: {deployed(likelier)}, with {likelier.chance:.0%} "
            "(its errors reach further to the good side)"
        )
    surer = next((one for one in found.finalists if one.chance_kept >= _SURE), None)
    if best.chance_kept < _SURE and surer is not None:
        lines.append(
            f"the best that keeps every limit with {surer.chance_kept:.0%}: {deployed(surer)}, {_price(surer)}"
        )
    if found.measure_next:
        now = max(one.chance for one in found.finalists)
        told = ", ".join(f"{term} ({chance:.0%})" for term, chance in found.measure_next[:3])
        lines.append(f"to be surer than {now:.0%} that the right one is chosen, measure: {told}")
    return lines


def _front(found: Recommendation) -> list[str]:
    lines = ["what more money buys (closed form, corrected by what was simulated):"]
    for one in found.front[:_FRONT]:
        price = one.values.get("usd_per_hour")
        cost = f"${price:.4g} an hour" if price is not None else f"{one.deployment.gpus} GPUs"
        engine = one.deployment.engine
        what = f"{engine.model} {engine.quantization or 'as published'} on {one.deployment.gpus} x {engine.gpu}"
        lines.append(f"  {cost:>16}  e2el {one.values['mean_e2el']:.3g} s  {what}, {one.deployment.describe()}")
    return lines


def _flags(flags: Sequence[FlagEffect]) -> list[str]:
    if not flags:
        return []
    lines = ["flags that matter there, one at a time:"]
    for one in mattering(flags):
        told = ", ".join(f"{_LABELS[name]} {one.changes[name]:+.0%}" for name in METRICS if name in one.changes)
        lines.append(f"  {one.flag:34} {told}")
    rest = [one for one in flags if not one.matters and not one.refused]
    if rest:
        lines.append(f"  within 2 %: {', '.join(one.flag for one in rest)}")
    return [*lines, ""]


def _commands(best: Finalist) -> list[str]:
    """What to type."""
    command = serve_command(best.scenario)
    deployment, many = best.deployment, best.engines_like_it
    lines = []
    if deployment.prefill:
        connector = """ --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'"""
        lines.append(
            f"{deployment.prefill} times for prefill and {deployment.replicas} times for decode, with a proxy:"
        )
        lines.append(f"  {command.text}{connector}")
    else:
        lines.append("run:" if many == 1 else f"run {many} of it behind a load balancer:")
        lines += [f"  {command.text}", f"  {docker_command(command, best.scenario.engine)}"]
    notes = list(command.notes)
    if "/" not in best.scenario.model:
        notes.append(f"{best.scenario.model} is its name here; the hub's has its owner before it")
    return lines + [f"  note: {note}" for note in notes]


def recommendation_data(found: Recommendation, flags: Sequence[FlagEffect] = ()) -> dict[str, Any]:
    """Everything, for ``--json``. Units in the names of measures: seconds, dollars, tokens a second."""
    best = found.best
    return {
        "objective": found.question.objective,
        "limits": [str(limit) for limit in found.question.limits],
        "considered": found.considered,
        "priced": found.priced,
        "excluded": [{"reason": x.reason, "count": x.count, "example": x.example} for x in found.exclusions],
        "finalists": found.rows(),
        "best": None if best is None else {
            "deployment": deployed(best), "engines": best.engines_like_it, "serve": serve_command(best.scenario).text,
            "chance": best.chance, "chance_kept": best.chance_kept,
        },
        "measure_next": [{"term": term, "chance": chance} for term, chance in found.measure_next],
        "front": [
            {"deployment": one.deployment.describe(), "gpu": one.deployment.engine.gpu, "gpus": one.deployment.gpus,
             **{name: float(value) for name, value in one.values.items()}}
            for one in found.front
        ],
        "flags": [{"flag": one.flag, "changes": one.changes, "refused": one.refused} for one in flags],
        "advice": list(found.advice),
        "units": {name: unit_of(name) for name in (best.values if best else {})},
    }  # fmt: skip
