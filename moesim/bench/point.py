"""A point to measure: the columns of the table row it becomes, less what is measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Value = str | int | float


@dataclass(frozen=True)
class Point:
    """One row of ``table`` to measure. ``columns`` hold strings and numbers; bytes and counts, no units to convert."""

    table: str
    columns: Mapping[str, Value]
    key: str = field(init=False, compare=False)
    """What tells it from every other point, and finds it again in a log."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", json.dumps([self.table, dict(sorted(self.columns.items()))]))

    def as_data(self) -> dict[str, Any]:
        return {"table": self.table, **self.columns}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Point:
        """From ``{"table": ..., column: value, ...}``."""
        return cls(str(data["table"]), {k: v for k, v in data.items() if k != "table"})
