"""Fits as stored: parameters, valid ranges and residual quantiles of every kernel family of a GPU and stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesim.errors import SpecError

BINS = 3
BIN_ROWS = 150
LEVEL = 0.9
WIDEST = 1.1
"""No transfer widens beyond a factor of three: a wider error on another GPU says that GPU differs, not this one."""
UNSEEN_GPU = 0.35
"""Half-width on an architecture nothing was measured on, at least: a third either way."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Residuals:
    """90 % quantile of |log(measured / predicted)| on held-out rows, by predicted duration.

    ``edges_s`` separate the bins (short kernels err more); ``half_width`` has one entry a bin. Symmetric in
    the logarithm: with few held-out groups the sign of their errors says nothing about the next group.
    """

    edges_s: tuple[float, ...]
    half_width: tuple[float, ...]

    @classmethod
    def of(cls, predicted_s: Array, log_ratio: Array) -> Residuals:
        """Conformal quantiles in up to ``BINS`` bins of equal counts, none with fewer than ``BIN_ROWS`` rows."""
        bins = int(np.clip(len(predicted_s) // BIN_ROWS, 1, BINS))
        edges = np.quantile(predicted_s, np.arange(1, bins) / bins)
        index = np.searchsorted(edges, predicted_s)
        widths = [_conformal(np.abs(log_ratio[index == b])) for b in range(bins)]
        return cls(tuple(edges.tolist()), tuple(widths))

    def interval(self, predicted_s: Any) -> Any:
        """Half-width, in the logarithm, of the 90 % interval around a prediction of that duration."""
        return np.asarray(self.half_width)[np.searchsorted(self.edges_s, predicted_s)]


def _conformal(error: Array) -> float:
    """The quantile that covers a new exchangeable error 90 % of the time: rank ceil(0.9 (n + 1))."""
    rank = min(int(np.ceil(LEVEL * (len(error) + 1))), len(error))
    return float(np.sort(error)[rank - 1])


@dataclass(frozen=True)
class Relative:
    """The same kernel on another weight format: how much slower its arithmetic, and the half-width left then."""

    slower_arithmetic: float
    half_width: float


@dataclass(frozen=True)
class FittedFamily:
    """One family's constants as a prediction needs them."""

    name: str
    parameters: Mapping[str, float]
    valid_range: Mapping[str, tuple[float, float]]
    residuals: Residuals
    transfer: Mapping[str, float]
    """Compute capability -> half-width, in the logarithm, seen when these constants priced such a GPU."""
    relatives: Mapping[str, Relative] = field(default_factory=dict)
    """Weight format that the same kernel runs, priced by these constants -> what was seen where both were measured."""

    def transfer_half_width(self, compute_capability: str) -> float:
        """Interval on a GPU that was not fitted: as seen on its own architecture, else the widest seen."""
        widest = max(self.transfer.values(), default=UNSEEN_GPU)
        return min(self.transfer.get(compute_capability, max(widest, UNSEEN_GPU)), WIDEST)


@dataclass(frozen=True, eq=False)
class Fits:
    """All families fitted for a GPU and stack; equal to itself alone, so that a file read anew is another."""

    name: str
    gpu: str
    stack: str
    families: Mapping[str, FittedFamily]

    def family(self, name: str) -> FittedFamily:
        if name not in self.families:
            raise SpecError(f"the calibration '{self.name}' has no fit of '{name}'; it has {', '.join(self.families)}")
        return self.families[name]


def ranged_fields(op: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The values of an operation's ranged fields; sequences, query and context come from its groups."""
    found: dict[str, Any] = {}
    for name in names:
        if hasattr(op, "groups") and name in {"sequences", "query", "past", "context"}:
            g = max(op.groups, key=lambda g: float(np.max(g.sequences * g.query)))
            # Steps without a sequence of this kind carry placeholders; they leave no range.
            one = np.maximum(g.sequences, 1)
            found[name] = {"sequences": one, "query": g.query, "past": g.past, "context": g.past + g.query}[name]
        else:
            found[name] = getattr(op, name)
    return found
