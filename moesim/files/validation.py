"""Files checked against their pydantic model; every problem a sentence with its line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from moesim.errors import Problem, SpecError
from moesim.files import yaml

M = TypeVar("M", bound=BaseModel)


def validated(
    kind: type[M], data: dict[str, Any], document: yaml.Document, overridden: set[str] | None = None
) -> tuple[M | None, list[Problem]]:
    """The model of a document, or its problems; ``overridden`` settings did not come from the file."""
    try:
        return kind.model_validate(data), []
    except ValidationError as error:
        return None, [_problem(kind, item, document, overridden or set()) for item in error.errors()]


def read_as(kind: type[M], path: Path) -> tuple[M, yaml.Document]:
    """A YAML file as its model, and the document it came from. Raises SpecError."""
    document = yaml.read(path)
    found, problems = validated(kind, document.data, document)
    if found is None:
        raise SpecError(problems)
    return found, document


_KINDS = {"uniform", "balanced", "zipf", "power_law", "correlated", "identical", "locality", "histogram", "trace"}


def _problem(kind: type[BaseModel], item: Any, document: yaml.Document, overridden: set[str]) -> Problem:
    location = tuple(part for i, part in enumerate(item["loc"]) if not (i == 1 and part in _KINDS))
    dotted = ".".join(map(str, location))
    where = "override" if dotted in overridden else document.where(location)
    if item["type"] == "extra_forbidden":
        known = sorted(_section(kind, location[:-1]).model_fields)
        near = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return Problem(f"'{dotted}' is not a known key; {hint}", where)
    if item["type"] == "missing":
        return Problem(f"'{dotted}' is missing", where)
    if isinstance(item["input"], dict):
        # What several keys say together: the whole section would be shown as found.
        return Problem(f"'{dotted}': {said(item)}" if dotted else said(item), where)
    return Problem(f"'{dotted}': {said(item)} (found {item['input']!r})", where)


def said(item: Any) -> str:
    """What pydantic says of a value, as the end of a sentence."""
    message = item["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"


def _section(kind: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    """The model of the section at ``location``, as far as plain nesting goes."""
    for part in location:
        field = kind.model_fields.get(str(part))
        options = [field.annotation, *get_args(field.annotation)] if field else []
        inner = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not inner:
            break
        kind = inner[0]
    return kind
