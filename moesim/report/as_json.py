"""A prediction as plain data, for programs. SI units, except metrics, which carry vLLM's names."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from moesim.cost.cost import Cost, interval
from moesim.errors import DoesNotFit
from moesim.memory import Room
from moesim.prediction import Prediction


def prediction_data(prediction: Prediction) -> dict[str, Any]:
    """Everything a prediction holds, the cost tree included."""
    return {
        "fits": True,
        "scenario": prediction.scenario.model_dump(),
        "metrics": {n: None if m is None else asdict(m) for n, m in prediction.metrics.items()},
        "memory_bytes": asdict(prediction.memory),
        "bounds": prediction.bounds,
        "tags": prediction.tags,
        "notes": list(prediction.notes),
        "cost": cost_data(prediction.cost),
    }


def cost_data(cost: Cost) -> dict[str, Any]:
    """A cost tree; ``seconds`` are per occurrence, ``count`` occurrences make the parent."""
    low, high = interval(cost.seconds, cost.spread)
    data: dict[str, Any] = {
        "name": cost.name,
        "seconds": float(cost.seconds),
        "low_s": float(low),
        "high_s": float(high),
        "count": cost.count,
    }
    if cost.children:
        return data | {"children": [cost_data(child) for child in cost.children]}
    # Waiting and overlap are no work of their own.
    flop, moved = (float(np.mean(getattr(cost.op, name, 0.0))) for name in ("flop", "hbm_bytes"))
    return data | {
        "bound": cost.bound,
        "tag": cost.tag,
        "source": cost.source,
        "formula": cost.formula,
        "mean_flop": flop,
        "mean_hbm_bytes": moved,
        "notes": list(cost.notes),
    }


def does_not_fit_data(error: DoesNotFit) -> dict[str, Any]:
    memory = asdict(error.memory) if isinstance(error.memory, Room) else {}
    return {
        "fits": False,
        "message": str(error),
        "shortfall_bytes": error.shortfall_bytes,
        "would_fit": list(error.ways_out),
        "memory_bytes": memory,
    }
