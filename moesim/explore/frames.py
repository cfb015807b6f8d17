"""Results as DataFrames: SI units and field names in the columns, units in ``attrs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.files.writing import whole

if TYPE_CHECKING:
    import pandas as pd


def frame(rows: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> pd.DataFrame:
    """Rows as a table whose ``attrs["units"]`` says the unit of every column that has one."""
    import pandas as pd

    table = pd.DataFrame(list(rows))
    table.attrs["units"] = {name: units[name] for name in table.columns if units.get(name)}
    return table


def write_table(table: pd.DataFrame, target: Path) -> Path:
    """A table as .csv or .parquet, whole or not at all."""
    with whole(target) as half:
        if target.suffix == ".csv":
            table.to_csv(half, index=False)
        else:
            table.to_parquet(half, index=False)
    return target
