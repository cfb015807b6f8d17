"""What a request asks, checked as a file is; names are those that ship, so that no request reads another file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from moesim.errors import Problem, SpecError, nearest
from moesim.hardware.catalogue import hardware_files, load_hardware
from moesim.inputs.loading import from_data
from moesim.inputs.scenario import Scenario
from moesim.models.catalogue import catalogue

LOAD = {"users": (1, 512, 16), "isl": (1, 32768, 1024), "osl": (1, 4096, 256)}
"""Of both columns: least, most, and what the page begins with."""
FORMATS = ("published", "none", "fp8", "fp8_block", "int4", "int8", "mxfp4", "nvfp4")
_PLAN = {"tp": 4, "pp": 1, "dp": 1}
_MOST_GPUS = 64
_SWITCH = {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}
_FIELDS = ("model", "gpu", *_PLAN, "ep", "format")
_START = {"a.model": "Qwen3-30B-A3B", "a.gpu": "nvidia-h100-sxm5-80gb", "a.tp": "1", "b.tp": "1"}
_MOST_REQUESTS = 400
"""Of a simulation that the page asks for, but for those rounds."""
_ROUNDS = 4
"""Requests of each client that the page simulates at least: the first round, a burst, is then not all there is."""


class Asked(NamedTuple):
    """Both columns: a scenario, or why there is none."""

    values: dict[str, str]
    """What the form shows, every field."""
    scenarios: dict[str, Scenario | SpecError]
    """``a``, and ``b`` where two are compared."""


@lru_cache(maxsize=1)
def hardware_names() -> tuple[str, ...]:
    """GPUs and clusters that ship."""
    return tuple(sorted(load_hardware(path.stem).title for path in hardware_files()))


def asked(query: Mapping[str, str]) -> Asked:
    """A query string's meaning; keys that are none are refused with the column they stand in."""
    values = _START | {name: str(start) for name, (_, _, start) in LOAD.items()}
    values |= query
    values = {"b": "", **values}
    columns = ("a", "b") if values["b"] else ("a",)
    if values["b"]:
        # The second begins as the first. An empty box is not sent: EP left out of a column that says something is off.
        begun = any(key.startswith("b.") for key in query)
        for field in (name for name in _FIELDS if name != "ep" or not begun):
            values.setdefault(f"b.{field}", values.get(f"a.{field}", ""))
    found: dict[str, Scenario | SpecError] = {}
    strange = [key for key in query if key not in LOAD and key != "b" and not _known(key)]
    for column in columns:
        try:
            if strange:
                raise SpecError([Problem(f"'{strange[0][:60]}' is not a field of the page", "address")])
            found[column] = _scenario(column, values)
        except SpecError as error:
            found[column] = error
    return Asked(values, found)


def _known(key: str) -> bool:
    column, _, field = key.partition(".")
    return column in {"a", "b"} and field in _FIELDS


def _scenario(column: str, values: Mapping[str, str]) -> Scenario:
    problems: list[Problem] = []

    def whole(name: str, low: int, high: int, start: int) -> int:
        text = values.get(name, "") or str(start)
        if not text.isascii() or not text.isdigit() or not low <= int(text[:12]) <= high or len(text) > 12:
            problems.append(Problem(f"'{text[:40]}' is not a whole number from {low} to {high:,}", name))
            return start
        return int(text)

    def one_of(name: str, known: tuple[str, ...], start: str, lists: str) -> str:
        text = values.get(f"{column}.{name}", "") or start
        match = {one.lower(): one for one in known}.get(text.lower())
        if match is None:
            problems.append(Problem(f"'{text[:60]}' is not known; {nearest(text, known, lists)}", f"{column}.{name}"))
        return match or start

    model = one_of("model", tuple(catalogue()), _START["a.model"], "moesim models")
    gpu = one_of("gpu", hardware_names(), _START["a.gpu"], "moesim hardware")
    stored = one_of("format", FORMATS, "published", "the page")
    ep = one_of("ep", tuple(_SWITCH), "", "the page") if values.get(f"{column}.ep") else ""
    engine: dict[str, Any] = {name: whole(f"{column}.{name}", 1, _MOST_GPUS, 1) for name in _PLAN}
    load = {name: whole(name, *bounds) for name, bounds in LOAD.items()}
    if problems:
        raise SpecError(problems)
    engine["enable_expert_parallel"] = _SWITCH.get(ep, False)
    if stored != "published":
        engine["quantization"] = stored
    requests = max(min(10 * load["users"], _MOST_REQUESTS), _ROUNDS * load["users"])
    workload = {"max_concurrency": load["users"], "input_len": load["isl"], "output_len": load["osl"],
                "num_prompts": requests}  # fmt: skip
    return from_data({"model": model, "hardware": gpu, "engine": engine, "workload": workload}, column)
