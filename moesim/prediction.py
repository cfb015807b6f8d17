"""The spine: a scenario becomes latency, throughput and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.advice import offload_ways_out, ways_out
from moesim.assembly import Parts, assemble, offloaded_of, room_of
from moesim.cost.cost import Cost, summed
from moesim.errors import DoesNotFit, Problem, SpecError
from moesim.hardware.changed import parted
from moesim.inputs.checks import check
from moesim.inputs.model_of import model_of, seen
from moesim.inputs.routing import Locality
from moesim.inputs.scenario import Scenario, require_scenario
from moesim.memory import Room, require_room, sequence_kv_bytes
from moesim.metrics import shown
from moesim.outcome import Knowledge, Offloaded, Prediction, Served, Static, Steady
from moesim.serving.engine import front_end, scheduler_limits
from moesim.serving.load_metrics import load_cost, load_metrics, steady_metrics
from moesim.serving.report import NO_SLO, Slo, Timeline
from moesim.serving.static import static_batch
from moesim.serving.static_metrics import metrics
from moesim.serving.steady import cache_seats, steady_state
from moesim.serving.under_load import memory_side, served
from moesim.units import bytes_text

if TYPE_CHECKING:
    from moesim.inputs.workload import Workload
    from moesim.models.vision import Picture
    from moesim.offload.plan import OffloadPlan


def predict(
    scenario: Scenario,
    slo: Slo = NO_SLO,
    timeline: Timeline | None = None,
    progress: Callable[[int], None] | None = None,
) -> Prediction:
    """Latency, throughput and memory of one scenario: ``Static``, ``Served`` or ``Offloaded``.

    Parameters
    ----------
    slo : Slo
        What an answer must keep to count towards goodput, under load.
    timeline : Timeline, optional
        Told of every step of a run under load.
    progress : callable, optional
        Told now and then how many requests of a run are answered.

    Raises
    ------
    SpecError
        The scenario's parts do not go together.
    DoesNotFit
        It needs more GPU memory than there is; carries the shortfall and what would fit.
    """
    problems = _problems(scenario)
    if problems:
        raise SpecError("; ".join(problems))
    if slo != NO_SLO:
        _check_slo(scenario, slo)
    found = _predicted(seen(scenario), slo, timeline, progress)
    return replace(found, scenario=scenario)


def _check_slo(scenario: Scenario, slo: Slo) -> None:
    """Raise SpecError for limits that are none, or that nothing keeps or breaks."""
    if scenario.workload.arrivals == "batch":
        message = "means nothing to a static batch; give max_concurrency or request_rate"
        raise SpecError([Problem(message, "slo")])
    if not all(limit > 0 for limit in slo):
        raise SpecError([Problem(f"{tuple(slo)} are no limits; seconds above 0 are accepted", "slo")])


def _predicted(
    scenario: Scenario, slo: Slo, timeline: Timeline | None, progress: Callable[[int], None] | None
) -> Prediction:
    side = memory_side(scenario)
    parts = assemble(side)
    if parts.off_gpu is not None and scenario.workload.arrivals == "batch":
        return _offloaded(scenario, parts, parts.off_gpu)
    room = _fitting(side, parts)
    if scenario.workload.arrivals == "batch":
        return _static(scenario, parts, room)
    report, steps = served(scenario, parts, slo, timeline, progress)
    cost = load_cost(steps, report)
    found = load_metrics(report, cost, parts.steps.machine.served_errors)
    return Served(scenario, shown(found), cost, Knowledge.of(cost, _remarks(scenario, parts)), room, report)


def predict_steady(scenario: Scenario, estimate: bool = False) -> Steady:
    """The same under load, in closed form: instant, for requests out of step (``serving/steady.py``).

    Parameters
    ----------
    estimate : bool
        Where the closed form is in doubt of itself, give its means all the same, with the doubt as a note.

    Raises
    ------
    SpecError
        As ``predict``; what has no steady state, or none that the closed form sees.
    DoesNotFit
        As ``predict``.
    """
    problems, load = _problems(scenario), scenario.workload
    if not problems and scenario.disaggregation is not None:
        problems = ["disaggregation has no closed form yet; leave out --steady"]
    if not problems and (load.arrivals in {"batch", "trace"} or load.lengths.kind == "file"):
        what = f"lengths from a {load.lengths.kind}" if load.lengths.kind == "file" else f"a {load.arrivals}"
        problems = [f"{what} has no steady state; give max_concurrency or request_rate and lengths"]
    if problems:
        raise SpecError("; ".join(problems))
    asked, scenario = scenario, seen(scenario)
    load = scenario.workload
    parts = assemble(scenario)
    room = _fitting(scenario, parts)
    fullest = parts.fullest
    front = front_end(parts.steps.resident, scenario.engine, load)
    settings = scheduler_limits(scenario.engine, parts.limits, fullest[0])
    state = steady_state(parts.steps, settings, cache_seats(fullest, parts.limits.block_size, load), load, front)
    if state.doubt and not estimate:
        message = f"{state.doubt}, which has no closed form; leave out --steady to simulate it"
        raise SpecError([Problem(message, "workload")])
    found = steady_metrics(state, load, parts.steps.machine.served_errors)
    doubts = (f"an estimate: {state.doubt}",) if state.doubt else ()
    knowledge = Knowledge.of(state.cost, (*doubts, *_remarks(scenario, parts)))
    return Steady(asked, shown(found), state.cost, knowledge, room, state)


def _problems(scenario: Scenario) -> list[str]:
    """Why a scenario cannot be predicted. Raises TypeError for anything else."""
    require_scenario(scenario)
    return [message for _, message in check(scenario)]


def _fitting(scenario: Scenario, parts: Parts) -> Room:
    """The scenario's memory, where its load fits and the engine starts. Raises DoesNotFit."""
    _require_tiers(scenario, parts)
    room = room_of(scenario, parts)
    if not room.fits:
        found = offload_ways_out(scenario) if parts.off_gpu else ways_out(scenario)
        require_room(room, parts.rank.model, parts.hardware, scenario.workload.size, found)
    asked = scenario.engine.max_model_len
    if asked is not None and room.longest_alone < asked:
        stage, held = parts.fullest
        missing = float(sequence_kv_bytes(stage, asked, parts.limits.block_size)) - held.kv_available
        raise DoesNotFit(
            f"does not start on {parts.hardware.title}: the KV cache holds one request of {room.longest_alone:,} "
            f"tokens, and max_model_len asks for {asked:,}; {bytes_text(missing)} too much on each GPU",
            missing,
            room,
            (f"max_model_len up to {room.longest_alone:,}",),
        )
    return room


def _static(scenario: Scenario, parts: Parts, room: Room) -> Static:
    found, cost = _of_batch(scenario, parts)
    return Static(scenario, shown(found), cost, Knowledge.of(cost, _remarks(scenario, parts)), room)


def _offloaded(scenario: Scenario, parts: Parts, plan: OffloadPlan) -> Offloaded:
    from moesim.offload.report import offload_report

    _require_tiers(scenario, parts)
    found, cost = _of_batch(scenario, parts)
    report = offload_report(offloaded_of(parts.steps), scenario.workload)
    return Offloaded(scenario, shown(found), cost, Knowledge.of(cost, _remarks(scenario, parts)), plan.tiers, report)


def _require_tiers(scenario: Scenario, parts: Parts) -> None:
    """Raise DoesNotFit where an offload's tiers overflow."""
    if parts.off_gpu is not None and not parts.off_gpu.tiers.fits:
        from moesim.offload.report import require_tiers

        require_tiers(parts.off_gpu, offload_ways_out(scenario))


def _of_batch(scenario: Scenario, parts: Parts) -> tuple[dict[str, Any], Cost]:
    """(metrics, cost tree) of a static batch."""
    load, budget = scenario.workload, parts.limits.max_num_batched_tokens
    images = load.images.per_request if load.images else 0
    batch = static_batch(parts.steps, load.size, load.input_len, load.output_len, budget, images=images)
    phases = [batch.prefill, batch.decode] if np.any(batch.decode.seconds) else [batch.prefill]
    found = {name: tuple(np.asarray(v).item() for v in values) for name, values in metrics(batch).items()}
    return found, summed("batch", phases)


def _image_note(load: Workload, picture: Picture, image_s: float) -> str:
    known = "assumed by its pixels" if load.images and load.images.preprocessing is None else "as given"
    when = "which a static batch leaves out" if load.arrivals == "batch" else "one after the other"
    each = f"{picture.tiles} tile{'s' if picture.tiles > 1 else ''} and {picture.tokens:,} tokens each"
    return f"images: {each}; a host prepares one in {1e3 * image_s:.3g} ms ({known}), {when}"


def _remarks(scenario: Scenario, parts: Parts) -> tuple[str, ...]:
    """What else to know: a routing that no one measured, an engine version that stands in."""
    remarks = [*parts.rank.engine.notes, *parts.rank.model.notes]
    if parted(scenario.hardware) is not None:
        remarks.append(f"{scenario.hardware} does not exist: its constants are taken to stay as the GPU's are")
    if scenario.engine.drafts is not None:
        remarks += [scenario.engine.drafts.note, *(parts.rank.draft.model.notes if parts.rank.draft else ())]
    images, tower = scenario.workload.images, parts.rank.model.tower
    if images is not None and tower is not None:
        picture = tower.picture(images.width, images.height, images.per_request)
        front = front_end(parts.steps.resident, scenario.engine, scenario.workload)
        remarks.append(_image_note(scenario.workload, picture, front.image_s))
    if parts.off_gpu is not None and scenario.workload.arrivals != "batch":
        remarks.append(parts.off_gpu.tiers.off_text)
    if scenario.workload.trace_file:
        from moesim.inputs.request_trace import trace_notes

        remarks += trace_notes(scenario.workload.trace_file)
    if isinstance(scenario.routing, Locality):
        from moesim.inputs.locality_file import locality_note

        model = model_of(scenario)
        remarks += [note] if model.moe and (note := locality_note(scenario.routing, model.name)) else []
    return tuple(remarks)
