"""What every argument of vLLM does to a prediction, from ``calibration/engines/vllm/command/arguments.yaml``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator

from moesim import paths
from moesim.errors import SpecError
from moesim.files import yaml
from moesim.files.quantities import Strict
from moesim.files.validation import validated


class Read(Strict):
    """An argument that is an engine setting."""

    kind: Literal["whole", "number", "switch", "text", "map", "speculation", "sizes", "sizes_or_largest",
                  "gibibytes"] = Field(alias="as")  # fmt: skip
    section: Literal["engine", "offload"] = "engine"
    setting: str | None = None
    """Its name here; null is vLLM's own, a dot stands before a key of a map."""
    values: dict[str, Any] = {}
    """vLLM's values, lower case, that have another name here; null sets nothing."""
    effects: dict[str, str] = {}
    """What a prediction does with a value that it cannot have."""


class Effect(Strict):
    """What differs because an argument is not modelled, or why it is refused."""

    effect: str
    unless: tuple[str, ...] = ()
    """Values, lower case, that change nothing."""


def _effects(found: Any) -> Any:
    if not isinstance(found, dict):
        return found
    return {name: {"effect": value} if isinstance(value, str) else value for name, value in found.items()}


class Variables(Strict):
    """Environment variables."""

    read: dict[str, str]
    mxfp4_kernel: dict[str, str]
    no_effect: frozenset[str]
    not_modelled: dict[str, Effect]

    _short_effects = field_validator("not_modelled", mode="before")(_effects)


class Speculation(Strict):
    """Keys of ``--speculative-config``."""

    read: dict[str, str]
    not_modelled: dict[str, str]


class Tables(Strict):
    """Every argument in one of four tables, under vLLM's names of settings."""

    source: str
    short: dict[str, str]
    same_as: dict[str, str]
    switches: frozenset[str]
    lists: frozenset[str]
    read: dict[str, Read]
    no_effect: frozenset[str]
    not_modelled: dict[str, Effect]
    refused: dict[str, Effect]
    speculation: Speculation
    environment: Variables
    other_programs: dict[str, str]
    subcommands: dict[str, str]

    _short_effects = field_validator("not_modelled", "refused", mode="before")(_effects)

    def known(self, name: str) -> bool:
        """Whether it is an argument, or a field of one."""
        return name in self.same_as or any(
            name in table for table in (self.read, self.no_effect, self.not_modelled, self.refused)
        )

    def has_fields(self, name: str) -> bool:
        """Whether the fields of a JSON argument have effects of their own."""
        return any(known.startswith(f"{name}.") for known in (*self.all_names, *self.same_as))

    @property
    def all_names(self) -> tuple[str, ...]:
        return (*self.read, *self.no_effect, *self.not_modelled, *self.refused)


@lru_cache(maxsize=1)
def tables() -> Tables:
    document = yaml.read(paths.ENGINES / "vllm" / "command" / "arguments.yaml")
    found, problems = validated(Tables, document.data, document)
    if found is None:
        raise SpecError(problems)
    return found
