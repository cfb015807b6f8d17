"""How often each expert of each layer was picked, and how uneven that is: of counts, a trace, or a scenario."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moesim.errors import SpecError
from moesim.experts.counts_file import COLUMNS, read_counts
from moesim.experts.placement import linear, replicated
from moesim.experts.trace import first_line, read_picks
from moesim.files.reading import require_file
from moesim.inputs.loading import load
from moesim.inputs.model_of import model_of, with_counts
from moesim.inputs.scenario import Scenario

Array = np.ndarray[Any, Any]
COLD = 0.1
"""An expert is cold that gets less than this share of an even load."""


@dataclass(frozen=True)
class Activations:
    """Picks by layer and expert, any positive scale."""

    source: str
    counts: Array
    """Shape (layers, experts)."""

    @property
    def peak(self) -> Array:
        """Picks of each layer's busiest expert over the mean."""
        return self.counts.max(1) / np.maximum(self.counts.mean(1), 1e-300)

    @property
    def cold(self) -> Array:
        """Experts of each layer with less than a tenth of an even share."""
        return (self.counts < COLD * self.counts.mean(1, keepdims=True)).sum(1)

    @property
    def variation(self) -> Array:
        """Standard deviation over mean, a layer."""
        return self.counts.std(1) / np.maximum(self.counts.mean(1), 1e-300)

    def rank_peak(self, ranks: int, redundant: int | None = None) -> Array:
        """Picks of each layer's busiest rank over the mean: neighbours together, or packed by load with replicas."""
        found = []
        for row in self.counts:
            share = linear(len(row), ranks) if redundant is None else replicated(row, ranks, redundant)
            found.append(float((share @ row).max() * ranks / max(row.sum(), 1e-300)))
        return np.array(found)


def activations(path: Path) -> Activations:
    """Of a CSV of counts, a trace (one line a token, its experts), or a scenario. Raises SpecError."""
    require_file(path)
    if path.suffix in {".yaml", ".yml"}:
        return Activations(path.stem, of_scenario(load(path)))
    head = first_line(path)
    if tuple(cell.strip() for cell in head.split(",")) == COLUMNS:
        return Activations(path.stem, np.array(read_counts(str(path))))
    picks = np.array(read_picks(str(path)))
    return Activations(path.stem, np.bincount(picks.ravel()).astype(float)[None, :])


def of_scenario(scenario: Scenario) -> Array:
    """Expected picks of each expert by 1,000 tokens, by layer; what a scenario's routing says. Raises SpecError."""
    from moesim.experts.routing import loads

    model, routing = model_of(scenario), with_counts(scenario.routing)
    order = model.order or tuple(i for i, group in enumerate(model.layers) for _ in range(group.count))
    routed = [ffn for i in order if (ffn := model.layers[i].routed) is not None]
    if not routed:
        raise SpecError(f"{model.name} has no routed experts")
    if routing.kind == "locality":
        raise SpecError("locality says how picks repeat, not which experts are picked; zipf, histogram or by_layer do")
    rows = []
    for place, ffn in enumerate(routed):
        law = routing.layers[place] if routing.kind == "by_layer" else routing
        found = loads(law, ffn.num_experts, ffn.num_experts_per_tok).popularity
        even = np.full(ffn.num_experts, ffn.num_experts_per_tok / ffn.num_experts)
        rows.append(1000.0 * (np.array(found) if found else even))
    most = max(len(row) for row in rows)
    return np.array([np.pad(row, (0, most - len(row))) for row in rows])
