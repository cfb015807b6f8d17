"""What papers claim, and how each claim is asked of the simulator: two files that belong together."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from moesim import paths
from moesim.files.quantities import Strict
from moesim.files.table import read_table
from moesim.files.validation import read_as

FOLDER = paths.CALIBRATION / "claims"
SHIPPED = FOLDER / "published-claims.csv"
QUESTIONS = FOLDER / "questions.yaml"
COLUMNS = (
    "source",
    "id",
    "model",
    "gpu",
    "n_gpu",
    "comparison",
    "condition",
    "claim_low",
    "claim_high",
    "unit",
    "note",
)


@dataclass(frozen=True)
class Claim:
    """One row: what a paper says, in its own unit."""

    id: str
    source: str
    model: str
    comparison: str
    condition: str
    low: float | None
    """None is an order or a sign."""
    high: float | None
    """None is no upper end."""
    unit: str
    note: str

    @property
    def text(self) -> str:
        """The claimed range in a few words."""
        if self.low is None:
            return self.unit
        if self.high is None:
            return f">= {self.low:g} {self.unit}"
        return f"{self.low:g} {self.unit}" if self.low == self.high else f"{self.low:g} to {self.high:g} {self.unit}"


Ask = Literal["compare", "value", "order", "cells", "formula", "not_askable"]
How = Literal["change_percent", "lower_percent", "gap_percent", "ratio", "inverse_ratio"]


class Question(Strict):
    """How a claim is asked."""

    ask: Ask
    base: dict[str, Any] = {}
    """A scenario."""
    other: dict[str, Any] = {}
    """Settings that differ on the other side, by dotted name."""
    over: list[dict[str, Any]] = Field(default_factory=lambda: [dict[str, Any]()], min_length=1)
    """Settings of both sides, one point each; comparisons are averaged over points."""
    sides: list[dict[str, Any]] = []
    """Of an order, or of a gap: each side's settings."""
    metric: str = "output_throughput"
    how: How = "change_percent"
    formula: str = ""
    values: dict[str, Any] = {}
    """What a formula takes."""
    bound: bool = False
    """A claim beyond what work at peak gives cannot hold: the same comparison of bytes and arithmetic alone, no fit."""
    why: str = ""
    """What was assumed, or why it cannot be asked."""
    study: str = ""
    """The picture it stands on."""

    @model_validator(mode="after")
    def _whole(self) -> Question:
        if self.ask == "not_askable" and not self.why:
            raise ValueError("not_askable needs 'why'")
        if self.ask == "formula" and not self.formula:
            raise ValueError(f"{self.ask} needs 'formula'")
        if self.ask in {"order", "cells"} and not self.sides:
            raise ValueError(f"{self.ask} needs 'sides'")
        return self


class Study(Strict):
    """A grid and its picture."""

    title: str
    base: dict[str, Any]
    axis: str
    """Dotted name of what varies along the picture."""
    values: list[Any] = Field(min_length=2)
    lines: list[dict[str, Any]] = Field(min_length=1)
    """Settings of each line; ``_name`` is what it is called."""
    metric: str = "output_throughput"
    fixed_model: bool = False
    """The study is of its own models: another cannot be named."""


class Questions(Strict):
    """The whole file."""

    source: str
    questions: dict[str, Question]
    studies: dict[str, Study] = {}


def read_claims(path: Path = SHIPPED) -> list[Claim]:
    """The rows of a file of claims. Raises SpecError."""
    return read_table(path, COLUMNS, _claim)


def _claim(row: dict[str, str]) -> Claim:
    """A row of the file. Raises ValueError."""
    try:
        low, high = (float(row[name]) if row[name] else None for name in ("claim_low", "claim_high"))
        if not all(value is None or isfinite(value) for value in (low, high)):
            raise ValueError
    except ValueError:
        raise ValueError("claim_low and claim_high must be finite numbers or empty") from None
    return Claim(
        row["id"], row["source"], row["model"], row["comparison"], row["condition"], low, high, row["unit"], row["note"]
    )


def read_questions(path: Path = QUESTIONS) -> Questions:
    """How claims are asked. Raises SpecError."""
    return read_as(Questions, path)[0]
