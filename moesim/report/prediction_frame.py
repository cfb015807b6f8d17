"""A prediction's metrics as a DataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.explore.frames import frame
from moesim.metrics import unit_of
from moesim.outcome import Prediction

if TYPE_CHECKING:
    import pandas as pd


def metrics_frame(prediction: Prediction) -> pd.DataFrame:
    """A row for each metric, under vLLM bench's names; ``attrs["scenario"]`` says of what."""
    rows = [
        {"metric": name, "value": metric.value, "low": metric.low, "high": metric.high, "unit": unit_of(name)}
        for name, metric in prediction.metrics.items()
        if metric is not None
    ]
    table = frame(rows, {})
    table.attrs["units"] = {row["metric"]: row["unit"] for row in rows}
    table.attrs["scenario"] = f"{prediction.scenario.model} on {prediction.scenario.hardware}"
    return table.set_index("metric")
