"""Modules by name, as quantisers list those they leave alone or store otherwise."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_PREFIXES = ("model.", "language_model.", "backbone.", "transformer.", "text_model.")
_SEEN_AS = (
    "", "model.", "model.language_model.", "language_model.model.", "language_model.", "backbone.", "transformer.",
    "text_model.", "thinker.model.",
)  # fmt: skip
"""What may stand before ``layers.`` in a checkpoint's names."""


class Unknown(ValueError):
    """A part of a quantisation config that is not known; the message says which, and what is."""


def bare(module: str) -> str:
    """A module's name without what stands before its layers."""
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if module.startswith(prefix):
                module, changed = module.removeprefix(prefix), True
    return module


@dataclass(frozen=True)
class Modules:
    """Modules by name as quantisers write them: whole names or parts of them, ``*`` wildcards, ``re:`` expressions."""

    names: frozenset[str] = frozenset()
    expressions: tuple[str, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[Any]) -> Modules:
        names, expressions = set[str](), list[str]()
        for entry in entries:
            if not isinstance(entry, str):
                raise Unknown(f"{entry!r} names no module")
            if entry.startswith("re:"):
                expressions.append(entry.removeprefix("re:"))
            elif "*" in entry:
                expressions.append(fnmatch.translate(entry))
            else:
                names.add(bare(entry.strip(".")))
        try:
            for expression in expressions:
                re.compile(expression)
        except re.error as error:
            raise Unknown(f"a module expression cannot be read ({error})") from None
        return cls(frozenset(names), tuple(expressions))

    @cached_property
    def _compiled(self) -> list[re.Pattern[str]]:
        return [re.compile(expression) for expression in self.expressions]

    def __contains__(self, module: str) -> bool:
        if self.names:
            parts = module.split(".")
            spans = ((i, j) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
            if any(".".join(parts[i:j]) in self.names for i, j in spans):
                return True
        return any(found.match(prefix + module) for found in self._compiled for prefix in _SEEN_AS)

    def __bool__(self) -> bool:
        return bool(self.names or self.expressions)
