"""Results that print as their report.

Reports stand above what they show and import it; what they show asks for them by name, here alone.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import pandas as pd


def reported(place: str, *arguments: Any) -> Any:
    """What the function at ``module:function`` below ``moesim.report`` makes of the arguments."""
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(f"moesim.report.{module}"), function)(*arguments)


class Presented:
    """A result whose ``print`` is its report; in a notebook as HTML where it has that."""

    _text: ClassVar[str] = ""
    """``module:function`` below ``moesim.report``."""

    def __str__(self) -> str:
        return reported(self._text, self)


class Predicted(Presented):
    """The same of a prediction, which explains and draws itself, too."""

    _text: ClassVar[str] = "load_text:shown"

    def explain(self) -> str:
        """The cost tree: seconds, share, interval, what bounds each part, formulas, and where constants come from."""
        return reported("text:explain_text", self)

    def to_frame(self) -> pd.DataFrame:
        """A row for each metric: value, 90 % interval and unit."""
        return reported("prediction_frame:metrics_frame", self)

    def plot(self) -> Any:
        """Metrics with intervals, memory, and where time goes, as a matplotlib figure."""
        return reported("prediction_figure:prediction_figure", self)

    def to_html(self, path: str | Path | None = None) -> str:
        """The whole report as one page that needs no network; written to ``path`` where one is given."""
        return reported("html.page:report_html", self, path)

    def _repr_html_(self) -> str:
        """What a notebook shows: metrics, memory, and where time goes."""
        return reported("html.page:fragment_html", self)
