"""Who prices what: forms announce themselves here, and the machine asks.

A form's module registers, for its kind of operation, either a function that chooses a family (``chooses``) or one that
prices the operation from several (``prices``), and the forms of its families (``families``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moesim.cost.cost import Cost
from moesim.cost.fits import Relative
from moesim.cost.forms.form import Form
from moesim.cost.gpu import GpuNumbers


@dataclass(frozen=True, slots=True)
class Choice:
    """The family that prices an operation, and what is special about it there."""

    family: str
    op: Any
    """As the family sees it."""
    gpu: GpuNumbers
    extra: tuple[Any, ...] = ()
    """What the form takes beyond parameters, work and GPU: a tile, a route."""
    related: Any = False
    """Whether the family is another kernel's: everywhere, or where a mask says."""
    relative: Relative | None = None
    """What was seen of such operations under this family's constants, where some GPU has tables of both."""
    parameters: Mapping[str, float] | None = None
    """Instead of the family's own."""
    map_widening: float | None = None
    """Widening where the rank holds a part of the experts; None where it does not."""
    spread: Callable[[], Any] | None = None
    """Half-width, in the logarithm, of draws that are independent of the kernel's error; asked where intervals are."""
    deviation: Callable[[], Any] | None = None
    """Standard deviation of the work beyond launches, from draw to draw, relative."""


Choose = Callable[[Any, str, Any], Choice]
Price = Callable[[Any, str, Any], Cost]

CHOICES: dict[type, Choose] = {}
PRICES: dict[type, Price] = {}
FORMS: dict[str, Form] = {}
"""Form of a family, by its name or by the part of it before the slash."""


def priced_here(op: Any) -> bool:
    """Whether an operation is one of a GPU's: links, processors and disks of an offloaded model have others."""
    return type(op) in CHOICES or type(op) in PRICES


def chooses(kind: type) -> Callable[[Choose], Choose]:
    """Register the choice of a family for a kind of operation: ``choose(machine, name, op)``."""

    def register(choose: Choose) -> Choose:
        CHOICES[kind] = choose
        return choose

    return register


def prices(kind: type) -> Callable[[Price], Price]:
    """Register the price of a kind of operation that one family does not give: ``price(machine, name, op)``."""

    def register(price: Price) -> Price:
        PRICES[kind] = price
        return price

    return register


def families(forms: Mapping[str, Form]) -> None:
    """Register forms by family."""
    FORMS.update(forms)


def form_of(family: str) -> Form | None:
    return FORMS.get(family) or FORMS.get(family.partition("/")[0])
