"""What a file says, and on which line it says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Location = tuple[str | int, ...]


@dataclass
class Document:
    """A parsed file: its data, and the line on which each key stands."""

    data: dict[str, Any]
    source: str
    lines: dict[Location, int] = field(default_factory=dict)

    def where(self, location: Location) -> str:
        """``file:line`` of a key, or of the nearest key above it; the source alone where it has no lines."""
        if not self.lines:
            return self.source
        while location and location not in self.lines:
            location = location[:-1]
        line = self.lines.get(location, 1)
        return f"{self.source}:{line}"
