"""The words of a vLLM command -> its arguments by vLLM's names, as vLLM's own parser takes them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moesim.errors import Problem, SpecError
from moesim.files import yaml
from moesim.inputs.vllm_command.shell import WHERE, unresolved
from moesim.inputs.vllm_command.tables import Tables, tables
from moesim.inputs.vllm_command.values import as_map, whole

_NUMBER = re.compile(r"-\d+(\.\d+)?")
_OPTIMIZATION = re.compile(r"-O=?(?P<rest>.*)", re.DOTALL)


@dataclass
class Arguments:
    """What a command says, argument by argument; the last of several counts."""

    model: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    """vLLM's name, or CONFIG.FIELD -> text, None (given without a value), or a field's value."""
    written: dict[str, str] = field(default_factory=dict)
    """The same -> the flag as messages show it."""
    rest: list[str] = field(default_factory=list)
    """Words that belong to no argument."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def put(self, name: str, value: Any, written: str) -> None:
        known = tables()
        matters = name in known.read or name in known.not_modelled or name in known.refused
        if matters and name in self.given and self.given[name] != value:
            self.notes.append(f"{written} is given twice: the last, {_shown(value)}, counts, as in vLLM")
        self.given[name], self.written[name] = value, written

    def under(self, file: Arguments) -> None:
        """Take from a file what was not said."""
        self.model = self.model or file.model
        self.given = file.given | self.given
        self.written = file.written | self.written
        self.rest, self.notes = file.rest + self.rest, file.notes + self.notes
        self.problems = file.problems + self.problems


def is_flag(word: str) -> bool:
    """Whether vLLM has such a flag, like ``--max-model-len=8192`` or ``--speculative-config.method``."""
    name = word.lstrip("-").partition("=")[0].partition(".")[0].replace("-", "_")
    known = tables()
    switch = name.removeprefix("no_")
    if name in {"model", "config"}:
        return True
    return known.known(name) or known.known(switch) or switch in known.switches or known.has_fields(name)


def arguments_of(words: list[str], serves: bool = True) -> Arguments:
    """Of a server, or an offline benchmark. Raises SpecError for what cannot be read at all."""
    parser = _Parser(words, serves)
    parser.run()
    return parser.found


class _Parser:
    def __init__(self, words: list[str], serves: bool) -> None:
        self.words, self.serves = list(words), serves
        self.found = Arguments()
        self.tables: Tables = tables()
        self.fields: dict[str, dict[str, Any]] = {}
        """JSON arguments given field by field."""
        self.texts: dict[str, str] = {}

    def run(self) -> None:
        below = self._take_config_file()
        while self.words:
            word = self.words.pop(0)
            if not word.startswith("-") or word == "-" or _NUMBER.fullmatch(word):
                if self.found.model:
                    self.found.rest.append(word)
                else:
                    self.found.model = word
                continue
            self._flag(word)
        for name, text in self.texts.items():
            if name in self.fields:
                message = f"{flag_of(name)} is given as JSON and field by field: the fields count, as in vLLM"
                self.found.notes.append(message)
            else:
                self._all_fields(name, self._map(name, text))
        for name, values in self.fields.items():
            self._all_fields(name, values)
        if below is not None:
            self.found.under(below)

    def _flag(self, word: str) -> None:
        if word.startswith("-O") and (short := _OPTIMIZATION.fullmatch(word)):
            rest = short["rest"]
            if rest.startswith("."):
                word = f"--compilation-config{rest}"
            else:
                return self._optimization(rest or self._next() or "")
        head, equals, value = word.partition("=")
        # Underscores and dashes are the same up to the first dot.
        name, dot, key = head.lstrip("-").partition(".")
        name = self._named(name.replace("-", "_"), head)
        if dot:
            return self._field(name, key, value if equals else self._next())
        switch, off = self._switch(name)
        if not equals and not switch:
            following = self._next()
            value, equals = ("", "") if following is None else (following, "=")
            while name in self.tables.lists and (more := self._next()) is not None:
                value += f" {more}"
        elif not equals and self.words and self.words[0].lower() in {"true", "false"}:
            value, equals = self.words.pop(0), "="
        given = value if equals else None
        if off:
            name, given = off, "true" if (given or "true").lower() == "false" else "false"
        if name == "model":
            if self.found.model and self.found.model != value:
                self.found.problems.append(f"names two models, {self.found.model} and {value}; keep one")
            self.found.model = value
        elif self._is_map(name):
            self._config(name, given)
        else:
            self.found.put(name, given, head)
        return None

    def _next(self) -> str | None:
        """The following word where it is a value."""
        if self.words and (not self.words[0].startswith("-") or _NUMBER.fullmatch(self.words[0])):
            return self.words.pop(0)
        return None

    def _named(self, name: str, written: str) -> str:
        """vLLM's name: short, older and unambiguously cut names are the same."""
        if name == "n" and not self.serves:
            # Answers to a prompt in a benchmark, nodes of a server.
            return name
        name = self.tables.short.get(name, name)
        name = self.tables.same_as.get(name, name)
        known = {*self.tables.all_names, *self.tables.short.values(), "model", "config"}
        if name in known or name in WORKLOAD or self._switch(name)[0] or not written.startswith("--"):
            return name
        longer = [full for full in known if full.startswith(name) and "." not in full]
        if len(longer) == 1 and len(name) > 3:
            self.found.notes.append(f"{written} is taken as {flag_of(longer[0])}, as vLLM takes a name cut short")
            return longer[0]
        return name

    def _switch(self, name: str) -> tuple[bool, str]:
        """(whether it stands without a value, the switch that it turns off)."""
        if name in self.tables.switches:
            return True, ""
        bare = name.removeprefix("no_")
        off = bare if bare != name and bare in self.tables.switches else ""
        return bool(off) or name.startswith(("no_", "enable_", "disable_")), off

    def _is_map(self, name: str) -> bool:
        return self.tables.has_fields(name)

    def _optimization(self, text: str) -> None:
        if not text:
            self.found.problems.append("-O needs a level, 0 to 3, or a JSON map")
        elif text.startswith("{"):
            self._config("compilation_config", text)
        else:
            self.found.put("optimization_level", text, "-O")

    def _config(self, name: str, text: str | None) -> None:
        """A JSON argument whose fields have effects of their own; a bare number was a level of optimization."""
        if name == "compilation_config" and text and text.isdigit():
            self.found.put("optimization_level", text, flag_of(name))
        elif text is None:
            raise SpecError([Problem(f"{flag_of(name)} needs a value, a JSON map", WHERE)])
        elif text.lower() not in {"none", "null"}:
            if self.texts.get(name, text) != text:
                self.found.notes.append(f"{flag_of(name)} is given twice: the last counts, as in vLLM")
            self.texts[name] = text

    def _map(self, name: str, text: str) -> dict[str, Any]:
        found, note = as_map(text, flag_of(name))
        self.found.notes += [note] if note else []
        return found

    def _field(self, name: str, key: str, text: str | None) -> None:
        """``--name.key value``: a field of a JSON argument, ``key+`` an element of a list."""
        if text is None:
            raise SpecError([Problem(f"{flag_of(name)}.{key} needs a value", WHERE)])
        value: Any = text.split(",") if key.endswith("+") else _field_value(text)
        inner = self.fields.setdefault(name, {})
        *above, last = key.removesuffix("+").split(".")
        for part in above:
            below = inner.get(part)
            inner[part] = dict(below) if isinstance(below, dict) else {}
            inner = inner[part]
        before = inner.get(last)
        both = isinstance(before, list) and isinstance(value, list)
        inner[last] = [*before, *value] if both else value  # type: ignore[misc]

    def _all_fields(self, name: str, values: dict[str, Any]) -> None:
        """Each field as an argument of its own where tables have it so; the whole map otherwise."""
        if not self.tables.has_fields(name):
            self.found.put(name, values, flag_of(name))
            return
        for key, value in values.items():
            full = f"{name}.{key}"
            if isinstance(value, dict) and self.tables.has_fields(full):
                self._all_fields(full, value)
            elif value is not None:
                self.found.put(self.tables.same_as.get(full, full), value, flag_of(full))

    def _take_config_file(self) -> Arguments | None:
        """``--config file.yaml``, taken out of the words: its arguments, which count where the command says nothing."""
        place = next((i for i, word in enumerate(self.words) if word.partition("=")[0] == "--config"), None)
        if place is None:
            return None
        _, equals, file = self.words.pop(place).partition("=")
        file = file if equals or place == len(self.words) else self.words.pop(place)
        if not file or unresolved(file) or not Path(file).is_file():
            message = f"--config {file}: there is no such file here, and what it sets is not known"
            self.found.problems.append(f"{message}; give its path, or its settings as flags")
            return None
        found = arguments_of(_config_words(yaml.read(Path(file)).data))
        found.written = {name: f"{written} of {file}" for name, written in found.written.items()}
        return found


WORKLOAD = frozenset({"input_len", "output_len", "num_prompts", "batch_size", "random_input_len", "random_output_len"})
"""What ``vllm bench latency`` and ``throughput`` say of the load."""


def _config_words(data: dict[str, Any]) -> list[str]:
    words = list[str]()
    for key, value in data.items():
        flag = f"--{key}"
        if isinstance(value, bool):
            words.append(f"{flag}={str(value).lower()}")
        elif isinstance(value, dict):
            words += [flag, json.dumps(value)]
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words += [f"{flag}={value}"]
    return words


def _field_value(text: str) -> Any:
    """As vLLM reads a field: JSON, else a number like 16k, else text."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return whole(text)
    except ValueError:
        return {"true": True, "false": False}.get(text.lower(), text)


def flag_of(name: str) -> str:
    head, dot, key = name.partition(".")
    return f"--{head.replace('_', '-')}{dot}{key}"


def _shown(value: Any) -> str:
    return "true" if value is None else str(value)
