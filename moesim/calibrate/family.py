"""What a kernel family is: its form, its rows, and how rows are held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from moesim.cost.forms.form import Form, Timing
from moesim.cost.gpu import GpuNumbers
from moesim.cost.tiles import TunedTiles

if TYPE_CHECKING:
    import pandas as pd

Evaluate = Callable[[Mapping[str, float]], Timing]


@dataclass(frozen=True)
class Family:
    """A kernel family: its form, its rows, and how rows are held out."""

    name: str
    form: Form
    table: str
    select: Callable[[pd.DataFrame, GpuNumbers], pd.DataFrame]
    operation: Callable[[pd.DataFrame], Any]
    group: Callable[[pd.DataFrame], pd.Series]
    scheme: str
    """What is left out together, in words."""
    arithmetic: str = "bfloat16"
    folds: int | None = None
    """None leaves out one group at a time."""
    kernel: str = ""
    weights_for_l2_rule: bool = True
    rotated: bool = False
    """Its rows repeat a call, and what is in L2 by then decides. Where a row says over how many sets of operands it
    rotated, each has that share of L2."""
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    price: Callable[[Family, pd.DataFrame, GpuNumbers, TunedTiles], Evaluate] | None = None
    """How its rows are priced, where that takes more than the form."""

    def evaluator(self, table: pd.DataFrame, gpu: GpuNumbers, tuned: TunedTiles) -> Evaluate:
        """A function of the parameters that prices every row of ``table``."""
        if self.rotated and "copies" in table:
            gpu = replace(gpu, l2_bytes=gpu.l2_bytes / table["copies"].to_numpy(float))
        if self.price:
            return self.price(self, table, gpu, tuned)
        op = self.operation(table)
        return lambda p: self.form.seconds(p, op, gpu)
