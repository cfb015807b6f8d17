"""What a machine's kernels will take: each point by the family that prices such work, and by what a fit says of it.

Times are those of a benchmark, whose weights may stay in L2 between calls; a served model's do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.bench.point import Point
from moesim.bench.rotation import copies_of
from moesim.calibrate.expert_rows import never_fitted
from moesim.calibrate.families import FAMILIES
from moesim.calibrate.family import Family
from moesim.campaign.predicted import SECONDS, Predicted, Value
from moesim.cost.cost import Cost, interval
from moesim.cost.forms.form import Form
from moesim.cost.forms.host import MATRICES
from moesim.cost.forms.host import STREAM as HOST_STREAM
from moesim.cost.forms.stream import COPY, LAUNCH, STREAM
from moesim.cost.host_fits import link_rate
from moesim.cost.machine import Machine
from moesim.cost.reasons import out_of_range
from moesim.cost.registry import Choice
from moesim.cost.widening import around, octaves_outside
from moesim.experts.placement import group_loads
from moesim.hardware.host import Host, load_host
from moesim.inputs.routing import routing_named
from moesim.ops.experts import LoopedExperts

if TYPE_CHECKING:
    import pandas as pd

_ASSUMED, _ASSUMED_HOST = 0.35, 0.7
"""Half-widths, in the logarithm, of what no table tells: of a GPU a third either way, of a host a factor of two."""
_FAMILIES = {family.name: family for family in FAMILIES}
_OWN_BACKEND = "deep_gemm"
"""Of block-scaled products: what the family was fitted on; others are priced by it as a related kernel."""
_FORMATS = {"fused_moe": "moe_dtype", "gemm": "gemm_dtype"}

Priced = tuple[Any, Any, Any, Any]
"""(seconds, low, high, source) of a table's rows."""


def predicted_kernels(points: Iterable[Point], machine: Machine) -> Iterator[Predicted]:
    """Every point of a kernel, with its time; those that nothing prices say so."""
    import pandas as pd

    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(kind(point), []).append(point)
    for words, mine in groups.items():
        rows = pd.DataFrame([dict(point.columns) for point in mine])
        try:
            seconds, low, high, source = _priced(words, rows, machine)
        except _Unknown as unknown:
            yield from (Predicted(point, {}, str(unknown)) for point in mine)
            continue
        columns = (np.broadcast_to(np.asarray(x), len(mine)) for x in (source, seconds, low, high))
        for point, whose, *value in zip(mine, *columns, strict=True):
            yield Predicted(point, {SECONDS: Value(*map(float, value))}, str(whose))


class _Unknown(Exception):
    """Nothing prices such rows."""


def kind(point: Point) -> tuple[str, ...]:
    """Table, and what tells its rows' kernels apart."""
    names = ("op", "dtype", "gemm_dtype", "gemm_backend", "moe_dtype", "distribution", "direction", "memory", "beside",
             "collective")  # fmt: skip
    return (point.table, *(f"{name}={point.columns[name]}" for name in names if name in point.columns))


def _priced(words: Sequence[str], rows: pd.DataFrame, machine: Machine) -> Priced:
    table = words[0]
    said = {"table": table} | dict(word.split("=", 1) for word in words[1:])
    if table in _ASSUMED_TABLES:
        return _ASSUMED_TABLES[table](rows, said, machine)
    if table == "expert_loop":
        return _looped(rows, machine)
    if table == "small":
        family = _FAMILIES[f"small/{said['op']}"]
        return _of_cost(machine.price(said["op"], family.operation(rows)))
    related = said.get("gemm_backend", _OWN_BACKEND) != _OWN_BACKEND
    return _of_family(_family(table, said), rows, machine, related)


def _family(table: str, said: dict[str, str]) -> Family:
    name = f"{table}/{said[_FORMATS[table]]}" if table in _FORMATS else table
    if table == "nccl":
        name = f"nccl/{said['collective']}"
    family = _FAMILIES.get(name)
    if family is None:
        raise _Unknown(f"no constants of {name}")
    routing = said.get("distribution", "balanced")
    return family if routing == "balanced" else never_fitted(family, routing, parallel=False)


def _of_family(family: Family, rows: pd.DataFrame, machine: Machine, related: bool) -> Priced:
    """As held-out rows of the family's own tables are predicted, by the constants that a prediction takes."""
    if family.rotated:
        rows = rows.assign(copies=_copies(family, rows))
    fitted, op = machine.family(family.name)[0], family.operation(rows)
    timing = family.evaluator(rows, machine.gpu, machine.tuned)(fitted.parameters)
    choice = Choice(family.name, op, machine.gpu, related=related)
    cost = machine.timed(family.name, choice, timing)
    seconds, low, high, source = _of_cost(cost)
    beyond, fields = octaves_outside(fitted, op, family.form)
    if not fields:
        return seconds, low, high, source
    # Of rows inside the fitted range that reason is none.
    reasons = tuple(reason for reason in cost.reasons if reason != out_of_range(fields))
    inside = _source(replace(cost, reasons=reasons, tag=cost.tag if reasons else "fitted"))
    return seconds, low, high, np.where(np.asarray(beyond) > 0, source, inside)


def _copies(family: Family, rows: pd.DataFrame) -> Any:
    """Sets of operands that a benchmark of such a row goes through in turn."""
    if family.table == "gemm":
        element = 2 if family.name.endswith("bfloat16") else 1
        size = element * rows["n"] * rows["k"]
    else:
        context = rows["step"] + 1 if "step" in rows else rows["isl"] + rows["past"]
        element = np.where(rows["kv_cache_dtype"] == "fp8", 1, 2)
        size = 2 * element * rows["batch_size"] * context * rows["num_key_value_heads"] * rows["head_dim"]
    return [copies_of(float(nbytes)) for nbytes in size]


def _looped(rows: pd.DataFrame, machine: Machine) -> Priced:
    """The loop over experts, launched by the host operation by operation."""
    shapes = rows[["num_experts", "topk", "distribution", "num_tokens"]].itertuples(index=False)
    loads = [(group_loads(routing_named(d), e, k, 1, "linear", 0), n) for e, k, d, n in shapes]
    touched = np.array([float(load.distinct(n)) for load, n in loads])
    each = np.array([float(load.rows(n)) for load, n in loads]) / touched
    op = LoopedExperts(
        each, touched, rows["hidden_size"].to_numpy(float), rows["inter_size"].to_numpy(float), own_rows=True
    )
    # Each is launched by the host while the GPU works through those before.
    host, kernels = load_host(machine.hardware.host), touched * op.launches / np.max(np.ceil(touched))
    found, launching = machine.price("experts", op), kernels * host.cpu.operation.value
    seconds, low, high, _ = _of_cost(found)
    down, up = around(launching, _ASSUMED_HOST)
    ends = np.maximum(low, launching - down), np.maximum(high, launching + up)
    source = f"assumed, launches of host/{host.name}, {found.children[0].source}"
    return np.maximum(seconds, launching), *ends, source


def _of_cost(cost: Cost) -> Priced:
    low, high = interval(cost.seconds, cost.spread)
    return cost.seconds, low, high, _source(cost)


def _source(cost: Cost) -> str:
    return "; ".join([f"{cost.tag}, {cost.source}", *cost.notes])


def _assumed(form: Form, given: dict[str, float], op: Any, machine: Machine, width: float, source: str) -> Priced:
    """By a form's own starting values where nothing else is given: what such a machine usually does."""
    parameters = {q.name: q.start for q in form.parameters} | given
    seconds = np.asarray(form.seconds(parameters, op, machine.gpu).seconds, float)
    down, up = around(seconds, width)
    return seconds, seconds - down, seconds + up, f"assumed, {source}"


def _stream(rows: pd.DataFrame, said: dict[str, str], machine: Machine) -> Priced:
    op = _FAMILIES[f"stream/{said['op']}"].operation(rows)
    return _assumed(STREAM, {}, op, machine, _ASSUMED, f"share of the datasheet's bandwidth ({STREAM.name})")


def _copy(rows: pd.DataFrame, said: dict[str, str], machine: Machine) -> Priced:
    """As copies of that memory do alone; what work beside them costs is not known."""
    rate = link_rate("", "", machine.hardware.links.host.value, said["memory"], said["memory"])
    op = _FAMILIES[f"copy/{said['direction']}_{said['memory']}"].operation(rows)
    beside = "" if said["beside"] == "nothing" else ", as if nothing ran beside it"
    width = max(rate.half_width, _ASSUMED)
    return _assumed(COPY, {"bw_link": rate.bytes_per_s}, op, machine, width, f"{rate.source}{beside}")


def _launch(rows: pd.DataFrame, said: dict[str, str], machine: Machine) -> Priced:
    op = _FAMILIES[f"launch/{said['op']}"].operation(rows)
    return _assumed(LAUNCH, {}, op, machine, _ASSUMED_HOST, "what launches usually take")


def _host(machine: Machine) -> tuple[Host, dict[str, float]]:
    """The host that such GPUs usually have, and what its file says for the forms."""
    host = load_host(machine.hardware.host)
    return host, {"bw_dram": host.dram.bandwidth.value * host.dram.achieved.value}


def _host_stream(rows: pd.DataFrame, said: dict[str, str], machine: Machine) -> Priced:
    host, given = _host(machine)
    op = _FAMILIES[f"host_stream/{said['op']}"].operation(rows)
    return _assumed(HOST_STREAM, given, op, machine, _ASSUMED_HOST, f"host/{host.name}")


def _host_matrices(rows: pd.DataFrame, said: dict[str, str], machine: Machine) -> Priced:
    host, given = _host(machine)
    family = _FAMILIES.get(f"{said['table']}/{said['dtype']}")
    if family is None:
        raise _Unknown(f"no constants of {said['dtype']} products on a processor")
    given["flop_core"] = host.cpu.flop_rate.value / host.cpu.cores.value
    return _assumed(MATRICES, given, family.operation(rows), machine, _ASSUMED_HOST, f"host/{host.name}")


def _host_call(rows: pd.DataFrame, said: dict[str, str], machine: Machine) -> Priced:
    host, _ = _host(machine)
    seconds = host.cpu.operation.value
    down, up = around(seconds, _ASSUMED_HOST)
    return seconds, seconds - down, seconds + up, f"assumed, host/{host.name}"


_ASSUMED_TABLES: dict[str, Callable[[pd.DataFrame, dict[str, str], Machine], Priced]] = {
    "stream": _stream,
    "copy": _copy,
    "launch": _launch,
    "host_stream": _host_stream,
    "host_matmul": _host_matrices,
    "host_expert": _host_matrices,
    "host_call": _host_call,
}
