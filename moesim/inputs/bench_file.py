"""Results of benchmark clients as measured runs: a run set from their files and the scenario that ran (``bench/``)."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.files.writing import write_whole
from moesim.hardware.catalogue import load_hardware
from moesim.inputs.bench import aiperf, guidellm, inferencex, others, served
from moesim.inputs.bench.records import records
from moesim.inputs.bench.result import Record, Result, refused
from moesim.models.names import resolve

_CLIENTS: tuple[Any, ...] = (guidellm, aiperf, inferencex, served)
_LOAD = ("max_concurrency", "request_rate")
_PLAN = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def is_bench_result(path: Path) -> bool:
    """Whether a file is a result that one of the clients known here saved."""
    try:
        found = records(path)
    except (SpecError, OSError):
        return False
    return any(client.reads(record.data) for record in found for client in _CLIENTS)


def import_bench(results: Sequence[Path], scenario: Path, title: str, target: Path) -> list[Path]:
    """A run set at ``target`` from results and the scenario file that says what served. Raises SpecError."""
    from moesim.inputs.loading import load

    told = load(scenario)
    what = told.model_dump(mode="json", exclude_defaults=True, exclude={"workload", "description"})
    said = told.workload.model_dump(mode="json", include={*_LOAD, "burstiness"}, exclude_defaults=True)
    return write_run_set(results, what, title, target, said)


def write_run_set(
    results: Sequence[Path], scenario: dict[str, Any], title: str, target: Path, load: dict[str, Any] | None = None
) -> list[Path]:
    """Write ``target`` (YAML) and its CSV: a row for each result.

    Parameters
    ----------
    results : sequence of Path
        Files as benchmark clients save them, one result or several in each.
    scenario : dict
        Model, hardware and engine that served; lengths and load come from the results.
    load : dict, optional
        How requests came (max_concurrency, request_rate), for results that do not say.

    Raises
    ------
    SpecError
        What is wrong with each file that is no such result.
    """
    found, problems = [], []
    for path in results:
        try:
            found += [_result(record, scenario, load or {}) for record in records(path)]
        except SpecError as error:
            problems += error.problems
    laws = [result.lengths for result in found]
    if any(law != laws[0] for law in laws):
        message = "lengths were drawn in some of these results and fixed in others; import them apart"
        problems.append(Problem(message, str(results[0])))
    if problems:
        raise SpecError(problems)
    rows = [result.row for result in found]
    write_whole(target.with_suffix(".csv"), _table(rows))
    # JSON is YAML.
    write_whole(target, json.dumps(_about(found, scenario, title), indent=2) + "\n")
    return [target, target.with_suffix(".csv")]


def _result(record: Record, scenario: dict[str, Any], load: dict[str, Any]) -> Result:
    client = next((client for client in _CLIENTS if client.reads(record.data)), None)
    if client is None:
        raise refused(record, others.what_it_is(record.data))
    result: Result = client.result(record)
    if not any(name in result.row for name in _LOAD):
        if not any(name in load for name in _LOAD):
            message = "does not say how requests came; say max_concurrency or request_rate in the scenario's workload"
            raise refused(record, message)
        result.row.update(load)
    if scenario.get("engine", {}).get("enable_prefix_caching") is False:
        result.row.pop("cached_share", None)
    _check_plan(record, scenario)
    _check_model(record, scenario)
    _check_card(record, scenario)
    return result


def _check_model(record: Record, scenario: dict[str, Any]) -> None:
    """A result that names another architecture than the scenario's is not of it."""
    named = next((record.data[n] for n in ("model_id", "model") if isinstance(record.data.get(n), str)), None)
    try:
        theirs, ours = resolve(str(named)).model, resolve(str(scenario["model"])).model
    except SpecError:
        return
    if theirs != ours:
        raise refused(record, f"is of {named}, and the model of the scenario is {scenario['model']}")


def _check_card(record: Record, scenario: dict[str, Any]) -> None:
    """InferenceX names the card."""
    try:
        theirs, ours = (load_hardware(str(name)).name for name in (record.data.get("hw"), scenario["hardware"]))
    except SpecError:
        return
    if theirs != ours:
        raise refused(record, f"ran on {record.data['hw']}, and the hardware of the scenario is {scenario['hardware']}")


def _check_plan(record: Record, scenario: dict[str, Any]) -> None:
    """InferenceX says how many GPUs ran: no other number can have served it."""
    if inferencex.apart(record.data) and not scenario.get("disaggregation"):
        raise refused(record, "ran on prefill and decode engines apart; say so in the scenario (disaggregation)")
    measured = inferencex.gpus(record.data)
    engine = scenario.get("engine", {})
    here = 1
    for name in _PLAN:
        here *= int(engine.get(name) or 1)
    if measured is not None and measured != here and not scenario.get("disaggregation"):
        raise refused(record, f"ran on {measured} GPUs, and the engine of the scenario takes {here}")


def _about(found: list[Result], scenario: dict[str, Any], title: str) -> dict[str, Any]:
    rows = [result.row for result in found]
    # What differs, or is missing from a row, stands in the rows alone.
    load = {name: rows[0][name] for name in ("input_len", "output_len")}
    load |= {name: rows[0][name] for name in _LOAD if all(name in row for row in rows)}
    if found[0].lengths:
        load["lengths"] = found[0].lengths
    clients = Counter(result.client for result in found)
    about = {
        "title": title,
        "role": "validation",
        "source": ", ".join(f"{client}, {n} result{'s' * (n > 1)}" for client, n in clients.items()),
        "scenario": {**scenario, "workload": load},
    }
    doubts = [doubt for result in found for doubt in result.doubts]
    return about | ({"doubts": doubts} if doubts else {})


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
