"""Files and names -> checked objects. Every problem of a file is reported at once, with its line."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moesim import paths
from moesim.errors import Problem, SpecError, nearest
from moesim.files import yaml
from moesim.files.document import Document, Location
from moesim.files.validation import is_below, validated
from moesim.inputs.scenario import Scenario, dotted_fields
from moesim.inputs.workload import OF_LOAD


def load(path: str | Path, overrides: dict[str, Any] | None = None) -> Scenario:
    """Read a scenario file, replace ``overrides`` (dotted or bare names), and check it.

    Parameters
    ----------
    path : str or Path
        A file, or the name of a scenario that ships (``mixtral_tp4``).

    Raises
    ------
    SpecError
        With every problem found: file, line, what is wrong and what would be accepted.
    """
    if not isinstance(path, (str, Path)):
        raise TypeError("load takes the path of a scenario file")
    if overrides is not None and not (isinstance(overrides, Mapping) and all(isinstance(n, str) for n in overrides)):
        raise TypeError("overrides are a mapping of settings' names to values")
    path = _found(Path(path))
    return _loaded(yaml.read(path), path.parent, overrides)


def _found(path: Path) -> Path:
    """The file a path or a shipped scenario's name means. Raises SpecError."""
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    shipped = {found.stem: found for found in paths.shipped_scenarios()}
    if path.name in shipped:
        return shipped[path.name]
    hint = nearest(path.name, shipped, "moesim scenarios")
    raise SpecError([Problem(f"'{path}' is neither a file nor a scenario that ships; {hint}")])


def from_data(
    data: dict[str, Any], source: str, overrides: dict[str, Any] | None = None, base: str | Path | None = None
) -> Scenario:
    """The same from plain data (a command read into settings), over a scenario file where one is given.

    Parameters
    ----------
    source : str
        What messages call it.
    base : path, optional
        A scenario file whose sections these settings replace, key by key.
    """
    document = yaml.read(Path(base)) if base else Document({}, source)
    merged = dict(document.data)
    for key, value in data.items():
        below = merged.get(key)
        merged[key] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    merged.setdefault("workload", {})
    found = Document(merged, document.source, document.lines)
    return _loaded(found, Path(base).parent if base else Path(), overrides)


def _loaded(document: Document, folder: Path, overrides: dict[str, Any] | None) -> Scenario:
    data, problems = _unaliased(document.data, document)
    overridden, unknown = _override(data, overrides or {})
    problems += unknown
    scenario, more = validated(Scenario, data, document, overridden)
    problems += more
    stand_in, replaced = (scenario, []) if scenario else _with_defaults(data)
    if stand_in:
        stand_in = _beside(stand_in, folder)
        problems += _checked(stand_in, document, overridden, replaced)
    if problems or stand_in is None:
        raise SpecError(problems)
    return stand_in


def _with_defaults(data: dict[str, Any]) -> tuple[Scenario | None, list[Location]]:
    """The scenario with refused values left out, so that what the rest says can still be checked."""
    data = copy.deepcopy(data)
    workload = data.get("workload")
    data["workload"] = workload if isinstance(workload, dict) else {}
    replaced: list[Location] = []
    for _ in range(3):
        try:
            return Scenario.model_validate(data), replaced
        except ValidationError as error:
            for item in error.errors():
                location = tuple(item["loc"][:2])
                replaced.append(location)
                inner = data if len(location) == 1 else data.get(str(location[0]))
                if not isinstance(inner, dict):
                    data.pop(str(location[0]), None)
                    continue
                inner.pop(str(location[-1]), None)
                if item["type"] != "extra_forbidden" and location[-1] in {"input_len", "output_len"}:
                    inner[location[-1]] = 1
    return None, replaced


def _beside(scenario: Scenario, folder: Path) -> Scenario:
    """File names in a scenario are read from the scenario's own folder first."""
    found: dict[str, Any] = {}
    variant = scenario.variant
    if variant and variant.quality and (folder / variant.quality).is_file():
        found["variant"] = variant.model_copy(update={"quality": str(folder / variant.quality)})
    for key in ("model", "hardware", "calibration", "host"):
        name = getattr(scenario, key)
        if name and (folder / name).exists() and folder / name != folder:
            found[key] = str(folder / name)
    offload = scenario.offload
    if offload and (folder / offload.system).is_file():
        found["offload"] = offload.model_copy(update={"system": str(folder / offload.system)})
    routing, load = scenario.routing, scenario.workload
    for key, law in (("routing", routing), ("placement_routing", scenario.placement_routing)):
        file = getattr(law, "file", None)
        if law is not None and file and (folder / file).exists():
            found[key] = law.model_copy(update={"file": str(folder / file)})
    files: dict[str, Any] = {}
    if load.trace_file and (folder / load.trace_file).exists():
        files["trace_file"] = str(folder / load.trace_file)
    if load.lengths.kind == "file" and (folder / load.lengths.file).exists():
        files["lengths"] = load.lengths.model_copy(update={"file": str(folder / load.lengths.file)})
    if files:
        found["workload"] = load.model_copy(update=files)
    return scenario.model_copy(update=found)


def changed(scenario: Scenario, changes: dict[str, Any]) -> Scenario:
    """A checked copy of ``scenario`` with ``changes`` (dotted or bare names) applied."""
    data = scenario.model_dump()
    document = Document(data, "with_")
    touched, problems = _override(data, changes)
    result, more = validated(Scenario, data, document, touched)
    problems += more
    if result is not None and not problems:
        problems = _checked(result, document, touched)
    if problems or result is None:
        raise SpecError(problems)
    return result


def _override(data: dict[str, Any], changes: dict[str, Any]) -> tuple[set[str], list[Problem]]:
    """Put settings (dotted or bare names) into ``data``: (dotted names of those put, problems of the others)."""
    put: set[str] = set()
    problems: list[Problem] = []
    # A kind first: what else is said of its section is of that kind.
    for name, value in sorted(changes.items(), key=lambda item: not item[0].endswith("kind")):
        dotted, unknown = _dotted(name)
        if unknown:
            problems.append(unknown)
        elif dotted in put:
            other = next(one for one in changes if one != name and setting(one) == dotted)
            problems.append(Problem(f"'{other}' and '{name}' say the same thing; keep one", "override"))
        else:
            _put(data, dotted, value)
            put.add(dotted)
    _one_way_to_arrive(data, put)
    return put, problems


_ARRIVALS = {"max_concurrency", "request_rate", "trace_file"}


def _one_way_to_arrive(data: dict[str, Any], overridden: set[str]) -> None:
    """Naming another way for requests to come replaces the one that stood there."""
    load = data.get("workload")
    if not isinstance(load, dict):
        return
    if "workload.request_rate" in overridden and load.get("request_rate") is None:
        load = {key: value for key, value in load.items() if key != "burstiness" or f"workload.{key}" in overridden}
        data["workload"] = load
    given = {name for name in ("batch_size", *_ARRIVALS) if load.get(name) is not None}
    named = {name for name in given if f"workload.{name}" in overridden}
    if named & _ARRIVALS and "batch_size" not in named:
        data["workload"] = {**load, "batch_size": None}
    elif named == {"batch_size"}:
        dropped = {*_ARRIVALS, "lengths", *OF_LOAD} - {name.removeprefix("workload.") for name in overridden}
        data["workload"] = {key: value for key, value in load.items() if key not in dropped}


def _checked(
    scenario: Scenario, document: Document, overridden: set[str], replaced: Sequence[Location] = ()
) -> list[Problem]:
    from moesim.inputs.checks import check

    def where(location: tuple[str | int, ...]) -> str:
        dotted = ".".join(map(str, location))
        # A section without a line of its own is one that overrides alone have made.
        made = location not in document.lines and any(name.startswith(f"{dotted}.") for name in overridden)
        return "override" if made or is_below(dotted, overridden) else document.where(location)

    doubtful = {location[:2] for location in replaced}
    # What is said of a refused setting under its name is of the value that stands in for it.
    names = {str(location[-1]) for location in replaced if "_" in str(location[-1])}
    return [
        Problem(message, where(at))
        for at, message in check(scenario)
        if at[:2] not in doubtful and at[:1] not in doubtful and not any(name in message for name in names)
    ]


_FREE = (
    "routing", "placement_routing", "variant.", "policies.", "disaggregation.", "engine.hf_overrides.",
    "engine.speculative_config.", "workload.images.", "workload.lengths.",
)  # fmt: skip
"""Sections whose own fields are checked as they are read."""


def setting(name: str) -> str | None:
    """A setting's place in the scenario by any of its names; None where there is none."""
    fields = dotted_fields()
    bare = name.replace("-", "_")
    if bare in fields:
        return fields[bare]
    return bare if bare in fields.values() or bare.startswith(_FREE) else None


def _dotted(name: str) -> tuple[str, Problem | None]:
    found = setting(name)
    if found is not None:
        return found, None
    fields, bare = dotted_fields(), name.replace("-", "_")
    hint = nearest(bare, [*fields, *fields.values()], "moesim schema")
    return bare, Problem(f"'{name}' is not a setting of a scenario; {hint}", "override")


def _put(data: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, leaf = dotted.split(".")
    for section in sections:
        inner = data.get(section)
        data[section] = dict(inner) if isinstance(inner, dict) else {}
        data = data[section]
    if leaf == "kind" and data.get(leaf) != value:
        # Another kind has other settings.
        data.clear()
    data[leaf] = value


def _unaliased(data: dict[str, Any], document: Document) -> tuple[dict[str, Any], list[Problem]]:
    """Replace short names, of the scenario (gpu) or inside its sections (tp, isl, osl), by the field's own."""
    data, problems = dict(data), []
    for alias, dotted in dotted_fields().items():
        section, _, leaf = dotted.rpartition(".")
        inner = data.get(section) if section else data
        if alias == leaf or "." in section or not isinstance(inner, dict) or alias not in inner:
            continue
        inner, above = dict(inner), (section,) if section else ()
        if leaf in inner:
            where = document.where((*above, alias))
            problems.append(Problem(f"'{alias}' and '{leaf}' say the same thing; keep one", where))
        inner[leaf] = inner.pop(alias)
        if section:
            data[section] = inner
        else:
            data = inner
        document.lines.setdefault((*above, leaf), document.lines.get((*above, alias), 1))
    return data, problems
