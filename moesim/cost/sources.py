"""Whose fit prices a family of kernels on a GPU: ``calibration/fits/sources.yaml``, and what stands in for the rest."""

from __future__ import annotations

import math
import re
from functools import lru_cache

from pydantic import Field

from moesim import paths
from moesim.cost.fit_file import forget_fits, load_fits
from moesim.cost.fits import Fits
from moesim.errors import SpecError
from moesim.files.quantities import Strict
from moesim.files.validation import read_as
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.hardware import Hardware

_LINKED = ("nccl", "custom_all_reduce", "symmetric_memory_all_reduce")
_NO_VERSION = 999.0


class Source(Strict):
    """Stacks that measured some families, the most trusted first."""

    of: list[str] = Field(min_length=1)
    """Families, or what stands before the slash in their names."""
    stacks: list[str] = Field(min_length=1)
    fit_also: list[str] = []
    """Stacks fitted to be reported beside these, and priced by nowhere."""
    why: str = Field(min_length=1)
    doubts: list[str] = []


class Sources(Strict):
    """The whole file."""

    families: list[Source]
    artefacts: list[Source] = []
    """Rows that tell nothing of the distance between versions."""
    machine_half_width: float = Field(gt=0, lt=1)
    """Half-width, in the logarithm, of 90 % of GPUs of one kind around the one that was measured."""
    product_correlation: float = Field(ge=0, le=1)
    """Between the errors of two products of different shapes under the same load."""
    eager_operation_s: float = Field(gt=0, lt=1e-3)
    """Host time of one operation without a CUDA graph; assumed. [s]"""
    held_out: dict[str, str] = {}
    """Stack -> why no fit may see it."""


@lru_cache(maxsize=1)
def sources() -> Sources:
    return read_as(Sources, paths.FITS / "sources.yaml")[0]


def source_of(family: str) -> Source | None:
    """What the file says of a family; None where it does not name it."""
    for name in (family, family.partition("/")[0]):
        for source in sources().families:
            if name in source.of:
                return source
    return None


def trusted(family: str) -> list[str]:
    """Stacks that may price a family, in order."""
    source = source_of(family)
    return source.stacks if source else []


def is_artefact(family: str, stack: str) -> bool:
    return any(family in source.of and stack in source.stacks for source in sources().artefacts)


def _named_stacks() -> set[str]:
    return {stack for source in sources().families for stack in source.stacks}


def stacks_of(gpu: str) -> list[str]:
    """Stacks with a stored fit of a GPU: those made here first, newest first; those held out nowhere."""
    known = _named_stacks()
    stored = [name.partition("/")[2] for name in paths.stored_fits() if name.startswith(f"{gpu}/")]
    own = sorted((stack for stack in stored if stack not in known), key=_numbers, reverse=True)
    return [stack for stack in (*own, *sorted(known)) if stack in stored and stack not in sources().held_out]


@lru_cache(maxsize=512)
def own_fit(gpu: str, family: str) -> Fits | None:
    """A GPU's own fit of a family; None where it has none."""
    known = _named_stacks()
    stored = stacks_of(gpu)
    for stack in (*(s for s in stored if s not in known), *(trusted(family) or stored)):
        if stack in stored:
            fits = load_fits(f"{gpu}/{stack}")
            if family in fits.families:
                return fits
    return None


def fit_for(hardware: Hardware, family: str) -> Fits:
    """A GPU's own fit of a family, or the nearest fitted GPU's.

    Raises
    ------
    SpecError
        No GPU has a fit of this family.
    """
    found = own_fit(hardware.name, family) or _nearest(hardware, family)
    if found is None:
        raise SpecError(f"no calibration has a fit of '{family}'")
    return found


def has_fit(gpu: str, family: str) -> bool:
    return own_fit(gpu, family) is not None


@lru_cache(maxsize=512)
def _nearest(hardware: Hardware, family: str) -> Fits | None:
    """The closest GPU's fit: for collectives one with such links first, then by compute capability and bandwidth."""
    found = [fits for gpu in fitted_gpus() if (fits := own_fit(gpu, family)) is not None]
    linked = family.partition("/")[0] in _LINKED
    return min(found, key=lambda fits: _distance(hardware, load_hardware(fits.gpu), linked), default=None)


@lru_cache(maxsize=1)
def fitted_gpus() -> tuple[str, ...]:
    """GPUs with any stored fit."""
    return tuple(dict.fromkeys(name.partition("/")[0] for name in paths.stored_fits()))


@lru_cache(maxsize=1)
def stacked_engines() -> frozenset[str]:
    """Engines of which any fit is stored."""
    return frozenset(name.partition("/")[2].partition("-")[0] for name in paths.stored_fits())


def _distance(one: Hardware, other: Hardware, linked: bool) -> tuple[float, ...]:
    mine, theirs = _capability(one.compute_capability), _capability(other.compute_capability)
    links = float(linked and one.links.kind != other.links.kind)
    bandwidth = abs(math.log(one.described.hbm_bandwidth.value / other.gpu.hbm_bandwidth.value))
    return links, abs(int(mine) - int(theirs)), abs(mine - theirs), bandwidth


def _capability(text: str) -> float:
    """9.0 of "9.0"; what is no such number is Hopper's, which the most was measured on."""
    found = re.match(r"\d+\.\d+", text)
    return float(found[0]) if found else 9.0


def _numbers(stack: str) -> list[float]:
    return [float(part) for part in re.findall(r"\d+", stack)] or [_NO_VERSION]


def forget() -> None:
    """Drop what was looked up: a fit was written."""
    forget_fits()
    for known in (own_fit, _nearest, fitted_gpus):
        known.cache_clear()
