"""Operations -> costs on one GPU under one engine. Forms say how (``cost/registry.py``); here is what all share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.cost import fits as fits_module
from moesim.cost.cost import Cost
from moesim.cost.fits import Fits, FittedFamily, load_fits
from moesim.cost.forms import load_forms
from moesim.cost.forms.form import Timing
from moesim.cost.gpu import GpuNumbers
from moesim.cost.reasons import EXPERT_MAP, Reason, Why, other_gpu, other_version, out_of_range, related_kernel
from moesim.cost.registry import CHOICES, PRICES, Choice, form_of
from moesim.cost.tiles import tuned_tiles
from moesim.cost.widening import OCTAVE_STEP, WIDEST, around, octaves_outside, of_experts
from moesim.engines.engine import Engine
from moesim.errors import SpecError
from moesim.hardware.hardware import Hardware
from moesim.ops import Operation

if TYPE_CHECKING:
    from moesim.hardware.topology import Route

_REMEMBERED = 4096


class Machine:
    """A GPU with its fits under an engine; prices operations."""

    def __init__(self, hardware: Hardware, engine: Engine, calibration: str = "auto"):
        load_forms()
        self.hardware = hardware
        self.engine = engine
        self.gpu = GpuNumbers.of(hardware)
        # Weights and caches of a running model never wait in L2, unlike a benchmark's repeated call.
        self.cold_gpu = replace(self.gpu, l2_bytes=1.0)
        own = fits_module.for_gpu(hardware.name) if calibration == "auto" else calibration
        self.fits: Fits = load_fits(own or fits_module.DEFAULT)
        self.tuned = tuned_tiles(hardware.name)
        self._remembered: dict[Any, Cost] = {}
        self._families: dict[str, tuple[FittedFamily, Fits]] = {}
        _check(self.fits)

    @cached_property
    def fallback(self) -> Fits:
        """Stands in for families this GPU has no fit of."""
        fits = load_fits(fits_module.DEFAULT)
        _check(fits)
        return fits

    def price(self, name: str, op: Operation) -> Cost:
        """Time of one operation, with its interval and where it comes from. Remembered where its load is one number."""
        key = (name, op)
        try:
            found = self._remembered.get(key)
        except TypeError:
            return self._price(name, op)
        if found is None:
            found = self._price(name, op)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = found
        return found

    def _price(self, name: str, op: Operation) -> Cost:
        price = PRICES.get(type(op))
        if price is not None:
            return price(self, name, op)
        return self.priced(name, CHOICES[type(op)](self, name, op))

    def seconds(self, name: str, op: Operation) -> Any:
        """The central time alone of what ``price`` prices in full. [s]"""
        choose = CHOICES.get(type(op))
        if choose is None:
            return self.price(name, op).seconds
        return self._timing(choose(self, name, op)).seconds

    def host_seconds(self, op: Any) -> Any:
        """The same of the host's part of a step. [s]"""
        return self._timing(Choice("host", op, self.gpu)).seconds

    @property
    def front_end(self) -> Mapping[str, float]:
        """Constants of a request's way to the scheduler. [s]"""
        return self.family("front_end")[0].parameters

    @property
    def served_errors(self) -> tuple[float, float]:
        """90 % half-widths of ln(measured/predicted) of served dense runs: time to first token, time per token."""
        first, token = (self.family(name)[0].residuals.half_width[0] for name in ("front_end", "served_token"))
        return float(first), float(token)

    def family(self, name: str) -> tuple[FittedFamily, Fits]:
        """The fit of a family, this GPU's own or one that stands in."""
        found = self._families.get(name)
        if found is None:
            found = self._families[name] = self._family(name)
        return found

    def _family(self, name: str) -> tuple[FittedFamily, Fits]:
        fits = self.fits
        if name.startswith("deepep"):
            fits = load_fits(fits_module.deepep_fits(name, self.hardware.name))
        elif name not in fits.families or (name.startswith("nccl/") and self._other_links(fits)):
            unswitched = name.startswith("nccl/") and self.hardware.links.kind == "none"
            fits = load_fits(fits_module.UNSWITCHED) if unswitched else self.fallback
        return fits.family(name), fits

    def _other_links(self, fits: Fits) -> bool:
        """A PCIe-only GPU under a stand-in calibration: its collectives come from a PCIe-only GPU's fit."""
        return fits.gpu != self.hardware.name and self.hardware.links.kind == "none"

    def route(self, members: tuple[int, ...]) -> Route | None:
        """What lies between GPUs of a cluster; None is a node as the GPU's own file describes it."""
        if not self.hardware.cluster or not members:
            return None
        from moesim.hardware.topology import route

        return route(self.hardware, members)

    @staticmethod
    def with_bottleneck(cost: Cost, way: Route | None) -> Cost:
        """Says which link is the busiest where a cluster's wiring decides."""
        if way is None or way.switched or not way.bottleneck:
            return cost
        return replace(cost, remarks=(*cost.remarks, f"busiest link {way.bottleneck}"))

    def _timing(self, choice: Choice) -> Timing:
        form = form_of(choice.family)
        assert form is not None
        parameters = choice.parameters or self.family(choice.family)[0].parameters
        return form.seconds(parameters, choice.op, choice.gpu, *choice.extra)

    def priced(self, name: str, choice: Choice) -> Cost:
        """The cost by the family chosen: its time, its interval, and every reason to widen that."""
        family, fits = self.family(choice.family)
        form = form_of(choice.family)
        assert form is not None
        timing, op = self._timing(choice), choice.op
        seconds = _plain(timing.seconds)
        width = of_experts(family.residuals.interval(seconds), choice.map_widening, choice.spread)
        reasons: list[Reason] = [] if choice.map_widening is None else [EXPERT_MAP]
        octaves, outside = octaves_outside(family, op, form)
        if outside:
            width = width * (1 + (Why.OUT_OF_RANGE.factor - 1) * octaves) + OCTAVE_STEP * octaves
            reasons.append(out_of_range(outside))
        if fits.gpu != self.hardware.name:
            seen = family.transfer_half_width(self.hardware.compute_capability)
            width = np.maximum(Why.OTHER_GPU.factor * width, seen)
            reasons.append(other_gpu(fits.gpu))
        if choice.related if isinstance(choice.related, bool) else choice.related.any():
            width = np.where(choice.related, Why.RELATED_KERNEL.factor, 1.0) * width
            reasons.append(related_kernel(family.name))
        if self.engine.stands_in:
            width = Why.OTHER_VERSION.factor * width
            reasons.append(other_version(self.engine.asked, self.engine.title))
        down, up = around(seconds, np.minimum(width, WIDEST))
        deviation = choice.deviation
        return Cost(
            name,
            seconds,
            {family.name: (_plain(down), _plain(up))},
            bound=_bound(timing),
            formula=form.text,
            source=f"{fits.name}:{family.name}",
            tag="extrapolated" if reasons else "fitted",
            op=op,
            reasons=tuple(reasons),
            variance=0.0 if deviation is None else _plain((deviation * (timing.seconds - timing.launch)) ** 2),
        )


def _plain(x: Any) -> Any:
    """One number as a float, arrays as they are."""
    return float(x) if isinstance(x, (float, np.generic)) or np.ndim(x) == 0 else x


def _check(fits: Fits) -> None:
    """A fit must name every parameter of its forms. Raises SpecError."""
    if fits.families and all(name.startswith("host_") for name in fits.families):
        raise SpecError(f"the calibration '{fits.name}' is of a processor and prices no GPU; give its .yaml to --host")
    for name, family in fits.families.items():
        form = form_of(name)
        missing = [q.name for q in form.parameters if q.name not in family.parameters] if form else []
        if missing:
            raise SpecError(
                f"the calibration '{fits.name}' lacks {', '.join(missing)} of '{name}': "
                "it was written by another version; run `moesim fit`"
            )


_BOUNDS = ("launch", "memory", "compute")


def _bound(timing: Timing) -> str:
    parts = [float(np.mean(part)) for part in timing[1:]]
    return _BOUNDS[parts.index(max(parts))]
