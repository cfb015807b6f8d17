"""Files checked against their pydantic model; every problem a sentence with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from moesim.errors import MOST_PROBLEMS, Problem, SpecError, more, nearest
from moesim.files import yaml
from moesim.files.document import Document, Location

M = TypeVar("M", bound=BaseModel)
_MOST_WORDS = 8
"""Of a choice, that a message lists whole."""
_MOST_SHOWN = 80


def validated(
    kind: type[M], data: dict[str, Any], document: Document, overridden: set[str] | None = None
) -> tuple[M | None, list[Problem]]:
    """The model of a document, or its problems; ``overridden`` settings did not come from the file."""
    try:
        return kind.model_validate(data), []
    except ValidationError as error:
        told = _told(kind, error)
        found = [_problem(kind, item, document, overridden or set()) for item in told[:MOST_PROBLEMS]]
        rest = [more(len(told), document.source)] if len(told) > MOST_PROBLEMS else []
        return None, [*dict.fromkeys(found), *rest]


def read_as(kind: type[M], path: Path) -> tuple[M, Document]:
    """A YAML file as its model, and the document it came from. Raises SpecError."""
    document = yaml.read(path)
    found, problems = validated(kind, document.data, document)
    if found is None:
        raise SpecError(problems)
    return found, document


def _told(kind: type[BaseModel], error: ValidationError) -> list[Any]:
    """What pydantic found, once each: of a value that fits none of several types the first reason, of a list whose
    entries are refused not its length too."""
    found: list[Any] = []
    places: set[Location] = set()
    for item in error.errors():
        place = _plain(kind, item["loc"])[0]
        if item["type"] == "too_short" and len(item["input"]) >= item.get("ctx", {}).get("min_length", 0):
            continue
        if place in places and item["type"] != "extra_forbidden":
            continue
        places.add(place)
        found.append(item)
    return found or error.errors()


def is_below(dotted: str, overridden: set[str]) -> bool:
    """Whether a setting, or the section it stands in, did not come from the file."""
    return any(dotted == name or dotted.startswith(f"{name}.") for name in overridden)


def _problem(kind: type[BaseModel], item: Any, document: Document, overridden: set[str]) -> Problem:
    location, section = _plain(kind, item["loc"])
    dotted = ".".join(map(str, location))
    where = "override" if is_below(dotted, overridden) else document.where(location)
    if item["type"] == "extra_forbidden":
        return Problem(f"'{dotted}' is not a known key; {_hint(kind, section, location)}", where)
    if item["type"] == "missing":
        return Problem(f"'{dotted}' is missing", where)
    if item["type"] in {"union_tag_invalid", "union_tag_not_found"} and section:
        return Problem(_no_kind(section, dotted, str(location[-1]), item), where)
    if isinstance(item["input"], dict):
        # What several keys say together: the whole section would be shown as found.
        return Problem(f"'{dotted}': {said(item)}" if dotted else said(item), where)
    return Problem(f"'{dotted}': {said(item)} (found {shown(item['input'])})", where)


def shown(value: Any) -> str:
    """A value as a message repeats it: not all of what has no end."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... of {len(text):,} letters"


def _no_kind(section: type[BaseModel], dotted: str, name: str, item: Any) -> str:
    """A section that says no kind, or one there is not."""
    field = section.model_fields[name]
    tags = [tag for model in _models(field.annotation) for tag in _tags(model, str(field.discriminator))]
    key, given = f"{dotted}.{field.discriminator}", item["input"] if isinstance(item["input"], dict) else {}
    said = given.get(field.discriminator)
    near = difflib.get_close_matches(str(said), tags, 1) or [tag for tag in tags if tag in given]
    meant = f"did you mean '{key}: {near[0]}'?" if near else f"accepted: {', '.join(tags)}"
    return f"'{key}' is {'missing' if said is None else repr(said)}; {meant}"


def said(item: Any) -> str:
    """What pydantic says of a value, as the end of a sentence."""
    if item["type"] == "too_short":
        return f"has {item['ctx']['actual_length']} entries; {item['ctx']['min_length']} at least are expected"
    if item["type"] in {"model_type", "dict_type", "model_attributes_type"}:
        return "a section of keys is expected"
    if item["type"] in {"tuple_type", "list_type"}:
        return "a list is expected"
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        known = re.findall(r"'([^']+)'", item["ctx"]["expected"])
        if len(known) > _MOST_WORDS:
            return f"is none of the {len(known)} words it can be; {nearest(item['input'], known, 'moesim schema')}"
    message = item["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"


def _plain(kind: type[BaseModel], location: Sequence[str | int]) -> tuple[Location, type[BaseModel] | None]:
    """(where a file has it, the model of its section): pydantic names the kind of a section among its keys.

    Of a section that may be of several kinds and says none, there is no one model.
    """
    plain: list[str | int] = []
    section, within, kinds, either, keyed = None, kind, {}, False, False
    for part in location:
        if either and isinstance(part, str):
            # Which of several types was tried.
            either = False
            continue
        if kinds and part in kinds:
            within, kinds = kinds[str(part)], {}
            continue
        plain.append(part)
        if isinstance(part, int) or keyed:
            # Of a list its place, of a map that names what it holds the name.
            keyed = keyed and isinstance(part, int)
            continue
        section, kinds = within, {}
        field = within.model_fields.get(part) if within else None
        either = field is not None and not field.discriminator and _either(field.annotation)
        keyed = field is not None and get_origin(field.annotation) is dict
        models = _models(field.annotation) if field else []
        if field and field.discriminator:
            kinds = {tag: model for model in models for tag in _tags(model, str(field.discriminator))}
        within = models[0] if len(models) == 1 else None
    return tuple(plain), section


def _either(annotation: Any) -> bool:
    """Whether a value may be of several types, none of them a section."""
    if get_origin(annotation) not in {Union, UnionType}:
        return False
    return len([kind for kind in get_args(annotation) if kind is not type(None)]) > 1 and not _models(annotation)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models among the types that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _tags(model: type[BaseModel], discriminator: str) -> tuple[str, ...]:
    return get_args(model.model_fields[discriminator].annotation)


def _hint(kind: type[BaseModel], section: type[BaseModel] | None, location: Location) -> str:
    """What was meant: a key of this section, or one of another that has just this name."""
    *above, slip = map(str, location)
    known = sorted(section.model_fields) if section else []
    near = difflib.get_close_matches(slip.lower(), known, 1)
    if near:
        return f"did you mean '{'.'.join([*above, near[0]])}'?"
    elsewhere = [path for path in _paths(kind) if path.rpartition(".")[2] == slip or path.endswith(f"kind: {slip}")]
    if elsewhere:
        return f"did you mean '{elsewhere[0]}'?"
    return f"known here: {', '.join(known)}"


def _paths(kind: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every key under a model by its full name, and ``section.kind: tag`` for what a section may be."""
    for name, field in kind.model_fields.items():
        yield above + name
        models = _models(field.annotation)
        if field.discriminator:
            tags = (tag for model in models for tag in _tags(model, str(field.discriminator)))
            yield from (f"{above}{name}.{field.discriminator}: {tag}" for tag in tags)
        elif len(models) == 1:
            yield from _paths(models[0], f"{above}{name}.")
