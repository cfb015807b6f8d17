"""From what people call a model to an architecture of the catalogue: owners, suffixes, formats, paths of a hub's cache.

A name is taken apart from its end: what says a format gives the format, what says a tuning of the same layers goes,
until the rest is in the catalogue or among its aliases (``scenarios/models/aliases.yml``).
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import Field

from moesim import paths
from moesim.errors import SpecError
from moesim.files.quantities import Strict
from moesim.files.validation import read_as

_TUNINGS = re.compile(
    r"[-_.](instruct|chat|it|base|thinking|reasoning|hf|preview|\d{4}|v0\.\d|pt|text|unsloth|original|latest|mtp|fp16"
    r"|float16|abliterated|heretic|uncensored)$"
)
_UNREAD = re.compile(r"(?:^|[-_.])(gguf|exl2|exl3|mlx|onnx|openvino)\b")
"""Files of other engines."""
_FORMATS: tuple[tuple[re.Pattern[str], str | None], ...] = tuple(
    (re.compile(rf"[-_.]({pattern})$"), scheme)
    for pattern, scheme in (
        (r"fp8-w8a16", "fp8_weight_only"),
        (r"mxfp8-autoround", "mxfp8"),
        (r"nvfp4-autoround", "nvfp4"),
        (r"mxfp4-autoround", "mxfp4"),
        (r"fp8-dynamic|fp8-static|fp8_dynamic|dynamic-fp8|w8a8-fp8|fp8-w8a8|fp8-kv|fp8kv|fbgemm-fp8", "fp8"),
        (r"fp8-block|block-fp8|fp8_block", "fp8_block"),
        (r"mxfp8", "mxfp8"),
        (r"fp8", "fp8"),
        (r"gptq-int8|gptq-8bit|int8-autoround|quantized[.]w8a16|w8a16", "int8_weight_only"),
        (r"nvfp4a16|nvfp4-w4a16", "nvfp4_weight_only"),
        (r"nvfp4-awq|nvfp4|fp4", "nvfp4"),
        (r"mxfp4", "mxfp4"),
        (r"quantized[.]w4a16|w4a16-g128|w4a16|awq-int4|awq-4bit|awq-marlin|awq|gptq-int4|gptq-4bit|gptq-marlin|gptq"
         r"|int4-mixed-autoround|int4-autoround|autoround|int4|4bit-awq|marlin|g128", "int4"),
        (r"quantized[.]w8a8|w8a8-int8|w8a8|int8", "int8"),
        (r"bnb-4bit|nf4|4bit", "bitsandbytes"),
        (r"bf16|bfloat16", "none"),
    )
)  # fmt: skip
_STORED = {"none": "bfloat16"}
_BLOCK_FP8_OWNERS = ("qwen", "deepseek-ai", "minimaxai", "moonshotai", "xiaomimimo", "sgl-project")
"""Whose -FP8 checkpoints scale blocks of 128 x 128; others scale tensors or channels."""
_CACHE = re.compile(r"models--([^/]+?)--([^/]+)")


class Alias(Strict):
    """A published model of an architecture in the catalogue."""

    model: str
    overrides: dict[str, Any] = Field(default_factory=dict)


class Aliases(Strict):
    aliases: dict[str, Alias]


class Resolved(NamedTuple):
    """What a name stands for."""

    model: str
    """A folder of the catalogue."""
    overrides: dict[str, Any]
    quantization: str | None = None
    """What its suffix says; None where it says nothing."""
    note: str = ""
    """What was read into the name; empty where it is the catalogue's own."""


@lru_cache(maxsize=1)
def catalogue_names() -> dict[str, str]:
    """Names of the models that ship, by themselves in lower case."""
    return {folder.name.lower(): folder.name for folder in paths.MODELS.iterdir() if folder.is_dir()}


@lru_cache(maxsize=1)
def _known() -> dict[str, Alias]:
    """Every name in lower case: the aliases', the catalogue's, and what is left of those without their tunings."""
    aliases = read_as(Aliases, paths.MODELS / "aliases.yml")[0].aliases
    full = {name: Alias(model=title) for name, title in catalogue_names().items()}
    full |= {name.lower(): alias for name, alias in aliases.items()}
    known = dict(full)
    for name, alias in full.items():
        rest = name
        while (shorter := _TUNINGS.sub("", rest)) != rest:
            known.setdefault(shorter, alias)
            rest = shorter
    return known


def resolve(name: str) -> Resolved:
    """A hub id, or the path of one, as an architecture of the catalogue.

    Raises
    ------
    SpecError
        No part of the name is known; the three nearest by family are named.
    """
    owner, short = _owner_and_name(name)
    unread = _UNREAD.search(short.lower()) or _UNREAD.search(owner)
    if unread:
        said = (
            f"'{name}' is stored in {unread.group(1)}, which is not read; give the model without it, and a quantization"
        )
        raise SpecError(said)
    if (own := catalogue_names().get(short.lower())) is not None:
        # Most names: the aliases need not be read.
        return Resolved(own, {})
    bare, _, tag = short.partition("@")[0].partition(":")
    for spelled in dict.fromkeys((f"{bare}-{tag}" if tag else bare, bare)):
        found = _found(owner, spelled.lower())
        if found is not None:
            alias, scheme = found
            return Resolved(alias.model, alias.overrides, scheme, _note(name, alias.model, scheme))
    raise SpecError(_unknown(name, short))


def _found(owner: str, rest: str) -> tuple[Alias, str | None] | None:
    """(the architecture that a name in lower case is of, the format it says); None where no part of it is known."""
    scheme: str | None = None
    while True:
        alias = _known().get(rest)
        if alias is not None:
            return alias, scheme
        shorter, said = _shortened(rest)
        if shorter == rest:
            return None
        if said is not None and scheme is None:
            scheme = "fp8_block" if said == "fp8" and owner in _BLOCK_FP8_OWNERS and rest.endswith("fp8") else said
        rest = shorter


def _owner_and_name(name: str) -> tuple[str, str]:
    if (cached := _CACHE.search(name)) is not None:
        return cached.group(1).lower(), cached.group(2)
    parts = [part for part in re.split(r"[/\\]", name.strip().partition("/tree/")[0]) if part not in ("", ".", "..")]
    if not parts:
        return "", name
    return (parts[-2].lower() if len(parts) > 1 else ""), parts[-1].removesuffix(".json")


def cached_name(path: str) -> str | None:
    """The model's name in a path of a hub's cache; None in any other."""
    cached = _CACHE.search(path)
    return cached.group(2) if cached else None


def _shortened(name: str) -> tuple[str, str | None]:
    """(the name without its last word, the format that the word says)."""
    for pattern, scheme in _FORMATS:
        found = pattern.search(name)
        if found:
            return name[: found.start()], scheme
    found = _TUNINGS.search(name)
    return (name[: found.start()], None) if found else (name, None)


def _note(name: str, model: str, scheme: str | None) -> str:
    stored = f", stored as {_STORED.get(scheme, scheme)} as its name says" if scheme else ""
    return f"{name}: read as the architecture of {model}{stored}; its own config.json says it surely"


def _unknown(name: str, short: str) -> str:
    titles, family = catalogue_names(), re.match(r"[a-z]+", short.lower())
    same = [known for known in titles if family and known.startswith(family.group(0))]
    near = difflib.get_close_matches(short.lower(), same, 3, 0.0)
    near += [known for known in difflib.get_close_matches(short.lower(), list(titles), 3, 0.3) if known not in near]
    hint = f"; nearest: {', '.join(titles[known] for known in near[:3])}" if near else ""
    return (
        f"the model '{name}' is neither in the catalogue nor a folder with a config.json{hint}; moesim models lists "
        "all, and the config.json of any other can be given by its path"
    )
