"""JSON files as documents whose values have lines, like YAML's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError, acts_on_terminal
from moesim.files.document import Document, Location
from moesim.files.reading import MIB, text_of

_BYTES = 4 * MIB
_MOST_SECTIONS = 500_000
_MOST_VALUES = 4_000_000
_DECODER = json.JSONDecoder()


class JsonDocument(Document):
    """An object of a JSON file; lines are looked for when a message needs one."""

    def __init__(self, data: dict[str, Any], source: str, text: str):
        super().__init__(data, source)
        self._text = text

    def where(self, location: Location) -> str:
        return f"{self.source}:{self._text.count(chr(10), 0, _place(self._text, location)) + 1}"


def read(path: Path, what: str, most_bytes: int = _BYTES) -> JsonDocument:
    """The object in a JSON file.

    Parameters
    ----------
    what : str
        What such a file is, for the message: ``"Hugging Face's config.json"``.

    Raises
    ------
    SpecError
        No such file, not JSON, no object, or a control character in it.
    """
    text = text_of(path, what, most_bytes)
    data = parse(text, str(path))
    if not isinstance(data, dict):
        raise SpecError([Problem(f"must hold a JSON object, as {what} does", f"{path}:1")])
    document = JsonDocument(data, str(path), text)
    if (at := _control(data)) is not None:
        raise SpecError([Problem("holds a control character", document.where(at))])
    return document


def parse(text: str, source: str) -> Any:
    """What JSON text says. Raises SpecError naming source and line."""
    require_small(text, source)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError([Problem(f"is not valid JSON: {error.msg}", f"{source}:{error.lineno}")]) from None
    except RecursionError:
        raise SpecError([Problem("is not valid JSON: nested too deeply", source)]) from None
    except ValueError as error:
        raise SpecError([Problem(f"is not valid JSON: {str(error).partition(';')[0]}", source)]) from None


def require_small(text: str, source: str) -> None:
    """Raise SpecError for JSON whose values would fill the memory."""
    if text.count("{") + text.count("[") > _MOST_SECTIONS or text.count(",") > _MOST_VALUES:
        message = f"has more than {_MOST_SECTIONS:,} objects and lists, or {_MOST_VALUES:,} values"
        raise SpecError([Problem(message, source)])


def _control(data: Any) -> Location | None:
    """Where text has a character that terminals act on; None where none has."""
    left: list[tuple[Any, Location]] = [(data, ())]
    while left:
        value, at = left.pop()
        if isinstance(value, dict):
            if any(acts_on_terminal(key) for key in value):
                return at
            left += [(below, (*at, key)) for key, below in value.items()]
        elif isinstance(value, list):
            left += [(below, (*at, i)) for i, below in enumerate(value)]
        elif isinstance(value, str) and acts_on_terminal(value):
            return at
    return None


def _place(text: str, location: Location) -> int:
    """Where a value stands in JSON text that is known to be good, or the last section on the way to it."""
    at = _after_space(text, 0)
    for part in location:
        inner = _inside(text, at, part)
        if inner is None:
            break
        at = inner
    return at


def _inside(text: str, at: int, wanted: str | int) -> int | None:
    """Where an object's or a list's entry begins."""
    kind = text[at]
    if kind not in "{[" or isinstance(wanted, int) != (kind == "["):
        return None
    at, number = _after_space(text, at + 1), 0
    found: int | None = None
    while text[at] not in "}]":
        key: str | int = number
        if kind == "{":
            key, at = _DECODER.raw_decode(text, at)
            at = _after_space(text, _after_space(text, at) + 1)
        if key == wanted:
            # Of a key that is there twice, the last counts.
            found = at
        at = _after_space(text, _DECODER.raw_decode(text, at)[1])
        number += 1
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return found


def _after_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
