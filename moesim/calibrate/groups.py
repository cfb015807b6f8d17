"""What is left out whole: rows that share the values of some columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def by(*columns: str) -> Callable[[pd.DataFrame], pd.Series]:
    """The group of every row: its values in ``columns``, joined by slashes."""

    def group(table: pd.DataFrame) -> pd.Series:
        joined, *rest = (table[column].astype(str) for column in columns)
        for values in rest:
            joined = joined + "/" + values
        return joined

    return group
