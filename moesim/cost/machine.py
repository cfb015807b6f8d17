"""Operations -> costs on one GPU under one engine. Forms say how (``cost/registry.py``); here is what all share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.cost.cost import Cost, Spread, of_one
from moesim.cost.fits import Fits, FittedFamily
from moesim.cost.forms import load_forms
from moesim.cost.forms.form import Timing
from moesim.cost.gpu import GpuNumbers
from moesim.cost.limits import floor_seconds
from moesim.cost.reasons import (
    EXPERT_MAP,
    Reason,
    Why,
    other_engine,
    other_gpu,
    other_version,
    out_of_range,
    related_kernel,
)
from moesim.cost.registry import CHOICES, PRICES, Choice, form_of
from moesim.cost.roofline import as_reached, prices
from moesim.cost.roofline import price as roofline_price
from moesim.cost.sources import fit_for, has_fit, sources, stacked_engines
from moesim.cost.tiles import tuned_tiles
from moesim.cost.widening import OCTAVE_STEP, WIDEST, around, octaves_outside, of_experts
from moesim.engines.engine import Engine
from moesim.hardware.catalogue import load_hardware
from moesim.hardware.hardware import Hardware
from moesim.ops import Operation

if TYPE_CHECKING:
    from moesim.hardware.topology import Route

_REMEMBERED = 4096


class Machine:
    """A GPU with its fits under an engine; prices operations."""

    def __init__(self, hardware: Hardware, engine: Engine, given: Fits | None = None):
        load_forms()
        self.hardware = hardware
        self.engine = engine
        self.gpu = GpuNumbers.of(hardware)
        if hardware.achieved is not None:
            self.gpu = as_reached(self.gpu, hardware, load_hardware(fit_for(hardware, "gemm/bfloat16").gpu))
        # Weights and caches of a running model never wait in L2, unlike a benchmark's repeated call.
        self.cold_gpu = replace(self.gpu, l2_bytes=1.0)
        self.given = given
        """The calibration a scenario names, which comes before every other."""
        of = "" if given is None else given.stack.partition("-")[0]
        self._of_other_engine = of != engine.file.name and of in stacked_engines()
        self.tuned = tuned_tiles(hardware.name)
        self._remembered: dict[Any, Cost] = {}
        self._families: dict[str, tuple[FittedFamily, Fits]] = {}

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
        if self.hardware.roofline is not None and prices(op):
            return roofline_price(self.hardware, self.gpu, name, op, self.route(getattr(op, "members", ())))
        price = PRICES.get(type(op))
        if price is not None:
            return price(self, name, op)
        return self.priced(name, CHOICES[type(op)](self, name, op))

    def seconds(self, name: str, op: Operation) -> Any:
        """The central time alone of what ``price`` prices in full. [s]"""
        choose = CHOICES.get(type(op))
        if choose is None or (self.hardware.roofline is not None and prices(op)):
            return self.price(name, op).seconds
        return self._timing(choose(self, name, op)).seconds

    def host_seconds(self, op: Any) -> Any:
        """The same of the host's part of a step. [s]"""
        if self.hardware.roofline is not None:
            return self.price("host", op).seconds
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
        given = self.given
        if given is None or name not in given.families or self._of_other_links(name, given):
            fits = fit_for(self.hardware, name)
        else:
            fits = given
        return fits.family(name), fits

    def _of_other_links(self, name: str, fits: Fits) -> bool:
        """Collectives of another GPU than this one, which talks over PCIe alone."""
        return name.startswith("nccl/") and fits.gpu != self.hardware.name and self.hardware.links.kind == "none"

    def has_own(self, name: str) -> bool:
        """Whether a family was fitted for this GPU, or in the calibration that is named."""
        return (self.given is not None and name in self.given.families) or has_fit(self.hardware.name, name)

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
        return self.timed(name, choice, self._timing(choice))

    def timed(self, name: str, choice: Choice, timing: Timing) -> Cost:
        """The same of a time that is known already, by the family's own constants."""
        family, fits = self.family(choice.family)
        form, op = form_of(choice.family), choice.op
        assert form is not None
        seconds = _plain(timing.seconds)
        relative = choice.relative
        width = family.residuals.interval(seconds)
        # Where tables of a relative were priced by these constants, shapes beyond the fit are in what was seen.
        width = width if relative is None else np.maximum(width, relative.half_width)
        width = of_experts(width, choice.map_widening, choice.spread() if choice.spread else None)
        reasons: list[Reason] = [] if choice.map_widening is None else [EXPERT_MAP]
        octaves, outside = octaves_outside(family, op, form) if relative is None else (0.0, "")
        if outside:
            width = width * (1 + (Why.OUT_OF_RANGE.factor - 1) * octaves) + OCTAVE_STEP * octaves
            reasons.append(out_of_range(outside))
        if fits.gpu != self.hardware.name:
            seen = family.transfer_half_width(self.hardware.compute_capability)
            width = np.maximum(Why.OTHER_GPU.factor * width, seen)
            reasons.append(other_gpu(fits.gpu))
        if choice.related if isinstance(choice.related, bool) else choice.related.any():
            factor = Why.RELATED_KERNEL.factor if relative is None else 1.0
            width = np.where(choice.related, factor, 1.0) * width
            reasons.append(related_kernel(family.name))
        if fits is self.given and self._of_other_engine:
            width = Why.OTHER_ENGINE.factor * width
            reasons.append(other_engine(fits.stack, self.engine.title))
        if self.engine.stands_in:
            width = Why.OTHER_VERSION.factor * width
            reasons.append(other_version(self.engine.asked, self.engine.title))
        least = floor_seconds(op, choice.gpu)
        spread = _shared(family.name, name, _within(seconds, least, np.minimum(width, WIDEST)))
        terms = {MACHINES: sources().machine_half_width}
        if self.engine.file.kernel_distance and choice.family != "host":
            terms[VERSIONS] = self.engine.file.kernel_distance
        spread |= {term: _within(seconds, least, half_width) for term, half_width in terms.items()}
        deviation = choice.deviation() if choice.deviation else None
        return Cost(
            name,
            seconds,
            spread,
            bound=_bound(timing),
            formula=form.text,
            source=f"{fits.name}:{family.name}",
            tag="extrapolated" if reasons else "fitted",
            op=op,
            reasons=tuple(reasons),
            variance=0.0 if deviation is None else _plain((deviation * (timing.seconds - timing.launch)) ** 2),
        )


MACHINES, VERSIONS = "machine", "engine version"
"""Terms of every interval: another GPU of the same kind, and other kernels than those that were timed."""


def _within(seconds: Any, least: Any, width: Any) -> tuple[Any, Any]:
    """Seconds below and above, none below what the hardware allows."""
    down, up = around(seconds, width)
    return _plain(np.minimum(down, np.maximum(seconds - least, 0.0))), _plain(up)


def _shared(family: str, name: str, ends: tuple[Any, Any]) -> Spread:
    """A family's own term: of products, what errs with products of every shape and what errs with this one's alone."""
    if not family.startswith("gemm/"):
        return {family: ends}
    common = sources().product_correlation
    return {
        term: (share * ends[0], share * ends[1])
        for term, share in ((family, common**0.5), (of_one(family, name), (1.0 - common) ** 0.5))
    }


def _plain(x: Any) -> Any:
    """One number as a float, arrays as they are."""
    return float(x) if isinstance(x, (float, np.generic)) or np.ndim(x) == 0 else x


_BOUNDS = ("launch", "memory", "compute")


def _bound(timing: Timing) -> str:
    parts = [float(np.mean(part)) for part in timing[1:]]
    return _BOUNDS[parts.index(max(parts))]
