"""Fit files: read whole, and believed only where every constant is one that its form could have been fitted to."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from moesim import paths
from moesim.cost.fits import Fits, FittedFamily, Relative, Residuals
from moesim.cost.registry import FORMS, form_of
from moesim.errors import Problem, SpecError, nearest
from moesim.files import json
from moesim.files.document import Location
from moesim.files.quantities import FileName, Strict
from moesim.files.validation import validated

_WIDEST = 5.0
"""Of a half-width in the logarithm: a factor of 150."""
_WHAT = "a fit that `moesim fit` writes"

HalfWidth = Annotated[float, Field(ge=0, le=_WIDEST)]


class FittedParameter(Strict):
    value: float
    unit: str = ""
    standard_error: Annotated[float, Field(ge=0)] | None = None
    meaning: str = ""
    at_bound: bool = False


class FittedResiduals(Strict):
    what: str = ""
    edges_s: list[Annotated[float, Field(ge=0)]]
    half_width: list[HalfWidth]

    @model_validator(mode="after")
    def _one_more(self) -> FittedResiduals:
        if len(self.half_width) != len(self.edges_s) + 1:
            raise ValueError(
                f"{len(self.half_width)} half_width stand beside {len(self.edges_s)} edges_s; one more is expected"
            )
        if self.edges_s != sorted(self.edges_s):
            raise ValueError("edges_s do not rise")
        return self


class Transfer(Strict):
    stack: str
    compute_capability: str
    mean_absolute_error: float
    half_width: HalfWidth


class RelativeFormat(Strict):
    half_width: HalfWidth
    slower_arithmetic: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seen: dict[str, float] = {}


class FamilyEntry(Strict):
    """What a prediction reads of a family; the rest tells how it was fitted."""

    parameters: dict[str, FittedParameter]
    valid_range: dict[str, tuple[float, float]]
    residuals: FittedResiduals
    transfer: dict[str, Transfer] = {}
    relatives: dict[str, RelativeFormat] = {}
    form: str = ""
    note: str = ""
    held_out: dict[str, Any] = {}
    set_aside: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    data: dict[str, Any] = {}

    @model_validator(mode="after")
    def _ranges_rise(self) -> FamilyEntry:
        for name, (low, high) in self.valid_range.items():
            if high < low:
                raise ValueError(f"the valid_range of {name} falls from {low:g} to {high:g}")
        return self


class FitFile(Strict):
    about: str = ""
    gpu: FileName
    stack: FileName
    families: Annotated[dict[str, FamilyEntry], Field(min_length=1)]


def load_fits(name: str) -> Fits:
    """A stored fit by name or file.

    Raises
    ------
    SpecError
        There is none; or, with file and line, what keeps it from being one: a constant that is missing, no number, or
        beyond the bounds within which its form is fitted.
    """
    stored_as = paths.FITS / f"{name}.json"
    path = stored_as if stored_as.is_file() else Path(name)
    if not path.is_file():
        stored = nearest(name, paths.stored_fits(), "moesim hardware")
        raise SpecError(f"the calibration '{name}' is neither stored nor a file; {stored}")
    return _loaded(name, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _loaded(name: str, path: Path, _stamp: int) -> Fits:
    from moesim.cost.forms import load_forms

    load_forms()
    document = json.read(path, _WHAT)
    families = document.data.get("families")
    if isinstance(families, dict) and families and all(family.startswith("host_") for family in families):
        raise SpecError([Problem("is of a processor and prices no GPU; give its .yaml to --host", str(path))])
    file, problems = validated(FitFile, document.data, document)
    if file is not None:
        problems = [Problem(message, document.where(at)) for at, message in _doubted(file)]
    if problems or file is None:
        raise SpecError(problems)
    return Fits(name, file.gpu, file.stack, {key: _family(key, entry) for key, entry in file.families.items()})


def forget_fits() -> None:
    """Drop what was read: a fit was written."""
    _loaded.cache_clear()


def _doubted(file: FitFile) -> Iterator[tuple[Location, str]]:
    """Families and constants that no form here could have been fitted to."""
    for name, entry in file.families.items():
        form = form_of(name)
        if form is None:
            near = difflib.get_close_matches(name, FORMS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"families are {', '.join(sorted(FORMS))}"
            yield ("families", name), f"'{name}' is no family of kernels; {hint}"
            continue
        known = {parameter.name: parameter for parameter in form.parameters}
        if missing := [one for one in known if one not in entry.parameters]:
            message = f"'{name}' lacks {', '.join(missing)}: it was written by another version; run `moesim fit`"
            yield ("families", name, "parameters"), message
        for one, fitted in entry.parameters.items():
            at = ("families", name, "parameters", one)
            if one not in known:
                yield at, f"'{one}' is no parameter of '{name}'; {', '.join(known)} are"
            elif not known[one].low <= fitted.value <= known[one].high:
                low, high, unit = known[one].low, known[one].high, known[one].unit
                accepted = f"from {low:g} to {high:g}{'' if unit == '1' else f' {unit}'} is accepted"
                yield (*at, "value"), f"{one} of '{name}' is {fitted.value:g}; {accepted}"
        for one in entry.valid_range:
            if one not in form.ranged:
                yield ("families", name, "valid_range", one), f"'{one}' is no range of '{name}'; {form.ranged} are"


def _family(name: str, entry: FamilyEntry) -> FittedFamily:
    widest: dict[str, float] = {}
    for seen in entry.transfer.values():
        widest[seen.compute_capability] = max(widest.get(seen.compute_capability, 0.0), seen.half_width)
    return FittedFamily(
        name,
        {key: fitted.value for key, fitted in entry.parameters.items()},
        entry.valid_range,
        Residuals(tuple(entry.residuals.edges_s), tuple(entry.residuals.half_width)),
        widest,
        {
            key: Relative(found.slower_arithmetic, found.half_width)
            for key, found in entry.relatives.items()
            if found.slower_arithmetic is not None
        },
    )
