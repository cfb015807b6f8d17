"""How an engine brings a layer's tokens to its experts: fused kernels, loops, a number of slots, sparse blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim.engines.settings import EngineSettings
from moesim.experts.capacity import BlockSparse, Capacity, Dropping, StaticCapacity


@dataclass(frozen=True)
class Dispatch:
    """Settings of ``engine.moe_*`` that are not the plan's."""

    kind: str = "fused"
    factor: float | None = None
    share: float | None = None
    one_hot: bool = False
    """Slots are filled and read by products with one-hot masks, not by sorting."""
    all_rows: bool = True
    """A loop's experts compute every row and mask the others' out, so shapes are fixed and graphs run them."""
    degree: int | None = 1
    """Parts that an exchange and its experts are cut into so that they overlap; None is the fastest of 1, 2, 4, 8."""

    @classmethod
    def of(cls, engine: EngineSettings) -> Dispatch:
        degree = engine.moe_pipeline_degree
        one_hot, all_rows = engine.moe_dispatch_kernel == "one_hot", engine.moe_loop_rows == "all"
        return cls(
            engine.moe_dispatch, engine.moe_capacity_factor, engine.moe_capacity_share, one_hot, all_rows,
            None if degree == "auto" else degree,
        )  # fmt: skip

    @property
    def bounded(self) -> bool:
        """Whether experts have a fixed number of slots."""
        return self.kind in {"static_capacity", "dropping"}

    @property
    def in_graphs(self) -> bool:
        """Whether shapes are known before tokens are routed."""
        return self.kind != "looped" or self.all_rows

    @property
    def degrees(self) -> tuple[int, ...]:
        return (1, 2, 4, 8) if self.degree is None else (self.degree,)

    def capacity(self, groups: int) -> Capacity:
        """Slots of an expert where tokens come in so many groups."""
        return Capacity(self.factor, self.share, groups)

    def loads(self, loads: Any, experts: int, groups: int) -> Any:
        """What a rank that holds so many experts computes, of what tokens ask for."""
        if self.kind == "static_capacity":
            return StaticCapacity(loads, experts, self.capacity(groups))
        if self.kind == "dropping":
            return Dropping(loads, experts, self.capacity(groups))
        return BlockSparse(loads, experts) if self.kind == "block_sparse" else loads


FUSED = Dispatch()
