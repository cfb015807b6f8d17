"""Reading fields of a config.json, with everything wrong collected."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moesim.errors import Problem
from moesim.models.quantization import Quantization

_LARGEST = 10**9
_MOST_LAYERS = 10_000
_BESIDE = {"q_proj": ("k_proj", "v_proj"), "down_proj": ("gate_proj", "up_proj"), "w2": ("w1", "w3")}
"""Projections that the first is taken to speak for."""


def _between(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


class Fields:
    """A config.json with required fields asked for by name, all the missing ones collected."""

    def __init__(self, data: dict[str, Any], source: str, weights: Quantization | None = None):
        self.data, self.source = data, source
        self.quantization = weights or Quantization()
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        """What is left out of the model, in words."""

    def format(self, layer: int, module: str) -> str:
        """Format in which a layer's module, such as ``self_attn.q_proj``, is stored."""
        stored = self.quantization.of(f"layers.{layer}.{module}")
        around, _, last = module.rpartition(".")
        for beside in _BESIDE.get(last, ()):
            self.alike(layer, f"{around}.{beside}", stored)
        return stored

    def alike(self, layer: int, module: str, stored: str) -> None:
        """Note a module that is stored otherwise than the one that speaks for its block."""
        found = self.quantization.told(f"layers.{layer}.{module}")
        if found is not None and found != stored:
            self.notes.append(f"{module} is stored as {found} and read as {stored}, as others of its block are")

    def whole(self, *names: str, default: int | None = None) -> int:
        """A positive whole number under the first of ``names`` that is present; 0 where the default is 0."""
        for name in names:
            value = self.data.get(name)
            if value is None:
                continue
            least = 0 if default == 0 else 1
            if isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST:
                return value
            self._say(f"'{name}' is {value!r}; a whole number from {least} to {_LARGEST:,} is expected")
            return 1
        if default is not None:
            return default
        self._say(f"'{names[0]}' is missing; a whole number is expected")
        return 1

    def layers(self, *names: str) -> int:
        """A number of layers."""
        count = self.whole(*(names or ("num_hidden_layers",)))
        if count > _MOST_LAYERS:
            self._say(f"{count} layers are more than the {_MOST_LAYERS} accepted")
        return min(count, _MOST_LAYERS)

    def section(self, name: str) -> dict[str, Any]:
        """A nested map, empty where absent."""
        value = self.data.get(name)
        if value is not None and not isinstance(value, dict):
            self._say(f"'{name}' is {value!r}; a map is expected")
        return value if isinstance(value, dict) else {}

    def words(self, name: str, count: int, known: Iterable[str], default: list[str] | None = None) -> list[str]:
        """A list of one of the ``known`` words for each of ``count`` layers; longer ones hold draft layers too."""
        value = self.data.get(name)
        if value is None and default is not None:
            return default[:count]
        if not isinstance(value, list) or len(value) < count or not all(isinstance(v, str) for v in value):
            self._say(f"'{name}' must name each of the {count} layers")
            return (default or [""] * count)[:count]
        odd = sorted(set(value[:count]) - set(known))
        if odd:
            self._say(f"'{name}' has {', '.join(map(repr, odd))}; known here are {', '.join(sorted(known))}")
        return value[:count]

    def numbers(self, name: str, count: int, most: int = _LARGEST, default: int | None = None) -> list[int]:
        """A list of one whole number up to ``most`` for each of ``count`` layers, or one for all of them."""
        value = self.data.get(name, default)
        listed = [value] * count if isinstance(value, int) else value
        if not isinstance(listed, list) or len(listed) < count or not all(_between(v, most) for v in listed):
            self._say(f"'{name}' must give a whole number from 0 to {most:,} for each of the {count} layers")
            return [1] * count
        return [int(v) for v in listed[:count]]

    def sparse(self, count: int, first: int = 0, name: str = "moe_layer_freq") -> list[bool]:
        """Which layers have experts: every n-th from the ``first`` on, or as a list of ones and zeros says."""
        value = self.data.get(name, 1)
        if isinstance(value, list):
            return [bool(v) for v in self.numbers(name, count, 1)]
        every = self.whole(name, default=1)
        return [i >= first and i % every == 0 for i in range(count)]

    def refuse(self, message: str) -> None:
        """A part of the config that no reader models."""
        self._say(message)

    def _say(self, message: str) -> None:
        problem = Problem(message, self.source)
        if problem not in self.problems:
            self.problems.append(problem)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.data.get(name, default)
        if value not in (None, True, False):
            self._say(f"'{name}' is {value!r}; true or false is expected")
        return bool(value)

    def optional(self, name: str) -> int | None:
        return self.whole(name) if self.data.get(name) is not None else None
